"""Serial ports with their driver, on sockets and terminals: many at once, plugged and unplugged, speeds, breaks."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import guestd
import hostd
from guestd.drivers.tty import TtyDriver
from hcall import numbers
from hcall.errors import BadArgument, NoSuchCall, StaleHandle, WouldBlock
from hcall.formats.vuart import Param
from hostd import Machine, MachineError
from hostd.devices.tty import Tty

SECONDS = 10  # after which a test says that something hangs
SPEEDS = [(9600, termios.B9600), (115200, termios.B115200), (4_000_000, termios.B4000000)]


@contextlib.asynccontextmanager
async def served(folder: Path, **tables: dict[str, object]) -> AsyncIterator[hostd.Host]:
    devices = {name: {"model": "tty", **table} for name, table in tables.items()}
    async with hostd.serve(Machine.from_tables({"devices": devices}, folder), folder / "run") as host:
        async with asyncio.timeout(SECONDS):
            yield host


async def bound(guest: guestd.AsyncGuest, name: str = "tty") -> TtyDriver:
    driver = await guest.bind(name)
    assert isinstance(driver, TtyDriver)
    return driver


async def peer_of(driver: TtyDriver) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    endpoint = await driver.dev.property("endpoint")
    return await asyncio.open_unix_connection(endpoint.removeprefix("unix:"))


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    await writer.wait_closed()


def pattern(count: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(count)


async def test_ports_come_and_go_while_the_others_carry_every_byte(tmp_path: Path) -> None:
    names = [f"tty{n}" for n in range(4)]
    async with served(tmp_path) as host, guestd.attach(host.socket) as guest:

        async def use(name: str, seed: int) -> None:
            driver = await bound(guest, name)
            assert driver.label == f"port {seed}"
            reader, writer = await peer_of(driver)
            data = pattern(200_000, seed)
            writer.write(data[::-1])
            _, sent, received = await asyncio.gather(
                driver.write_all(data), reader.readexactly(len(data)), driver.read_exactly(len(data))
            )
            assert (sent, received) == (data, data[::-1])
            await hang_up(writer)

        for turn in range(2):
            for number, name in enumerate(names):
                table = {"model": "tty", "backing": f"unix:{tmp_path}/{name}.sock", "name": f"port {number + turn}"}
                host.plug_table(name, table)
            await asyncio.gather(*(use(name, number + turn) for number, name in enumerate(names)))
            gone = await bound(guest, names[0])
            await host.unplug("/tty0", surprise=True)
            with pytest.raises(StaleHandle):
                await gone.read(1)
            assert not (tmp_path / "tty0.sock").exists()
            await asyncio.gather(*(use(name, number + turn) for number, name in list(enumerate(names))[1:]))
            for name in names[1:]:
                await guest.unbind(name)
                assert await host.unplug(f"/{name}")
    assert not any((tmp_path / f"{name}.sock").exists() for name in names)


async def test_two_ports_never_mix(tmp_path: Path) -> None:
    async with (
        served(tmp_path, one={"backing": "unix:one.sock"}, two={"backing": "unix:two.sock"}) as host,
        guestd.attach(host.socket) as guest,
    ):
        one, two = await bound(guest, "one"), await bound(guest, "two")
        (reader, writer), (other_reader, other_writer) = await peer_of(one), await peer_of(two)
        await one.write_all(b"for one")
        await two.write_all(b"for two")
        assert await reader.readexactly(7) == b"for one" and await other_reader.readexactly(7) == b"for two"
        writer.write(b"from one")
        other_writer.write(b"from two")
        assert await one.read_exactly(8) == b"from one" and await two.read_exactly(8) == b"from two"
        await hang_up(writer)
        await hang_up(other_writer)


async def test_the_blocking_client_has_the_same_driver(tmp_path: Path) -> None:
    async with served(tmp_path, tty={"backing": "cmd:stty -echo; echo ready; cat", "name": "echo"}) as host:

        def blocking() -> tuple[str, int, bytes]:
            with guestd.attach_blocking(host.socket) as guest:
                tty = guest["tty"]
                tty.read_until(b"ready\r\n")
                tty.set_baud(9600)
                tty.write_all(b"hello\n")
                return guest.bind("tty").label, tty.baud(), tty.read_until(b"\n")

        assert await asyncio.to_thread(blocking) == ("echo", 9600, b"hello\r\n")


async def test_an_unread_guest_stops_the_peer_and_an_unread_peer_the_guest_and_nothing_is_lost(tmp_path: Path) -> None:
    async with served(tmp_path, tty={"backing": "unix:line.sock"}) as host, guestd.attach(host.socket) as guest:
        driver = await bound(guest)
        data = pattern(3_000_000, 1)
        written = 0
        with pytest.raises(WouldBlock):
            while True:
                written += await driver.write(data[written : written + 4096])
        assert written == 2 * 65536  # what the device and its backing hold while nobody is there
        reader, writer = await peer_of(driver)
        rest = asyncio.ensure_future(driver.write_all(data[written:]))
        assert await reader.readexactly(len(data)) == data
        await rest
        writer.write(data)
        assert await driver.read_exactly(len(data)) == data
        await hang_up(writer)


@pytest.mark.spec("TTY-4")
async def test_a_peer_that_vanishes_amid_a_transfer_leaves_a_port_that_works(tmp_path: Path) -> None:
    async with served(tmp_path, tty={"backing": "unix:line.sock"}) as host, guestd.attach(host.socket) as guest:
        driver = await bound(guest)
        reader, writer = await peer_of(driver)
        data = pattern(1_000_000, 2)
        writing = asyncio.ensure_future(driver.write_all(data))
        assert await reader.readexactly(100_000) == data[:100_000]
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        reader, writer = await peer_of(driver)
        rest = await reader.readexactly(1000)
        missed = data.find(rest)
        assert missed >= 100_000  # what the last peer had been sent, and did not read, is lost with it
        assert await reader.readexactly(len(data) - missed - 1000) == data[missed + 1000 :]
        await writing
        with pytest.raises(WouldBlock):  # the device sees no end, only nothing
            await driver.read(1)
        writer.write(b"hello")
        assert await driver.read_exactly(5) == b"hello"
        await hang_up(writer)


async def test_nothing_typed_for_one_guest_reaches_the_next_and_what_it_wrote_reaches_the_peer(tmp_path: Path) -> None:
    async with served(tmp_path, tty={"backing": "unix:line.sock"}) as host:
        async with guestd.attach(host.socket) as guest:
            driver = await bound(guest)
            await driver.write_all(b"written before anybody looked\n")
            reader, writer = await peer_of(driver)
            writer.transport.set_write_buffer_limits(0)
            writer.write(b"secret" * 20_000)  # more than the device has room for: the rest waits in the socket
            await writer.drain()
            assert await driver.read_some(6) == b"secret"
        await host.guests.wait_for(lambda: not host.guests.by_token)
        async with guestd.attach(host.socket) as guest:
            driver = await bound(guest)
            with pytest.raises(WouldBlock):
                await driver.read(100)
            assert await reader.readline() == b"written before anybody looked\n"
            writer.write(b"new")
            assert await driver.read_exactly(3) == b"new"
        await hang_up(writer)


async def test_guestd_write_ends_when_all_of_it_is_out_of_the_device(tmp_path: Path) -> None:
    data = pattern(2 * 65536, 3)  # what the device and its backing hold while nobody is there
    async with served(tmp_path, tty={"backing": "unix:line.sock"}) as host:
        command = [sys.executable, "-m", "guestd", "write", "tty", "--socket", str(host.socket)]
        process = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        talking = asyncio.ensure_future(process.communicate(data))
        tty = host.tree.find("/tty").device
        assert isinstance(tty, Tty)
        while tty.get_param(Param.TX_BYTES) < 65536:  # noqa: ASYNC110  # nothing else tells
            await asyncio.sleep(0)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "line.sock")
        assert await reader.readexactly(len(data)) == data
        assert (await talking)[1] == b"guestd: 131072 bytes written to tty\n" and process.returncode == 0
        await hang_up(writer)


# Names and speeds.


async def test_name_and_speed_are_what_the_machine_file_says(tmp_path: Path) -> None:
    async with (
        served(tmp_path, plain={}, gps={"name": "GPS receiver", "baud": 4800}) as host,
        guestd.attach(host.socket) as guest,
    ):
        plain, gps = await bound(guest, "plain"), await bound(guest, "gps")
        assert (plain.label, await plain.baud()) == ("", 115200)
        assert (gps.label, await gps.baud()) == ("GPS receiver", 4800)
        for driver, name in ((plain, "plain"), (gps, "gps")):
            assert (await driver.dev.property("name"), driver.dev.name) == (name, name)


@pytest.mark.spec("TTY-2")
async def test_a_guests_speed_is_its_own_and_the_next_one_finds_the_keys(tmp_path: Path) -> None:
    async with served(tmp_path, tty={"baud": 9600}) as host, guestd.attach(host.socket) as guest:
        for baud in (300, 31250):
            driver = await bound(guest)
            assert await driver.baud() == 9600
            await driver.set_baud(baud)
            assert await driver.baud() == baud
            await guest.unbind("tty")
        assert host.tree.find("/tty").properties()["current-speed"] == 9600


async def test_a_speed_is_put_back_even_if_its_guest_did_nothing_else(tmp_path: Path) -> None:
    async with served(tmp_path, tty={"baud": 9600}) as host, guestd.attach(host.socket, drivers=[]) as guest:
        handle, calls, _, _ = await guest.core((await guest.found("tty")).node, numbers.OPEN, 0)
        for status in (1, 3, 11, 15):
            await guest.core(handle, numbers.SET_STATUS, status)
        await guest.call(handle, calls["set_baud"], (300,))
        await guest.core(handle, numbers.CLOSE)
        assert host.tree.find("/tty").properties()["current-speed"] == 9600


@pytest.mark.parametrize(("baud", "code"), SPEEDS)
async def test_a_terminal_behind_the_port_shows_the_speed(tmp_path: Path, baud: int, code: int) -> None:
    async with served(tmp_path, tty={"baud": 1200}) as host, guestd.attach(host.socket) as guest:
        driver = await bound(guest)
        terminal = os.open(await driver.dev.property("endpoint"), os.O_RDWR | os.O_NOCTTY)
        assert termios.tcgetattr(terminal)[4:6] == [termios.B1200] * 2
        await driver.set_baud(baud)
        assert termios.tcgetattr(terminal)[4:6] == [code] * 2
        os.write(terminal, b"raw\r")  # and is as raw as before
        assert await driver.read_exactly(4) == b"raw\r"
        os.close(terminal)


@pytest.mark.parametrize("baud", [0, -1, 4_000_001, 1 << 62])
@pytest.mark.spec("TTY-2")
async def test_a_speed_that_no_line_has_is_refused(tmp_path: Path, baud: int) -> None:
    with pytest.raises(MachineError, match=f"devices.tty.baud: must be 1 to 4000000, not {baud}"):
        async with served(tmp_path, tty={"baud": baud}):
            pytest.fail("it was served")
    async with served(tmp_path, tty={}) as host, guestd.attach(host.socket) as guest:
        driver = await bound(guest)
        with pytest.raises(BadArgument, match="1 to 4000000"):
            await driver.set_baud(baud)
        assert await driver.baud() == 115200


# Breaks.


@pytest.mark.spec("TTY-1", "CON-3")
async def test_a_break_interrupts_the_program_at_a_terminal_and_a_socket_has_none(tmp_path: Path) -> None:
    tables = {"shell": {"backing": "cmd:stty -echo; trap : INT; sh -c 'echo ready; exec sleep 1000'; echo broken"},
              "line": {"backing": "unix:line.sock"}}  # fmt: skip
    async with served(tmp_path, **tables) as host, guestd.attach(host.socket) as guest:
        shell, line = await bound(guest, "shell"), await bound(guest, "line")
        await shell.read_until(b"ready\r\n")
        await shell.send_break()
        await shell.read_until(b"broken")
        with pytest.raises(NoSuchCall, match="no terminal"):
            await line.send_break()


@pytest.mark.spec("TTY-3")
async def test_a_break_from_the_hosts_user_reaches_the_guest_that_is_there(tmp_path: Path) -> None:
    async with served(tmp_path, tty={}, other={}) as host, guestd.attach(host.socket) as guest:
        driver, other = await bound(guest), await bound(guest, "other")
        host.tree.find("/tty").device.receive_break()
        await driver.break_received.wait()
        waiting = asyncio.ensure_future(other.break_received.wait())
        await guest.nop()
        assert not waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
