"""Somebody at the prompt of `guestd shell`, and devices that are made to be tried there."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, TypeVar

import pytest
from raw import in_thread, served

import guestd
import hostd
from guestd.driver import Driver, Op
from guestd.shell.shell import Shell
from hcall.errors import BadArgument, HcallError
from hcall.programs.command import Failure, explain
from hostd.device import Data, Device, Feature, Irq, Property, Room, call
from hostd.machine.file import DeviceSpec
from hostd.stream import BUFFER, Stream

T = TypeVar("T")
SECONDS: Final = 3.0  # for what the host does at once
_PRINTED: Final = " !\"#$%&'()*+,-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz{|}~"


class Bench(Device):
    """A call for each sort of argument and result; its memory is 5,000 bytes."""

    compatible, ids = ("test,bench-2", "test,bench"), (0x1234, 0x77)
    FAST, ODD = Feature(3), Feature(60)
    done = Irq()
    serial_number = Property(str)
    size = Property(int)
    spare = Property(bool)

    def start(self) -> None:
        self.serial_number, self.size, self.spare = "B-17", 5000, True
        self.offered &= ~self.ODD.mask
        self.synced = 0
        self.reset()

    def reset(self) -> None:
        self.memory = bytearray(self.size)

    def read(self, into: Room, at: int) -> int:
        return into.put(bytes(self.memory[at:]))

    def write(self, data: Data, at: int) -> int:
        taken = data.get()[: self.size - at]
        self.memory[at : at + len(taken)] = taken
        return len(taken)

    def sync(self) -> None:
        self.synced += 1

    @call
    def add(self, a: int, b: int) -> int:
        if a == b:
            raise BadArgument("the same twice")
        return a + b

    @call
    def half(self, x: float) -> float:
        return x / 2

    @call
    def flip(self, on: bool) -> bool:
        return not on

    @call
    def shout(self, text: str) -> str:
        return text.upper()

    @call
    def back(self, data: bytes) -> bytes:
        return data[::-1]

    @call
    def fill(self, into: Room, byte: int) -> int:
        return into.put(bytes([byte]) * into.nbytes)

    @call
    def total(self, data: Data) -> int:
        return sum(data.get())

    @call
    def swap(self, into: Room, data: Data) -> int:
        return into.put(data.get().swapcase())

    @call
    def several(self) -> tuple[Any, ...]:
        return 1, True, "two words", b"\1\2", (3, 4)

    @call
    def ring(self) -> None:
        self.done()

    @call
    def dev(self) -> str:
        return "the device's own"

    @call(needs=FAST)
    def quick(self) -> int:
        return 1


class BenchDriver(Driver):
    compatible = ("test,bench",)
    add = Op[[int, int], int]()  # a, b

    def flip(self, on: bool) -> Any:
        """What is not."""
        return self.dev.call(self.number("flip"), (on,))


class Line(Stream):
    """A stream whose other end is the test; it has no driver."""

    compatible = "test,line"

    def start(self) -> None:
        super().start()
        self.taken, self.takes = b"", BUFFER * 4

    def written(self, data: bytes) -> int:
        data = data[: self.takes - len(self.taken)]
        self.taken += data
        return len(data)

    def reset(self) -> None:
        """What the test sends stays."""


INNER: Final = DeviceSpec("bus/inner", "bench", Bench, {})


def machine(folder: Path) -> AbstractAsyncContextManager[hostd.Host]:
    """A host with two benches and a line, beside the rng."""
    return served(folder, DeviceSpec("bench", "bench", Bench, {}), INNER, DeviceSpec("line", "line", Line, {}))


def bench(host: hostd.Host) -> Bench:
    device = host.tree.find("/bench").device
    assert isinstance(device, Bench)
    return device


def line(host: hostd.Host) -> Line:
    device = host.tree.find("/line").device
    assert isinstance(device, Line)
    return device


class Prompt:
    """Somebody at the prompt, in a thread; the host is in another."""

    def __init__(self, host: hostd.Host, loop: asyncio.AbstractEventLoop, guest: guestd.BlockingGuest) -> None:
        self._host, self._loop = host, loop
        self._out, self.notes = io.StringIO(), list[str]()
        self.shell = Shell(guest, self._out, self.notes.append)

    def say(self, *lines: str) -> str:
        """What these lines print."""
        for each in lines:
            self.shell.run_line(each)
        printed = self._out.getvalue()
        self._out.seek(0)
        self._out.truncate()
        return printed

    def code(self, line: str) -> int:
        """The exit code of a line that has to fail."""
        with pytest.raises((Failure, HcallError)) as caught:
            self.say(line)
        return explain(caught.value)[1]

    def host(self, act: Callable[[], T]) -> T:
        """Do something on the host."""

        async def acts() -> T:
            return act()

        return asyncio.run_coroutine_threadsafe(acts(), self._loop).result(SECONDS)

    def soon(self, act: Callable[[], object]) -> None:
        """The same, without waiting for it."""
        self._loop.call_soon_threadsafe(act)

    def unplug(self, path: str, surprise: bool) -> asyncio.Task[bool]:
        """Begin to take a device away."""
        return self.host(lambda: asyncio.ensure_future(self._host.unplug(path, surprise)))

    def finished(self, task: asyncio.Task[T]) -> T:
        """The result of a task of the host."""

        async def result() -> T:
            return await task

        return asyncio.run_coroutine_threadsafe(result(), self._loop).result(SECONDS)

    def opens(self, path: str) -> int:
        """How many have the device open."""
        return self.host(lambda: len(self._host.tree.find(path).opens))


async def at_prompt(host: hostd.Host, scenario: Callable[[Prompt], T]) -> T:
    """Run *scenario* at the prompt of a guest of *host*."""
    loop = asyncio.get_running_loop()

    def work() -> T:
        with guestd.attach_blocking(host.socket, drivers=[BenchDriver], memory=1 << 20) as guest:
            return scenario(Prompt(host, loop, guest))

    return await in_thread(host, work)


def undumped(dump: str) -> tuple[int, bytes]:
    """Where a hex dump begins, and its bytes; its addresses and its text have to agree with them."""
    start, data = None, b""
    for row in dump.splitlines():
        address, rest = row.split(": ", 1)
        part = bytes.fromhex(rest[:39])
        start = int(address, 16) if start is None else start
        assert int(address, 16) == start + len(data) and len(data) % 16 == 0
        assert rest[41:] == "".join(chr(byte) if chr(byte) in _PRINTED else "." for byte in part)
        data += part
    return start or 0, data
