"""The console with its driver, on real terminals, commands and files: model and driver together."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import select
import signal
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

import guestd
import hostd
from guestd.drivers.console import ConsoleDriver
from hcall import numbers
from hcall.clock import Clock, ManualClock
from hcall.errors import BadArgument, IoError, NoSpace, NoSuchCall, NotAllowed, WouldBlock
from hcall.programs.endpoint import host_and_port
from hostd import Machine
from hostd.stream import Stream

RX_BYTES, STATUS, DISCONNECTED = 4, 7, 4  # parameters, and a bit of the last
SECONDS = 10  # after which a test says that something hangs
Bound: TypeAlias = "tuple[hostd.Host, guestd.AsyncGuest, ConsoleDriver]"


@contextlib.asynccontextmanager
async def served(folder: Path, backing: str, clock: Clock | None = None) -> AsyncIterator[hostd.Host]:
    devices = {"console": {"model": "console", "backing": backing}, "rng": {"model": "rng"}}
    async with hostd.serve(Machine.from_tables({"devices": devices}, folder), folder / "run", clock) as host:
        async with asyncio.timeout(SECONDS):
            yield host


@contextlib.asynccontextmanager
async def console(folder: Path, backing: str, clock: Clock | None = None) -> AsyncIterator[Bound]:
    async with served(folder, backing, clock) as host, guestd.attach(host.socket) as guest:
        yield host, guest, await bound(guest)


async def bound(guest: guestd.AsyncGuest) -> ConsoleDriver:
    driver = await guest.bind("console")
    assert isinstance(driver, ConsoleDriver)
    return driver


async def to_the_end(driver: ConsoleDriver) -> bytes:
    data = b""
    while part := await driver.read_some():
        data += part
    return data


def ends(pidfd: int) -> bool:
    """Waits for a process to end."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(5000))


async def test_what_is_written_comes_back_from_a_command_that_echoes(host: hostd.Host) -> None:
    async with guestd.attach(host.socket) as guest:
        driver = await bound(guest)
        await driver.write_all(b"hello\n")
        assert await driver.read_until(b"hello\r\nhello\r\n") == b"hello\r\nhello\r\n"  # the terminal's echo, and cat


async def test_the_same_driver_on_the_blocking_client(host: hostd.Host) -> None:
    def blocking() -> bytes:
        with guestd.attach_blocking(host.socket) as guest:
            guest["console"].write_all(b"hello\n")
            return guest["console"].read_until(b"hello\r\nhello\r\n")  # type: ignore[no-any-return]

    assert await asyncio.to_thread(blocking) == b"hello\r\nhello\r\n"


async def test_a_command_sees_the_size_that_the_guest_gives_its_terminal(tmp_path: Path) -> None:
    async with console(tmp_path, "cmd:read go; stty size") as (_, _, driver):
        assert tuple(await driver.winsize()) == (80, 24)
        await driver.set_winsize(132, 43)
        assert tuple(await driver.winsize()) == (132, 43)
        await driver.write_all(b"\n")
        assert (await to_the_end(driver)).split() == [b"43", b"132"]


@pytest.mark.parametrize(("columns", "rows"), [(0, 24), (80, 0), (-1, 24), (80, 1 << 16), (1 << 40, 24)])
@pytest.mark.spec("CON-2")
async def test_a_size_that_no_terminal_has_is_refused(host: hostd.Host, columns: int, rows: int) -> None:
    async with guestd.attach(host.socket) as guest:
        driver = await bound(guest)
        with pytest.raises(BadArgument):
            await driver.set_winsize(columns, rows)
        assert tuple(await driver.winsize()) == (80, 24)


@pytest.mark.spec("CON-5")
async def test_a_size_that_changes_at_the_ptys_other_end_is_told_once(tmp_path: Path) -> None:
    clock = ManualClock()
    async with console(tmp_path, "pty:", clock) as (_, guest, driver):
        await driver.set_winsize(90, 30)  # the guest's own change is no news to it
        clock.turn(3)
        slave = os.open(await driver.dev.property("endpoint"), os.O_RDWR | os.O_NOCTTY)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 50, 100, 0, 0))
        os.close(slave)
        resized = driver.dev.vectors["resized"]
        assert (await guest.core(0, numbers.POLL, 0))[0][1][resized] == 0
        clock.turn(1)
        await driver.resized.wait()
        assert tuple(await driver.winsize()) == (100, 50)
        clock.turn(3)
        assert (await guest.core(0, numbers.POLL, 0))[0][1][resized] == 1


async def test_a_break_interrupts_what_runs_in_the_foreground(tmp_path: Path) -> None:
    async with console(tmp_path, "cmd:/bin/sh") as (_, _, driver):
        # The quotes keep the terminal's echo of the line from looking like its output.
        await driver.write_all(b"sh -c 'echo rea''dy; exec sleep 1000'\n")
        await driver.read_until(b"ready")
        await driver.send_break()
        await driver.write_all(b"echo al''ive\n")  # the shell goes on
        await driver.read_until(b"alive")


@pytest.mark.parametrize(
    ("wait", "says"),
    [(lambda driver: driver.write_all(bytes(9 << 16)), ""), (ConsoleDriver.settle, ": 65536 bytes have not")],
)
async def test_who_waits_for_a_command_that_does_not_read_is_told_when_it_ends(
    tmp_path: Path, wait: Callable[[ConsoleDriver], Awaitable[None]], says: str
) -> None:
    async with console(tmp_path, "cmd:stty raw -echo; echo ready; exec sleep 1000") as (_, _, driver):
        await driver.read_until(b"ready")
        _, pid, _ = (await driver.dev.property("endpoint")).split(maxsplit=2)
        written = 0
        with pytest.raises(WouldBlock):
            while True:
                written += await driver.write(bytes(4096))
        waiting = asyncio.ensure_future(wait(driver))
        for _ in range(4):  # calls during which it comes to wait
            await driver.winsize()
        assert not waiting.done()
        os.kill(int(pid.rstrip(":")), signal.SIGKILL)
        with pytest.raises(IoError, match=f"the other end is gone{says}"):
            await waiting


async def test_a_break_ends_a_command_and_flushes_what_waits(tmp_path: Path) -> None:
    async with console(tmp_path, "cmd:stty -echo; echo ready; exec sleep 1000") as (_, _, driver):
        await driver.read_until(b"ready\r\n")
        await driver.send_break()
        assert await to_the_end(driver) == b""
        await driver.disconnected.wait()
        await driver.send_break()  # nobody is there: no error


@pytest.mark.spec("CON-4", "N-7")
async def test_the_emergency_write_works_before_any_set_up_and_nothing_else_does(tmp_path: Path) -> None:
    async with served(tmp_path, "file:log") as host, guestd.attach(host.socket) as guest:
        handle, calls, _, _ = await guest.core((await guest.found("console")).node, numbers.OPEN, 0)
        for byte in b"panic":
            await guest.call(handle, calls["emergency_write"], (byte,))
        for byte in (-1, 256):
            with pytest.raises(BadArgument):
                await guest.call(handle, calls["emergency_write"], (byte,))
        for name, args in (("winsize", ()), ("write", (0,)), ("get_param", (0,))):
            with pytest.raises(NotAllowed, match="DRIVER_OK"):
                await guest.call(handle, calls[name], args, (b"x",) if name == "write" else ())
    assert (tmp_path / "log").read_bytes() == b"panic"


@pytest.mark.spec("STR-4")
async def test_a_command_that_exits_gives_its_data_then_the_end(tmp_path: Path) -> None:
    async with console(tmp_path, "cmd:read go; printf last-words; exit 3") as (_, guest, driver):
        await driver.write_all(b"\n")
        assert (await to_the_end(driver)).strip() == b"last-words"
        await driver.disconnected.wait()
        assert await driver.read_some() == b""
        with pytest.raises(IoError):
            await driver.write(b"x")
        await guest.unbind("console")
        fresh = await bound(guest)
        await fresh.write_all(b"\n")
        assert (await to_the_end(fresh)).strip() == b"last-words"


async def test_a_command_that_ended_before_a_guest_came_is_told_as_ended(tmp_path: Path) -> None:
    async with served(tmp_path, "cmd:printf early") as host, guestd.attach(host.socket) as guest:
        device = host.tree.find("/console").device
        assert isinstance(device, Stream)
        while not device.get_param(STATUS) & DISCONNECTED:
            await guest.nop()
        driver = await bound(guest)
        assert await to_the_end(driver) == b"early"
        ((_, counts),) = await guest.core(0, numbers.POLL, 0)
        assert counts[driver.dev.vectors["disconnected"]] == counts[driver.dev.vectors["rx_ready"]] == 1


@pytest.mark.parametrize("count", [1, 65536, 200_000])
async def test_all_output_of_a_command_comes_even_if_it_ends_first(tmp_path: Path, count: int) -> None:
    async with console(tmp_path, f"cmd:head -c {count} /dev/zero | tr '\\0' x") as (_, _, driver):
        assert await to_the_end(driver) == b"x" * count


@pytest.mark.spec("C-11")
async def test_the_next_guest_gets_a_fresh_command_and_nothing_of_the_last_one(tmp_path: Path) -> None:
    async with served(tmp_path, "cmd:stty -echo; sleep 1000 & echo $!; read line; echo got $line; wait") as host:
        pidfds = []
        seen = []
        for line in (b"secret", b"other"):
            async with guestd.attach(host.socket) as guest:
                driver = await bound(guest)
                command = int((await driver.dev.property("endpoint")).split()[1].rstrip(":"))
                background = int(await driver.read_until(b"\r\n"))
                pidfds += [os.pidfd_open(command), os.pidfd_open(background)]
                await driver.write_all(line + b"\n")
                seen.append((command, await driver.read_until(b"\r\n")))
            await host.guests.wait_for(lambda: not host.guests.by_token)
            assert all([await asyncio.to_thread(ends, pidfd) for pidfd in pidfds])
    assert seen[0][0] != seen[1][0] and [line for _, line in seen] == [b"got secret\r\n", b"got other\r\n"]
    for pidfd in pidfds:
        os.close(pidfd)


@pytest.mark.parametrize("use", ["set_winsize", "send_break"])
@pytest.mark.spec("STR-6")
async def test_whatever_a_guest_did_the_next_one_finds_a_console_as_new(tmp_path: Path, use: str) -> None:
    async with (
        served(tmp_path, "cmd:echo ready; exec sleep 1000") as host,
        guestd.attach(host.socket, drivers=[]) as guest,
    ):
        node = (await guest.found("console")).node
        for turn in range(2):
            handle, calls, _, _ = await guest.core(node, numbers.OPEN, 0)
            for status in (1, 3, 11, 15):
                await guest.core(handle, numbers.SET_STATUS, status)
            while not await guest.call(handle, calls["get_param"], (RX_BYTES,)):
                pass  # until the command runs
            if turn == 0:
                await guest.call(handle, calls[use], (100, 50) if use == "set_winsize" else ())
                while (
                    use == "send_break" and not await guest.call(handle, calls["get_param"], (STATUS,)) & DISCONNECTED
                ):
                    pass  # until the command is gone
            assert turn == 0 or tuple(await guest.call(handle, calls["winsize"])) == (80, 24)
            assert turn == 0 or not await guest.call(handle, calls["get_param"], (STATUS,)) & DISCONNECTED
            await guest.core(handle, numbers.CLOSE)


async def test_what_was_typed_for_one_guest_is_not_for_the_next(tmp_path: Path) -> None:
    async with served(tmp_path, "pty:") as host, guestd.attach(host.socket) as guest:
        driver = await bound(guest)
        slave = os.open(await driver.dev.property("endpoint"), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while await driver.get_param(RX_BYTES) < 65536 or os.write(slave, b"s" * 1000):
                os.write(slave, b"s" * 1000)
        await guest.unbind("console")
        os.set_blocking(slave, True)
        driver = await bound(guest)
        await asyncio.to_thread(os.write, slave, b"new\n")
        os.close(slave)
        assert await driver.read_until(b"\n") == b"new\n"


@pytest.mark.spec("STR-6")
async def test_early_output_is_kept_for_the_first_guest(tmp_path: Path) -> None:
    async with served(tmp_path, "cmd:echo booting; cat") as host, guestd.attach(host.socket) as guest:
        found = await guest.found("console")
        for _ in range(2):  # open and close without a look change nothing
            handle, *_ = await guest.core(found.node, numbers.OPEN, 0)
            await guest.core(handle, numbers.CLOSE)
        driver = await bound(guest)
        assert await driver.read_until(b"\r\n") == b"booting\r\n"


@pytest.mark.parametrize("backing", ["unix:console.sock", "tcp:localhost:0"])
async def test_a_socket_gets_what_was_said_before_anybody_connected_and_the_guest_what_is_typed(
    tmp_path: Path, backing: str
) -> None:
    async with console(tmp_path, backing) as (_, _, driver):
        for byte in b"panic: ":
            await driver.emergency_write(byte)
        await driver.write_all(b"hello\n")
        endpoint = await driver.dev.property("endpoint")
        if backing.startswith("unix:"):
            reader, writer = await asyncio.open_unix_connection(endpoint.removeprefix("unix:"))
        else:
            reader, writer = await asyncio.open_connection(*host_and_port(endpoint.removeprefix("tcp:")))
        assert await reader.readline() == b"panic: hello\n"
        writer.write(b"typed\n")
        assert await driver.read_until(b"\n") == b"typed\n"
        assert tuple(await driver.winsize()) == (0, 0)
        with pytest.raises(NoSuchCall, match="no terminal"):
            await driver.set_winsize(80, 24)
        writer.close()
        await writer.wait_closed()


async def test_a_log_file_is_appended_to_by_one_guest_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("before\n")
    async with served(tmp_path, "file:log") as host:
        for line in (b"one\n", b"two\n" * 50_000):
            async with guestd.attach(host.socket) as guest:
                driver = await bound(guest)
                await driver.write_all(line)
                with pytest.raises(WouldBlock):
                    await driver.read(10)
                assert tuple(await driver.winsize()) == (0, 0)
                with pytest.raises(NoSuchCall, match="terminal"):
                    await driver.set_winsize(80, 24)
                with pytest.raises(NoSuchCall, match="terminal"):
                    await driver.send_break()
                assert await driver.dev.property("endpoint") == str(tmp_path / "log")
            await host.guests.wait_for(lambda: not host.guests.by_token)
    assert (tmp_path / "log").read_bytes() == b"before\none\n" + b"two\n" * 50_000


async def test_a_log_on_a_full_device_is_disconnected_and_harms_no_other_device(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "hostd")  # pytest keeps the frames of a logged error, and their guest
    async with served(tmp_path, "file:/dev/full") as host, guestd.attach(host.socket) as guest:
        for _ in range(2):  # the next guest may try again, and has no more luck
            driver = await bound(guest)
            assert not await driver.get_param(STATUS) & DISCONNECTED
            await driver.write(b"lost")
            await driver.disconnected.wait()
            with pytest.raises(IoError):
                await driver.write(b"x")
            assert await driver.read_some() == b""
            with pytest.raises(NoSpace):
                await driver.emergency_write(65)
            assert len(await guest["rng"].getrandom(8)) == 8
            await guest.unbind("console")


@pytest.mark.parametrize("backing", ["cmd:cat #" + "x" * 300, "file:" + "d" * 200 + "/" + "f" * 200])
@pytest.mark.spec("C-5")
async def test_every_property_of_a_console_can_be_read_however_long_its_backing(tmp_path: Path, backing: str) -> None:
    (tmp_path / ("d" * 200)).mkdir()
    async with console(tmp_path, backing) as (_, guest, _):
        found = await guest.found("console")
        assert (await guest.properties(found.node))["endpoint"]
