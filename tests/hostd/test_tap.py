"""A tap of the host as a port of a switch, with raw sockets of the kernel at its other end."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import guestd
import hostd
from guestd.drivers.net import NetDriver
from hostd import Machine, MachineError

A, WORLD = bytes([2, 0, 0, 0, 0, 1]), bytes([2, 0, 0, 0, 0, 9])
ETHERTYPE = 0x88B5  # for experiments (IEEE 802): the kernel says things of its own, too
EVERYBODY = b"\xff" * 6


def frame(destination: bytes, source: bytes, payload: bytes) -> bytes:
    return destination + source + ETHERTYPE.to_bytes(2, "big") + payload


def machine(folder: Path, tap: str) -> Machine:
    return Machine.from_tables({"devices": {"a": {"model": "net", "tap": tap}}}, folder)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@pytest.fixture
def tap() -> Iterator[str]:
    """A name for one."""
    if os.geteuid() != 0 or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("a tap needs root and /dev/net/tun")
    if shutil.which("ip") is None:
        pytest.skip("ip is not installed")
    yield f"hostd{os.getpid()}"


async def experiments(driver: NetDriver, count: int) -> list[bytes]:
    """The next *count* frames of ours."""
    got: list[bytes] = []
    while len(got) < count:
        got += [each for each in await driver.receive() if each[12:14] == ETHERTYPE.to_bytes(2, "big")]
    return got


async def test_frames_go_into_the_world_and_come_from_it(tap: str, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with hostd.serve(machine(tmp_path, tap), tmp_path / "run") as host, guestd.attach(host.socket) as guest:
        ip("link", "set", tap, "up")
        driver = await guest.bind("a")
        assert isinstance(driver, NetDriver)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE)) as world:
            world.bind((tap, ETHERTYPE))
            world.setblocking(False)
            out = [frame(WORLD, A, bytes([n]) * 1400) for n in range(50)]
            await driver.send(out)
            assert [await loop.sock_recv(world, 2000) for _ in out] == out
            back = [frame(to, WORLD, bytes([n]) * 1000) for n, to in enumerate([A, EVERYBODY] * 50)]
            for each in back:
                await loop.sock_sendall(world, each)
            assert await experiments(driver, len(back)) == back


async def test_an_interface_that_is_down_or_deleted_harms_nobody(
    tap: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with hostd.serve(machine(tmp_path, tap), tmp_path / "run") as host, guestd.attach(host.socket) as guest:
        driver = await guest.bind("a")
        assert isinstance(driver, NetDriver)
        await driver.send([frame(EVERYBODY, A, b"it is down")])
        ip("link", "delete", tap)
        while "the interface was deleted" not in caplog.text:
            await driver.send([frame(EVERYBODY, A, b"it is gone")])
        host.plug_table("b", {"model": "net"})
        other = await guest.bind("b")
        assert isinstance(other, NetDriver)
        await driver.send([frame(EVERYBODY, A, b"to the other card")])
        assert await other.receive() == [frame(EVERYBODY, A, b"to the other card")]
        await host.unplug("a", surprise=True)
        host.plug_table("a", {"model": "net", "tap": tap})  # made anew
        ip("link", "show", tap)
    assert caplog.text.count("the interface was deleted") == 1  # it is not looked at again


async def test_an_interface_has_one_user_and_is_gone_with_it(tap: str, tmp_path: Path) -> None:
    async with hostd.serve(machine(tmp_path, tap), tmp_path / "run") as host:
        with pytest.raises(MachineError, match=f"{tap}.*busy"):
            host.plug_table("b", {"model": "net", "tap": tap})
    with pytest.raises(subprocess.CalledProcessError):
        ip("link", "show", tap)


async def test_what_is_no_tap_is_refused(tap: str, tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="lo: it is there, and no tap"):
        async with hostd.serve(machine(tmp_path, "lo"), tmp_path / "run"):
            pass
