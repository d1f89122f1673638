"""The slow network with the kernel's IP behind it: a tun, two stacks of TCP, and what becomes of an interface."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Hashable, Iterator
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from pump import pumped

import guestd
import hostd
from guestd.drivers.ppp import PppDriver
from hcall.errors import IoError
from hcall.formats import ipv4
from hcall.kernel.tap import open_tun
from hostd import Machine
from hostd.backings.ip import Tun
from hostd.devices.ppp import Ppp

SECONDS = 20  # after which a test says that something hangs
TUN = f"hostdp{os.getpid() % 100000}"
HOST, GUEST = "198.18.77.1", "198.18.77.2"  # RFC 2544: for tests
PORT = 7777


@pytest.fixture(autouse=True)
def _interfaces_can_be_made() -> None:
    if os.geteuid() != 0 or shutil.which("ip") is None or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("to make an interface takes root, iproute2 and /dev/net/tun")


@contextlib.asynccontextmanager
async def attached(folder: Path) -> AsyncIterator[tuple[hostd.Host, guestd.AsyncGuest]]:
    """A host with one device, which has a tun behind it, and its guest."""
    keys = {"model": "ppp", "backing": f"tun:{TUN}", "local": HOST, "remote": GUEST}
    machine = Machine.from_tables({"devices": {"ppp": keys}}, folder)
    async with (
        hostd.serve(machine, folder / "run") as host,
        asyncio.timeout(SECONDS),
        guestd.attach(host.socket, drivers=[PppDriver]) as guest,
    ):
        yield host, guest


async def opened(guest: guestd.AsyncGuest) -> PppDriver:
    driver = await guest.bind("ppp")
    assert isinstance(driver, PppDriver)
    assert await driver.up() == (GUEST, HOST)
    return driver


async def deleted(name: str) -> None:
    await asyncio.to_thread(subprocess.run, ["ip", "link", "delete", name], check=True)


def exchange(address: tuple[str, int], sent: list[bytes]) -> list[bytes]:
    """What comes back for each datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(SECONDS)
        client.connect(address)
        came = []
        for data in sent:
            client.send(data)
            came.append(client.recv(2000))
        return came


async def test_the_kernel_is_behind_a_tun(tmp_path: Path) -> None:
    mine = IPv4Address(GUEST)
    async with attached(tmp_path) as (host, guest):
        driver = await opened(guest)
        await driver.send(ipv4.echo_request(mine, IPv4Address(HOST), 3, 4, b"kernel?" * 100))
        pong = ipv4.Packet.decode(await driver.receive())
        assert pong is not None and pong.payload[:2] == b"\0\0" and not ipv4.checksum(pong.payload)
        assert pong.payload[4:] == b"\0\x03\0\x04" + b"kernel?" * 100

        sent = [number.to_bytes(4) + os.urandom(1000) for number in range(200)]
        exchanging = asyncio.create_task(asyncio.to_thread(exchange, (GUEST, 7), sent))
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as other, contextlib.suppress(OSError):
            other.sendto(b"IPv6", ("ff02::1", 9, 0, socket.if_nametoindex(TUN)))  # where the kernel has it
        answered = 0
        while answered < len(sent):  # the guest is the echo: the kernel checks our checksums
            packet = await driver.receive()
            assert packet[0] >> 4 == 4  # IPv6 has an NCP of its own
            reply = ipv4.answer(packet, mine)
            if reply is not None:  # else it is a multicast of the kernel's own
                await driver.send(reply)
                answered += 1
        assert await exchanging == sent

        waiting = asyncio.create_task(driver.receive())
        await driver.dev.property("state")
        await deleted(TUN)
        with pytest.raises(IoError, match="is gone"):
            await waiting
        await driver.disconnected.wait()
        await driver.link_down.wait()
        device = host.tree.find("/ppp").device
        assert isinstance(device, Ppp)
        device.set_link(True)  # that does not bring it back
        assert (await driver.dev.property("state"), await driver.dev.property("addresses")) == ("dead", ())
        await guest.unbind("ppp")
        await opened(guest)  # it is made anew
    assert TUN not in [name for _, name in socket.if_nameindex()]


async def test_an_interface_that_was_deleted_while_nobody_was_there_is_made_anew(tmp_path: Path) -> None:
    async with attached(tmp_path) as (_, guest):
        await deleted(TUN)
        await opened(guest)


async def test_what_is_no_ipv4_does_not_get_to_the_kernel(tmp_path: Path) -> None:
    def taken() -> int:
        return int(Path(f"/sys/class/net/{TUN}/statistics/rx_packets").read_text())

    async with attached(tmp_path) as (_, guest):
        driver = await opened(guest)
        before = taken()
        await driver.send(b"\x60" + bytes(5) + b"\x3b\x40" + bytes(32))  # IPv6 with nothing in it
        await driver.send(b"")
        await driver.send(ipv4.echo_request(IPv4Address(GUEST), IPv4Address(HOST), 1, 1, b"hello"))
        assert (await driver.receive()).endswith(b"hello")
        assert taken() == before + 1


class FullLink:
    """A link whose guest reads nothing, until it has room."""

    local, remote, mtu = IPv4Address(HOST), IPv4Address(GUEST), 1500
    has_room = False

    def __init__(self) -> None:
        self.common: dict[Hashable, Any] = {}
        self.delivered: asyncio.Queue[bytes] = asyncio.Queue()

    def deliver(self, packet: bytes) -> None:
        self.delivered.put_nowait(packet)

    def hang_up(self) -> None:
        raise AssertionError("the interface is there")


async def test_what_the_kernel_kept_for_one_guest_is_not_for_the_next() -> None:
    link, tun = FullLink(), Tun(TUN)
    tun.start(link)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(100):
                sender.sendto(b"secret", (GUEST, 9))
            tun.reset()
            link.has_room = True
            sender.sendto(b"for the next", (GUEST, 9))
            async with asyncio.timeout(SECONDS):
                while not (packet := await link.delivered.get()).endswith(b"for the next"):
                    assert b"secret" not in packet
    finally:
        tun.stop()


@contextlib.contextmanager
def interface_elsewhere(name: str) -> Iterator[int]:
    """The descriptor of a tun in a network namespace, and so with a TCP/IP, of its own; both are called *name*."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    fd = open_tun(name)
    try:
        ip("netns", "add", name)
        try:
            ip("link", "set", name, "netns", name)
            ip("-n", name, "address", "add", GUEST, "peer", HOST, "dev", name)
            ip("-n", name, "link", "set", name, "up")
            yield fd
        finally:
            ip("netns", "delete", name)
    finally:
        os.close(fd)


@contextlib.asynccontextmanager
async def running(*command: str, pipe: int | None = None) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def test_two_kernels_of_tcp_move_a_megabyte_each_way_at_once(tmp_path: Path) -> None:
    """The host's stack is behind the device, a namespace's behind the guest: all they share is the slow network."""
    if shutil.which("socat") is None:
        pytest.skip("socat is not installed")
    data = os.urandom(1 << 20)
    elsewhere, socat = f"{TUN}g", ("socat", "-t", str(SECONDS))
    pieces = ("-b", str(select.PIPE_BUF))  # larger ones could make it wait for itself
    echo = (*socat, *pieces, f"TCP-LISTEN:{PORT},bind={HOST},reuseaddr", "PIPE")
    client = ("ip", "netns", "exec", elsewhere, *socat, "-", f"TCP:{HOST}:{PORT},retry=200,interval=0.02")
    async with attached(tmp_path) as (_, guest):
        driver = await opened(guest)
        with interface_elsewhere(elsewhere) as fd:
            async with pumped(fd, driver.send, driver.receive):
                async with running(*echo), running(*client, pipe=subprocess.PIPE) as process:
                    came, _ = await process.communicate(data)
                assert came == data
