"""What is timed: our two clients as any program uses them, and a client of each peer.

A Meter is one kind of call.  Each block of about 20 ms gives one value, seconds per call.  Its key is "who: what".
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import subprocess
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final, cast

import peers

import guestd
from guestd.driver import Buffer, Driver

BLOCK_SECONDS: Final = 0.02
DEPTH: Final = 32
MESSAGE: Final = bytes(64)
PAGE: Final = 4096
CHUNK: Final = 1 << 20
_WARM_UP_BLOCKS: Final = 4  # the first ones also find out how many calls a block is


class Meter:
    """Times *run*(n), which makes n calls, n being a multiple of *step*."""

    def __init__(self, run: Callable[[int], Awaitable[float | None] | None], step: int = 1) -> None:
        """*run* may return the seconds that it took; else they are measured around it."""
        self._run, self._step = run, step
        self._calls = 16 * step
        self.values: list[float] = []

    async def warm_up(self) -> None:
        """Before the first turn."""
        for _ in range(_WARM_UP_BLOCKS):
            await self._block()
        self.values.clear()

    async def turn(self, seconds: float) -> None:
        """Blocks, one at least, for about *seconds*."""
        for _ in range(max(1, round(seconds / BLOCK_SECONDS))):
            await self._block()

    async def _block(self) -> None:
        start = time.perf_counter()
        work = self._run(self._calls)
        took = None if work is None else await work
        if took is None:
            took = time.perf_counter() - start
        self.values.append(took / self._calls)
        self._calls = max(1, round(self._calls / self._step * min(BLOCK_SECONDS / took, 10))) * self._step


class FioMeter(Meter):
    """Whole runs of fio, which tells the mean of every 20 ms."""

    def __init__(self, uri: str, folder: Path, core: int, rw: str, bs: int, depth: int) -> None:
        super().__init__(lambda _: None)
        self._uri, self._folder, self._core = uri, folder, core
        self._options = {"rw": rw, "norandommap": 1, "bs": bs, "iodepth": depth, "time_based": 1}

    async def warm_up(self) -> None:
        """Nothing to do: what fio tells of its start is left out."""

    async def turn(self, seconds: float) -> None:
        """One run."""
        runtime = f"{round(seconds * 1000)}ms"
        with peers.pinned(self._core):
            self.values += peers.fio(self._uri, self._folder, runtime=runtime, **self._options)


async def asyncio_meters(stack: contextlib.AsyncExitStack, path: Path, spin: bool) -> dict[str, Meter]:
    """Of the asyncio client, on the loop that runs."""
    guest = await stack.enter_async_context(guestd.attach(path, spin=spin))
    rng, disk = cast(Any, await guest.bind("rng")), await guest.bind("disk")

    async def nop(n: int) -> None:
        for _ in range(n):
            await guest.nop()

    async def getrandom(n: int) -> None:
        for _ in range(n):
            await rng.getrandom(16)

    async def many(n: int) -> None:
        await asyncio.gather(*(getrandom(n // DEPTH) for _ in range(DEPTH)))

    readers = [reader(disk, buffer) for buffer in buffers(guest, DEPTH)]

    async def read(n: int) -> None:
        await asyncio.gather(*(each(n // DEPTH) for each in readers))

    async def bind(n: int) -> None:
        for _ in range(n):
            await other.bind("rng")
            await other.unbind("rng")

    other = await stack.enter_async_context(guestd.attach(path, spin=spin))
    return {
        "asyncio: bind": Meter(bind), "asyncio: nop": Meter(nop), "asyncio: rng": Meter(getrandom),
        "asyncio: rng 32": Meter(many, DEPTH), "asyncio: 4k 32": Meter(read, DEPTH),
    }  # fmt: skip


def blocking_meters(stack: contextlib.AsyncExitStack, path: Path, spin: bool) -> dict[str, Meter]:
    """Of the blocking client."""
    guest = stack.enter_context(guestd.attach_blocking(path, spin=spin))
    rng, disk = cast(Any, guest.bind("rng")), guest["disk2"]
    driver = guest.bind("disk2")

    def nop(n: int) -> None:
        for _ in range(n):
            guest.nop()

    async def getrandom(n: int) -> None:
        for _ in range(n):
            await rng.getrandom(16)

    def many(n: int) -> None:
        guest.gather(*(getrandom(n // DEPTH) for _ in range(DEPTH)))

    page, at = guest.ram.alloc(PAGE), _places()

    def read(n: int) -> None:
        for place in itertools.islice(at, n):
            disk.read_into(page, place)

    readers = [reader(driver, buffer) for buffer in buffers(guest, DEPTH)]

    def read_many(n: int) -> None:
        guest.gather(*(each(n // DEPTH) for each in readers))

    chunk, chunks = guest.ram.alloc(CHUNK), itertools.cycle(range(0, peers.DISK_BYTES, CHUNK))

    def read_on(n: int) -> None:
        for place in itertools.islice(chunks, n):
            disk.read_into(chunk, place)

    def bind(n: int) -> None:
        for _ in range(n):
            other.bind("rng")
            other.run(other.unbind("rng"))

    other = stack.enter_context(guestd.attach_blocking(path, spin=spin))
    return {
        "blocking: bind": Meter(bind), "blocking: nop": Meter(nop), "blocking: rng 32": Meter(many, DEPTH),
        "blocking: 4k": Meter(read), "blocking: 4k 32": Meter(read_many, DEPTH),
        "blocking: 1M": Meter(read_on),
    }  # fmt: skip


def ring_meters(stack: contextlib.AsyncExitStack, path: Path, spin: bool) -> dict[str, Meter]:
    """Of the blocking client with rings."""
    guest = stack.enter_context(guestd.attach_blocking(path, spin=spin, carrier="ring"))
    driver = guest.bind("disk5")
    readers = [reader(driver, buffer) for buffer in buffers(guest, DEPTH)]

    def read_many(n: int) -> None:
        guest.gather(*(each(n // DEPTH) for each in readers))

    return {"ring: 4k 32": Meter(read_many, DEPTH)}


def _places() -> Iterator[int]:
    """Offsets of pages, at random and made before they are needed."""
    return itertools.cycle([random.randrange(0, peers.DISK_BYTES, PAGE) for _ in range(4096)])


def buffers(guest: guestd.AsyncGuest | guestd.BlockingGuest, count: int) -> list[Buffer]:
    """Of a page each."""
    return [guest.ram.alloc(PAGE) for _ in range(count)]


def reader(disk: Driver, buffer: Buffer) -> Callable[[int], Coroutine[Any, Any, None]]:
    """Reads so many pages into *buffer*."""
    at = _places()

    async def read(n: int) -> None:
        for place in itertools.islice(at, n):
            await disk.read_into(buffer, place)

    return read


class _EchoClient(asyncio.Protocol):
    """One future per request, as little as a client can do."""

    answer: asyncio.Future[bytes]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.answer.set_result(data)


async def echo_meters(stack: contextlib.AsyncExitStack, path: Path) -> dict[str, Meter]:
    """Of the raw echo, on the loop that runs."""
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_unix_connection(_EchoClient, str(path))
    stack.callback(transport.abort)

    async def echo(n: int) -> None:
        for _ in range(n):
            client.answer = loop.create_future()
            transport.write(MESSAGE)
            await client.answer

    return {"uvloop echo": Meter(echo)}


def zmq_meters(stack: contextlib.AsyncExitStack, path: Path) -> dict[str, Meter]:
    """Of pyzmq, without a loop and on the loop that runs: DEPTH messages are on their way."""
    import zmq  # an extra, which may be missing
    import zmq.asyncio

    context = stack.enter_context(zmq.Context())  # its thread stays on the core of this moment
    dealer = stack.enter_context(context.socket(zmq.DEALER))
    dealer.connect(f"ipc://{path}")
    loop_context = stack.enter_context(zmq.asyncio.Context())
    loop_dealer = stack.enter_context(loop_context.socket(zmq.DEALER))
    loop_dealer.connect(f"ipc://{path}")

    def blocking(n: int) -> None:
        for _ in range(DEPTH):
            dealer.send(MESSAGE)
        for _ in range(n - DEPTH):
            dealer.recv()
            dealer.send(MESSAGE)
        for _ in range(DEPTH):
            dealer.recv()

    async def looped(n: int) -> None:
        for _ in range(DEPTH):
            await loop_dealer.send(MESSAGE)
        for _ in range(n - DEPTH):
            await loop_dealer.recv()
            await loop_dealer.send(MESSAGE)
        for _ in range(DEPTH):
            await loop_dealer.recv()

    return {"pyzmq": Meter(blocking, DEPTH), "zmq.asyncio": Meter(looped, DEPTH)}


def pingpong_meters(stack: contextlib.AsyncExitStack, program: Path, core: int, own: int) -> dict[str, Meter]:
    """Of two processes in C, which take the time themselves."""
    process = stack.enter_context(
        subprocess.Popen([program, str(core), str(own)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None and stdout is not None

    async def rounds(n: int) -> float:
        stdin.write(f"{n}\n")
        stdin.flush()
        return float(stdout.readline())

    return {"C ping-pong": Meter(rounds)}


def nbd_meters(who: str, uri: str, folder: Path, own: int) -> dict[str, Meter]:
    """Of what *who* serves by NBD at *uri*, through fio: nbdkit's disks, or our export."""

    def fio(rw: str, bs: int, depth: int) -> FioMeter:
        return FioMeter(uri, folder, own, rw, bs, depth)

    return {
        f"{who}: 4k": fio("randread", PAGE, 1), f"{who}: 4k 32": fio("randread", PAGE, DEPTH),
        f"{who}: 1M": fio("read", CHUNK, 1), f"{who} at 4: 1M": fio("read", CHUNK, 4),
    }  # fmt: skip
