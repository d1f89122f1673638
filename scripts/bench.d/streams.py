"""The console's stream beside uvloop's own between two processes: one writes as fast as the other takes it.

`streams.py drain|source SOCKET` is the process at the other end: it takes what comes and says when all has come, or
gives what it is asked for.  What a guest reads comes from such a process, too, through the host: two hops, not one.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import Final, cast

import peers
import uvloop
from meters import Meter
from outcome import Row

import guestd

CHUNK: Final = 64 * 1024  # bytes of a write
_DATA: Final = bytes(CHUNK)
_WRITES: Final = 16  # a MiB
_LENGTH: Final = 8  # bytes, how many MiB follow or are wanted
_DEVICES: Final = {
    "write": "file:/dev/null", "write2": "file:/dev/null", "read": "connect:unix:source", "read2": "connect:unix:source"
}  # fmt: skip
KEYS: Final = ("asyncio: stream", "blocking: stream", "asyncio: stream read", "blocking: stream read")
_PEERS: Final = ("uvloop: stream", "uvloop: stream read")
ROWS: Final = (
    Row("console stream, 64 KiB writes, {} client", KEYS[:2], _PEERS[:1], "MiB/s", 0.5),
    Row("console stream, 64 KiB reads, {} client", KEYS[2:], _PEERS[1:], "MiB/s", None),
)
GROUPS: Final = ((*_PEERS[:1], *KEYS[:2]), (*_PEERS[1:], *KEYS[2:]))


class _Sender(asyncio.Protocol):
    """Writes while the transport has room."""

    def __init__(self) -> None:
        self._room = asyncio.Event()
        self._room.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    async def send(self, n: int) -> None:
        """*n* MiB."""
        for _ in range(n * _WRITES):
            await self._room.wait()
            self.transport.write(_DATA)


class _Source(_Sender):
    """Gives as much as it is asked for."""

    def data_received(self, data: bytes) -> None:
        self._sending = asyncio.ensure_future(self.send(int.from_bytes(data, "little")))


class _Drain(asyncio.Protocol):
    """Counts what comes; a byte goes back when all has come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.Transport, transport).write
        self._left = 0

    def data_received(self, data: bytes) -> None:
        if not self._left:  # who writes waits for the byte: a length begins what is received
            self._left = (int.from_bytes(data[:_LENGTH], "little") << 20) + _LENGTH
        self._left -= len(data)
        if not self._left:
            self._write(b"!")


class _Client(_Sender):
    """The other end of both."""

    _left = 0

    def data_received(self, data: bytes) -> None:
        self._left -= len(data)
        if not self._left:
            self._done.set_result(None)

    async def write(self, n: int) -> None:
        """*n* MiB, until the last has come."""
        self._done, self._left = asyncio.get_running_loop().create_future(), 1
        self.transport.write(n.to_bytes(_LENGTH, "little"))
        await self.send(n)
        await self._done

    async def read(self, n: int) -> None:
        """*n* MiB."""
        self._done, self._left = asyncio.get_running_loop().create_future(), n << 20
        self.transport.write(n.to_bytes(_LENGTH, "little"))
        await self._done


async def stream_meters(stack: contextlib.AsyncExitStack, folder: Path, core: int) -> dict[str, Meter]:
    """Of both clients and of the peer, whose processes are on *core*."""
    for mode in ("drain", "source"):
        path = folder / mode
        stack.enter_context(peers.running(core, sys.executable, __file__, mode, path, listens=path))
    machine = "".join(f'[devices.{name}]\nmodel = "console"\nbacking = "{to}"\n' for name, to in _DEVICES.items())
    guests, _ = stack.enter_context(peers.daemon(core, folder, "streams", machine))
    guest = await stack.enter_async_context(guestd.attach(guests))
    blocking = stack.enter_context(guestd.attach_blocking(guests))
    writer, reader = await guest.bind("write"), await guest.bind("read")
    writer2, reader2 = blocking["write2"], blocking["read2"]

    async def write(n: int) -> None:
        for _ in range(n * _WRITES):
            await writer.write_all(_DATA)

    def write_blocking(n: int) -> None:
        for _ in range(n * _WRITES):
            writer2.write_all(_DATA)

    async def read(n: int) -> None:
        await reader.write_all(n.to_bytes(_LENGTH, "little"))
        for _ in range(n * _WRITES):
            await reader.read_exactly(CHUNK)

    def read_blocking(n: int) -> None:
        reader2.write_all(n.to_bytes(_LENGTH, "little"))
        for _ in range(n * _WRITES):
            reader2.read_exactly(CHUNK)

    clients = []
    for mode in ("drain", "source"):
        transport, client = await asyncio.get_running_loop().create_unix_connection(_Client, str(folder / mode))
        stack.callback(transport.abort)
        clients.append(client)
    drain, source = clients
    works = (write, write_blocking, read, read_blocking, drain.write, source.read)
    return dict(zip((*KEYS, *_PEERS), map(Meter, works), strict=True))


async def _serve(mode: str, path: str) -> None:
    factory = _Drain if mode == "drain" else _Source
    server = await asyncio.get_running_loop().create_unix_server(factory, path)
    await server.serve_forever()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal; who started this ends it
    uvloop.run(_serve(*sys.argv[1:]))
