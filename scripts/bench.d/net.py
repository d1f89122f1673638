"""The fast network: frames from this process to another one, beside asyncio's TCP, and beside copying memory.

Both senders have the frames as bytes and send a batch at a time; both receivers make bytes of every 1,500-byte frame.
Frames of 64 KiB are looked at where they lie.  A switch drops what a slow receiver has no room for, so ours says after
every second batch how far it is; TCP does that by itself.

All of these processes, ours and the peers', run with the same settings of malloc, which make the protocol by hand twice
as fast as it is at its worst.

`net.py guest|streams|protocol ...` is a receiver: a guest, or a server on asyncio; `net.py send ...` is a sender, which
a line on standard input tells how many frames of which size to send.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeAlias, cast

import peers
import uvloop
from meters import Meter
from outcome import Row

import guestd
from guestd.drivers.net import NetDriver

_SMALL, _LARGE = 1500, 65536  # bytes of a frame
_BATCHES: Final = {_SMALL: 1_000_000, _LARGE: 2_000_000}  # bytes that a call sends: both sides are at their best so
_ACKNOWLEDGED: Final = 2  # batches at once
_IN_FLIGHT: Final = 4  # batches: the queue of a card holds 8 MiB
_COLD: Final = 256 << 20  # bytes: more than any cache
_CHUNK: Final = 1 << 20  # bytes that are copied at once
_ADDRESSES: Final = bytes.fromhex("020000000002 020000000001")  # to the receiver, from the sender
_BACK: Final = _ADDRESSES[6:] + _ADDRESSES[:6] + b"\x88\xb5"
_LENGTH: Final = struct.Struct("<I")
_DONE: Final = b"done"  # a batch has come by TCP
MACHINE: Final = """
[devices.sender]
model = "net"
mac = "02:00:00:00:00:01"
mtu = 65535
[devices.receiver]
model = "net"
mac = "02:00:00:00:00:02"
"""

ROWS: Final = (
    Row("fast network, 1,500-byte frames", ("switch: 1500",), ("asyncio streams: 1500",), "frames/s", 2),
    Row(
        "the same beside a protocol by hand",
        ("switch: 1500",),
        ("asyncio protocol: 1500",),
        "frames/s",
        1,
        note="MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_THRESHOLD_ are raised for all of these processes, of both sides",
    ),
    Row("fast network, 64 KiB frames", ("switch: 64K",), ("cold memcpy: 64K",), "frames/s", 0.25),
)
GROUPS: Final = (
    ("switch: 1500", "asyncio streams: 1500", "asyncio protocol: 1500"),
    ("switch: 64K", "cold memcpy: 64K"),
)


def _batch(size: int) -> list[bytes]:
    """Frames of *size* bytes, no two the same."""
    return [_ADDRESSES + number.to_bytes(size - len(_ADDRESSES), "big") for number in range(_BATCHES[size] // size)]


class _Batches:
    """Counts frames until they are whole batches."""

    def __init__(self) -> None:
        self._sizes = {size: room // size for size, room in _BATCHES.items()}
        self._frames = self.whole = 0

    def came(self, length: int) -> bool:
        """A frame has come: whether it was the last one of a batch."""
        self._frames += 1
        if self._frames < self._sizes[length]:
            return False
        self._frames = 0
        self.whole += 1
        return True


_Send: TypeAlias = Callable[[int, int], Awaitable[None]]  # so many frames, of so many bytes


class _Sender:
    """This file as a process on the core of this one: it sends, and takes the time."""

    def __init__(self, stack: contextlib.AsyncExitStack, mode: str, *given: object) -> None:
        command = (sys.executable, __file__, "send", mode, *map(str, given))
        self._process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )

    def meter(self, size: int, batches: int = 1) -> Meter:
        """Of frames of *size* bytes, as many *batches* at once at least."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None

        async def send(n: int) -> float:
            stdin.write(f"{n} {size}\n")
            stdin.flush()
            return float(stdout.readline())

        return Meter(send, batches * (_BATCHES[size] // size))


async def _obey(send: _Send) -> None:
    """What a sender does: the seconds that each order took are the answers."""
    for line in iter(sys.stdin.readline, ""):
        n, size = map(int, line.split())
        start = time.perf_counter()
        await send(n, size)
        print(time.perf_counter() - start, flush=True)


# Ours.


async def _to_switch(path: str, spin: bool) -> None:
    """A guest that sends to another one, through the daemon."""
    async with guestd.attach(path, spin=spin) as guest:
        card = await guest.bind("sender")
        assert isinstance(card, NetDriver)
        await _obey(_through(card))


def _through(card: NetDriver) -> _Send:
    batches = {size: _batch(size) for size in _BATCHES}
    sent = arrived = 0  # batches

    async def until(count: int) -> None:
        nonlocal arrived
        while arrived < count:
            for frame in await card.receive():
                arrived = int.from_bytes(frame[len(_BACK) :], "big")

    async def send(n: int, size: int) -> None:
        nonlocal sent
        frames = batches[size]
        for _ in range(n // len(frames)):
            await until(sent - _IN_FLIGHT + 1)
            await card.send(frames)
            sent += 1
        await until(sent)

    return send


async def _receive(path: str, ready: str, spin: bool) -> None:
    """The guest at the other end."""
    batches, told, large = _Batches(), 0, False
    async with guestd.attach(path, spin=spin) as guest:
        card = await guest.bind("receiver")
        assert isinstance(card, NetDriver)
        await asyncio.get_running_loop().create_unix_server(asyncio.Protocol, ready)
        while True:
            if large:
                with await card.borrow() as lent:
                    lengths = list(map(len, lent))
            else:
                lengths = list(map(len, await card.receive()))
            large = lengths[-1] == _LARGE  # the next ones will be, too
            for length in lengths:
                batches.came(length)
            if batches.whole >= told + _ACKNOWLEDGED:
                told = batches.whole - batches.whole % _ACKNOWLEDGED
                await card.send([_BACK + told.to_bytes(8, "big")])


# The peers.


async def _to_server(mode: str, path: str) -> None:
    """By TCP over loopback to a server of this file, *mode* being "streams" or "protocol"; the frames have lengths."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        port = int(sock.recv(16))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    frames = _batch(_SMALL)

    async def send(n: int, _: int) -> None:
        count = n // len(frames)
        for _ in range(count):
            if mode == "streams":
                for frame in frames:
                    writer.write(_LENGTH.pack(len(frame)) + frame)
            else:
                writer.write(b"".join([_LENGTH.pack(len(frame)) + frame for frame in frames]))
            await writer.drain()
        await reader.readexactly(len(_DONE) * count)

    await _obey(send)


async def _by_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As the manual of asyncio would have it."""
    batches = _Batches()
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
            if batches.came(len(await reader.readexactly(length))):
                writer.write(_DONE)


class _ByHand(asyncio.Protocol):
    """As fast as asyncio can be: all frames of a piece of the stream at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.Transport, transport).write
        self._rest = b""
        self._batches = _Batches()

    def data_received(self, data: bytes) -> None:
        data, at, frames = self._rest + data, 0, []
        while len(data) - at >= _LENGTH.size:
            start = at + _LENGTH.size
            end = start + _LENGTH.unpack_from(data, at)[0]
            if end > len(data):
                break
            frames.append(data[start:end])
            at = end
        self._rest = data[at:]
        for frame in frames:
            if self._batches.came(len(frame)):
                self._write(_DONE)


async def _serve(mode: str, path: str) -> None:
    """The server; who connects to *path* is told its port."""
    loop = asyncio.get_running_loop()
    if mode == "streams":
        server = await asyncio.start_server(_by_streams, "127.0.0.1", 0)
    else:
        server = await loop.create_server(_ByHand, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]

    def tell(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d" % port)
        writer.close()

    await asyncio.start_unix_server(tell, path)
    await server.serve_forever()


def memcpy_meter() -> Meter:
    """Copies memory that no cache has, as much of it as 64 KiB are for each call."""
    source, target = (memoryview(bytearray(b"\1") * _COLD) for _ in range(2))
    places = itertools.cycle(range(0, _COLD, _CHUNK))

    def copy(n: int) -> None:
        for at in itertools.islice(places, n * _LARGE // _CHUNK):
            target[at : at + _CHUNK] = source[at : at + _CHUNK]

    return Meter(copy, _CHUNK // _LARGE)


async def net_meters(
    stack: contextlib.AsyncExitStack, folder: Path, core: int, spin: bool, wanted: Callable[[str], bool]
) -> dict[str, Meter]:
    """All of these that a row needs."""
    found = {}
    with peers.steady_malloc():
        if wanted("switch"):
            guests, _ = stack.enter_context(peers.daemon(core, folder, "net", MACHINE, spin))
            ready = folder / "receiver.sock"
            receiver = (sys.executable, __file__, "guest", guests, ready, int(spin))
            stack.enter_context(peers.running(core, *receiver, listens=ready))
            sender = _Sender(stack, "switch", guests, int(spin))
            found = {
                "switch: 1500": sender.meter(_SMALL, _ACKNOWLEDGED),
                "switch: 64K": sender.meter(_LARGE, _ACKNOWLEDGED),
            }
        for mode in ("streams", "protocol"):
            if wanted(f"asyncio {mode}"):
                path = folder / f"{mode}.sock"
                stack.enter_context(peers.running(core, sys.executable, __file__, mode, path, listens=path))
                found[f"asyncio {mode}: 1500"] = _Sender(stack, mode, path).meter(_SMALL)
    if wanted("cold memcpy"):
        found["cold memcpy: 64K"] = memcpy_meter()
    return found


if __name__ == "__main__":
    if sys.argv[1] == "guest":
        uvloop.run(_receive(sys.argv[2], sys.argv[3], bool(int(sys.argv[4]))))
    elif sys.argv[1:3] == ["send", "switch"]:
        uvloop.run(_to_switch(sys.argv[3], bool(int(sys.argv[4]))))
    elif sys.argv[1] == "send":
        uvloop.run(_to_server(sys.argv[2], sys.argv[3]))
    else:
        uvloop.run(_serve(sys.argv[1], sys.argv[2]))
