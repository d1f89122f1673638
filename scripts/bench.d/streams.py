"""The console's stream beside uvloop's own between two processes: one writes as fast as the other takes it.

`streams.py drain|source SOCKET` is the process at the other end: it takes what comes and says when all has come, or
gives what it is asked for.  What a guest reads comes from such a process, too, through the host: two hops, not one.
An echo of few bytes has two hops on both sides: `streams.py echo SOCKET` gives back what comes, and `streams.py relay
SOCKET ECHO` is between it and the peer, as the host is between it and the guest.
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
    "write": "file:/dev/null", "write2": "file:/dev/null",
    "read": "connect:unix:source", "read2": "connect:unix:source",
    "echo": "connect:unix:echo", "echo2": "connect:unix:echo",
}  # fmt: skip
_SMALL: Final = bytes(16)
_WRITE, _READ, _ECHO = (("asyncio: " + what, "blocking: " + what) for what in ("stream", "stream read", "stream echo"))
KEYS: Final = (*_WRITE, *_READ, *_ECHO)
_PEERS: Final = ("uvloop: stream", "uvloop: stream read", "uvloop relay: stream echo")
# What it was when reads did not wait: 5634c75, with these meters, the medians of seven runs on a busy machine.
_BEFORE: Final = (7.0, 6.8)
ROWS: Final = (
    Row("console stream, 64 KiB writes, {} client", _WRITE, _PEERS[:1], "MiB/s", 1, 0.45),
    Row("console stream, 64 KiB reads, {} client", _READ, _PEERS[1:2], "MiB/s", 0.4, 0.3),
    *(Row("console echo of 16 bytes, {} client", (key,), _PEERS[2:], "us", round(0.65 * before, 2),
          note=f"the target is 0.65 of what 5634c75 has, whose reads do not wait: {before}")
      for key, before in zip(_ECHO, _BEFORE, strict=True)),
)  # fmt: skip
GROUPS: Final = ((_PEERS[0], *_WRITE), (_PEERS[1], *_READ), (_PEERS[2], *_ECHO))


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


class _Relay(asyncio.Protocol):
    """Passes on what comes, to the other end of the relay."""

    to: asyncio.Transport | None = None

    def __init__(self, echo: str | None = None) -> None:
        """Who is connected to is passed on to *echo*, if it is given."""
        self._echo = echo
        self._early = b""  # before there is a way on

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._echo is None:
            return
        self._connecting = asyncio.ensure_future(self._connect(self._echo))

    async def _connect(self, echo: str) -> None:
        transport, onward = await asyncio.get_running_loop().create_unix_connection(_Relay, echo)
        onward.to, self.to = self._transport, transport
        transport.write(self._early)

    def data_received(self, data: bytes) -> None:
        if self.to is None:
            self._early += data
        else:
            self.to.write(data)


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

    async def echo(self, n: int) -> None:
        """*n* times a few bytes, there and back."""
        for _ in range(n):
            self._done, self._left = asyncio.get_running_loop().create_future(), len(_SMALL)
            self.transport.write(_SMALL)
            await self._done


async def stream_meters(stack: contextlib.AsyncExitStack, folder: Path, core: int, spin: bool) -> dict[str, Meter]:
    """Of both clients and of the peer, whose processes are on *core*."""
    for mode in ("drain", "source", "echo", "relay"):
        path = folder / mode
        command = (sys.executable, __file__, mode, path, folder / "echo")
        stack.enter_context(peers.running(core, *command, listens=path))
    machine = "".join(f'[devices.{name}]\nmodel = "console"\nbacking = "{to}"\n' for name, to in _DEVICES.items())
    guests, _ = stack.enter_context(peers.daemon(core, folder, "streams", machine, spin))
    guest = await stack.enter_async_context(guestd.attach(guests, spin=spin))
    blocking = stack.enter_context(guestd.attach_blocking(guests, spin=spin))
    writer, reader, echoer = [await guest.bind(name) for name in ("write", "read", "echo")]
    writer2, reader2, echoer2 = (blocking[name] for name in ("write2", "read2", "echo2"))

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

    async def echo(n: int) -> None:
        for _ in range(n):
            await echoer.write_all(_SMALL)
            await echoer.read_exactly(len(_SMALL))

    def echo_blocking(n: int) -> None:
        for _ in range(n):
            echoer2.write_all(_SMALL)
            echoer2.read_exactly(len(_SMALL))

    clients = []
    for mode in ("drain", "source", "relay"):
        transport, client = await asyncio.get_running_loop().create_unix_connection(_Client, str(folder / mode))
        stack.callback(transport.abort)
        clients.append(client)
    drain, source, relay = clients
    works = (write, write_blocking, read, read_blocking, echo, echo_blocking, drain.write, source.read, relay.echo)
    return dict(zip((*KEYS, *_PEERS), map(Meter, works), strict=True))


async def _serve(mode: str, path: str, echo: str) -> None:
    factories = {"drain": _Drain, "source": _Source, "echo": peers.Echo, "relay": lambda: _Relay(echo)}
    server = await asyncio.get_running_loop().create_unix_server(factories[mode], path)
    await server.serve_forever()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal; who started this ends it
    uvloop.run(_serve(*sys.argv[1:]))
