"""A stream for other programs: as a pseudo-terminal, a socket, or standard input and output.

One peer has it at a time; the next one waits until that has gone.  What the device says meanwhile waits, too: here no
more than one read of it, the rest in the device, whose flow control stops whoever writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import select
import socket
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Generic, TypeVar

from hcall.clock import LoopClock, timeout
from hcall.errors import IoError
from hcall.kernel.claims import claim, link_terminal, unlink_terminal

from ..clients.asynchronous import AsyncGuest
from ..driver import Driver
from ..stream import StreamDriver
from . import LINGER_SECONDS, Export, Kind
from .listening import AtTcp, AtUnix

T = TypeVar("T")
_CHUNK: Final = 64 * 1024  # bytes
_LOOK_SECONDS: Final = 0.01
_READ_SECONDS: Final = 10.0  # for a terminal's last words to be read, on a machine that is busy, too


class Line:
    """Two descriptors of a peer, to be read and to be written, which the loop watches."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming, self._outgoing = incoming, outgoing
        self._never_waits = not any(map(os.get_blocking, (incoming, outgoing)))
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[None]] = set()
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.error: OSError | None = None  # of the last write

    async def read(self) -> bytes:
        """What has come; nothing at the end.  Raises OSError."""
        if self._never_waits and not self.closed.done():
            with contextlib.suppress(BlockingIOError):
                return os.read(self._incoming, _CHUNK)
        while True:
            await self._ready(self._incoming, self._loop.add_reader, self._loop.remove_reader)
            with contextlib.suppress(BlockingIOError):
                return os.read(self._incoming, _CHUNK)

    async def write(self, data: bytes) -> int:
        """Send some of *data*; how much.  Raises OSError."""
        if self._never_waits and not self.gone:
            with contextlib.suppress(BlockingIOError):
                return os.write(self._outgoing, data)
        while True:
            await self._ready(self._outgoing, self._loop.add_writer, self._loop.remove_writer)
            if self.gone:
                raise ConnectionError
            with contextlib.suppress(BlockingIOError):
                return os.write(self._outgoing, data[: select.PIPE_BUF])  # a pipe that is ready takes so much at once

    @property
    def gone(self) -> bool:
        """Whether nobody is there any more, neither to speak nor to listen."""
        poll = select.poll()
        poll.register(self._outgoing, 0)
        return self.closed.done() or bool(poll.poll(0))

    def close(self) -> None:
        """Whoever waits for the peer gets a ConnectionError."""
        if not self.closed.done():
            self.closed.set_result(None)
        self._loop.remove_reader(self._incoming)  # now: the numbers may soon be somebody else's
        self._loop.remove_writer(self._outgoing)
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_exception(ConnectionError())

    async def _ready(self, fd: int, watch: Callable[..., object], forget: Callable[[int], object]) -> None:
        if self.closed.done():
            raise ConnectionError
        ready = self._loop.create_future()
        try:
            watch(fd, _set, ready)
        except (OSError, RuntimeError):  # a file, always ready; or a socket that failed, which uvloop has let go of
            return
        self._waiting.add(ready)
        try:
            await ready
        finally:
            self._waiting.discard(ready)
            forget(fd)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class _StreamExport(Export, Generic[T]):
    """Base: moves bytes between a stream and its peer."""

    takes = StreamDriver

    def opened(self) -> AbstractContextManager[T]:
        """Where peers come to.  Raises OSError."""
        raise NotImplementedError

    async def serve(self, at: T) -> None:
        """`talk` to each peer that comes *at* there."""
        raise NotImplementedError

    async def finish(self, at: T) -> None:
        """The device has ended: until its last words have reached the peer."""

    async def run(self, guest: AsyncGuest, driver: Driver, ready: Callable[[], None]) -> None:
        assert isinstance(driver, StreamDriver)
        self._driver = driver
        self._line: Line | None = None
        self._there = asyncio.Event()  # a peer
        self._moved = asyncio.Event()  # something went to it, or it is gone
        with self.opened() as at:
            ready()
            self._giving = asyncio.ensure_future(self._give(b""))
            self._showing = asyncio.ensure_future(self._show())
            serving = asyncio.ensure_future(self.serve(at))
            try:
                await asyncio.wait({self._showing, serving}, return_when=asyncio.FIRST_COMPLETED)
                if self._showing.done():
                    self._showing.result()
                    await self.finish(at)
                if serving.done():
                    serving.result()
            finally:
                tasks = self._showing, serving, self._giving
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def talk(self, line: Line) -> None:
        """Until the peer of *line* has gone."""
        self._line = line
        self._there.set()
        try:
            with contextlib.suppress(OSError):  # it may go in any way it likes
                await self._given(line)
                while data := await line.read():
                    self._giving = asyncio.ensure_future(self._give(data))
                    await self._given(line)
                await self._linger(line)
        finally:
            self._part(line)

    def _part(self, line: Line) -> None:
        if self._line is line:  # the next one may have come
            self._line = None
            self._there.clear()
        line.close()

    async def _give(self, data: bytes) -> None:
        try:
            await self._driver.write_all(data)
        except IoError:  # it has hung up: its last words are still being shown
            await asyncio.wait({self._showing})

    async def _given(self, line: Line) -> None:
        """Until the device has what was said so far.  Raises ConnectionError if the peer of *line* goes before.

        It may be waiting for somebody to take what it has to say: that is the next peer, which is heard after it.
        """
        await asyncio.wait({self._giving, line.closed}, return_when=asyncio.FIRST_COMPLETED)
        if not self._giving.done():
            raise ConnectionError
        self._giving.result()

    async def _linger(self, line: Line) -> None:
        """The peer says no more: what still comes is for it."""
        with contextlib.suppress(TimeoutError):
            while not line.gone:
                self._moved.clear()
                async with timeout(LoopClock(), LINGER_SECONDS):  # the peer is of this world, and so is its time
                    await self._moved.wait()

    async def _show(self) -> None:
        while data := await self._driver.read_some(_CHUNK):
            while data:
                while (line := self._line) is None:  # it may come and go before we wake
                    await self._there.wait()
                try:
                    data = data[await line.write(data) :]
                except OSError as error:  # the next peer gets it
                    line.error = error
                    self._part(line)
                self._moved.set()


class PtyExport(_StreamExport[int]):
    """`pty:PATH`, a pseudo-terminal with a symbolic link to it."""

    kind = Kind("pty:", "PATH")

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        link = Path(self.rest)
        with claim(link):
            master, slave = pty.openpty()  # held open: peers come and go, and what waits for them stays
            self._slave, name = slave, os.ttyname(slave)
            try:
                tty.setraw(slave)
                os.set_blocking(master, False)
                link_terminal(link, name)
                try:
                    yield master
                finally:
                    unlink_terminal(link, name)
            finally:
                os.close(master)
                os.close(slave)

    async def serve(self, at: int) -> None:
        await self.talk(Line(at, at))

    async def finish(self, at: int) -> None:
        """A terminal that is closed forgets what nobody has read."""
        for _ in range(round(_READ_SECONDS / _LOOK_SECONDS)):
            if not any(fcntl.ioctl(self._slave, termios.FIONREAD, bytes(4))):
                break
            await self._driver.clock.sleep(_LOOK_SECONDS)  # nothing tells


class _ListeningExport(_StreamExport[socket.socket]):
    async def serve(self, at: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            peer, _ = await loop.sock_accept(at)
            with peer:
                peer.setblocking(False)
                await self.talk(Line(peer.fileno(), peer.fileno()))


class UnixExport(AtUnix, _ListeningExport):
    """`unix:PATH`, for a stream."""


class TcpExport(AtTcp, _ListeningExport):
    """`tcp:HOST:PORT`, for a stream."""


class StdioExport(_StreamExport[None]):
    """`stdio:`, standard input and output, until the input has ended."""

    kind = Kind("stdio:", "")

    def opened(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    async def serve(self, at: None) -> None:
        line = Line(sys.stdin.fileno(), sys.stdout.fileno())
        await self.talk(line)
        if line.error is not None and not isinstance(line.error, ConnectionError):
            raise OSError(line.error.errno, line.error.strerror, "standard output")
        if line.error is None:
            await self._driver.settle()
