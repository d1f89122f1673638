"""Guests that run until somebody at the terminal has had enough: `guestd console` and `guestd attach`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import termios
import tty
from collections.abc import Iterator

import uvloop

from hcall import numbers
from hcall.clock import LoopClock, timeout
from hcall.errors import HcallError, LinkLost, Reset, StaleHandle
from hcall.programs.command import Exit, Failure, explain, say
from hcall.text import shown

from ..clients.asynchronous import AsyncGuest, attach
from ..clients.claiming import bind_class
from ..driver import Driver
from ..drivers.console import ConsoleDriver
from ..stream import StreamDriver

_LEAVE = b"\x1d"  # Ctrl-], as telnet has it
_END_OF_INPUT = b"\x04"
_CHUNK = 64 * 1024  # bytes
_LINGER_SECONDS = 1.0  # for what still comes after the end of piped input
_HAPPENED = {numbers.ADDED: "plugged", numbers.LEAVING: "given back, to be unplugged", numbers.REMOVED: "unplugged"}


def attach_and_follow(
    socket: str | None, name: str | None, drivers: list[type[Driver]], prober: str = "tree", claim: str | None = None
) -> None:
    """Bind what there is, follow what comes and goes, and say so, until SIGINT or SIGTERM.

    *claim*: one device of that class, as soon as one is free, and nothing else.
    """

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        with contextlib.suppress(asyncio.CancelledError):  # by the signal, perhaps a second one: that is how it ends
            async with attach(socket, name=name, drivers=drivers, prober=prober) as guest:
                await (_follow(guest) if claim is None else _claim(guest, claim))

    uvloop.run(main())


async def _follow(guest: AsyncGuest) -> None:
    said: set[str] = set()
    attending: dict[Driver, asyncio.Future[None]] = {}
    try:
        while True:
            said = await _bind_and_say(guest, said)
            for path, driver in guest.drivers.items():
                if driver not in attending:
                    attending[driver] = asyncio.ensure_future(_attend(path, driver))
            for what, changed in await guest.happened():
                print(f"{shown(changed)}: {_HAPPENED[what]}", flush=True)
    finally:
        for work in attending.values():
            work.cancel()


async def _claim(guest: AsyncGuest, sort: str) -> None:
    """Have a device of that class; another one when that goes."""
    while True:
        driver = await bind_class(guest, sort)
        path = next(path for path, each in guest.drivers.items() if each is driver)
        print(f"{shown(path)}: bound to {type(driver).__name__}", flush=True)
        attending = asyncio.ensure_future(_attend(path, driver))
        try:
            while guest.drivers.get(path) is driver:
                for what, changed in await guest.happened():
                    print(f"{shown(changed)}: {_HAPPENED[what]}", flush=True)
        finally:
            attending.cancel()


async def _attend(path: str, driver: Driver) -> None:
    try:
        await driver.attend()
    except (LinkLost, Reset, StaleHandle):
        pass  # the host is gone, or the device: whoever follows them hears of it
    except Exception as error:  # the driver's: the next device is not concerned
        print(shown(f"{path}: {explain(error)[0]}"), flush=True)


async def _bind_and_say(guest: AsyncGuest, said: set[str]) -> set[str]:
    """Bind what can be had, and say a line for each device, but none that was *said* before; the lines."""
    lines = set()
    for path, outcome in (await guest.bind_all()).items():
        if isinstance(outcome, Exception):
            text, _ = explain(outcome)
            line = text if text.startswith(path) else f"{path}: {text}"
        else:
            line = f"{path}: bound to {type(outcome).__name__}"
        if line not in said:
            print(shown(line), flush=True)
        lines.add(line)
    return lines


def interact(socket: str | None, device: str, drivers: list[type[Driver]]) -> int:
    """Connect this terminal, or pipe, with the stream *device*; the exit code."""

    async def main() -> int:
        async with attach(socket, drivers=drivers) as guest:
            driver = await guest.bind(device)
            if not isinstance(driver, StreamDriver):
                raise Failure(f"{device} is no console", Exit.USAGE)
            if sys.stdin.isatty():
                say("guestd", f"connected to {device}; Ctrl-] leaves\r")
            with _raw_terminal():
                await _Interaction(driver).run()
        return Exit.OK

    return uvloop.run(main())


class _Interaction:
    """Keys go one way, and what the console says the other, until one side ends."""

    def __init__(self, driver: StreamDriver) -> None:
        self._driver = driver
        self._loop = asyncio.get_running_loop()
        self._keys: asyncio.Queue[bytes] = asyncio.Queue()
        self._terminal = sys.stdin.isatty()
        self._resizing: asyncio.Future[None] | None = None

    async def run(self) -> None:
        stdin = sys.stdin.fileno()
        reader = self._loop.run_in_executor(None, self._read_pipe, stdin) if not self._pollable(stdin) else None
        if isinstance(self._driver, ConsoleDriver) and self._terminal:
            await self._tell_size()  # before a key goes: what that starts may look at once
            self._loop.add_signal_handler(signal.SIGWINCH, self._resize)
        typing, showing = asyncio.ensure_future(self._type()), asyncio.ensure_future(self._show())
        try:
            await asyncio.wait({typing, showing}, return_when=asyncio.FIRST_COMPLETED)
            if typing.done() and not self._terminal:  # the pipe has ended: what still comes is shown
                with contextlib.suppress(TimeoutError):
                    async with timeout(LoopClock(), _LINGER_SECONDS):
                        await asyncio.wait({showing})
            for task in (typing, showing):
                if task.done():
                    task.result()
        finally:
            if reader is None:
                self._loop.remove_reader(stdin)
            if self._terminal:
                self._loop.remove_signal_handler(signal.SIGWINCH)
            for task in (typing, showing):
                task.cancel()
            await asyncio.gather(typing, showing, return_exceptions=True)

    def _pollable(self, stdin: int) -> bool:
        """Whether the loop can watch *stdin*; it cannot watch a file."""
        try:
            self._loop.add_reader(stdin, self._readable, stdin)
        except (PermissionError, OSError):
            return False
        return True

    def _readable(self, stdin: int) -> None:
        data = os.read(stdin, 4096)
        if not data:
            self._loop.remove_reader(stdin)
        self._keys.put_nowait(data)

    def _read_pipe(self, stdin: int) -> None:
        data = b"-"
        while data:
            data = os.read(stdin, 4096)
            self._loop.call_soon_threadsafe(self._keys.put_nowait, data)

    async def _type(self) -> None:
        while data := await self._keys.get():
            if self._terminal and _LEAVE in data:
                await self._driver.write_all(data[: data.index(_LEAVE)])
                return
            await self._driver.write_all(data)
        await self._driver.write_all(_END_OF_INPUT)
        await self._driver.settle()

    async def _show(self) -> None:
        while data := await self._driver.read_some(_CHUNK):
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

    def _resize(self) -> None:
        self._resizing = asyncio.ensure_future(self._tell_size())

    async def _tell_size(self) -> None:
        size = shutil.get_terminal_size()
        with contextlib.suppress(HcallError):  # there may be no terminal behind the console
            assert isinstance(self._driver, ConsoleDriver)
            await self._driver.set_winsize(size.columns, size.lines)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Keys come as they are typed, and go where they belong: to the console."""
    if not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin, termios.TCSADRAIN)  # what was typed ahead is kept
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
        print()
