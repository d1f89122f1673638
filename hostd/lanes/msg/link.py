"""One connection to the bus: datagrams of a Unix socket, read in turns of its user, and written at once."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections import deque
from collections.abc import Callable
from typing import Final

from hcall.formats.virtio_msg import MOST, Body, Message, decode, encode
from hcall.kernel import descriptors

from ..socket.anteroom import Anteroom

_OVERHEAD: Final = 64  # bytes that a message takes which waits, beside its own


class Link:
    """Between a socket and `Answers`.  While something waits to be written, nothing is read."""

    __slots__ = ("_anteroom", "_loop", "_lost", "_most", "_sock", "_soon", "_take", "_time", "_waiting", "_waits",
                 "dropped", "full_since", "messages")  # fmt: skip

    def __init__(
        self, sock: socket.socket, anteroom: Anteroom, time: Callable[[], float], most: int,
        soon: Callable[[Callable[[], object]], object], take: Callable[[Message], None], lost: Callable[[str], None],
    ) -> None:  # fmt: skip
        """*take* gets what comes; *lost* is told why the link is of no more use, and closes it.

        At most *most* bytes wait for the peer; *soon* has something done in a turn of its user's.
        """
        self._sock, self._anteroom, self._time, self._most, self._soon = sock, anteroom, time, most, soon
        self._take, self._lost = take, lost
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[bytes] = deque()
        self._waits = 0  # bytes
        self.full_since: float | None = None  # when the peer stopped reading, or has read the last of it
        self.messages = self.dropped = 0
        descriptors.refuse(sock)
        anteroom.watch(sock, self._readable)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(MOST + 1, socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(f"its connection broke: {error.strerror}")
            return
        if not data and self._has_ended():
            self._lost("it is gone")
            return
        self.messages += 1
        try:
            message = decode(data) if len(data) <= MOST else None
        except ValueError:
            message = None
        if message is None:
            self.dropped += 1  # without an answer, whatever it was
        else:
            self._take(message)

    def _has_ended(self) -> bool:
        """Whether nothing comes any more: a datagram may be empty."""
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    def send(self, body: Body, device: int = 0, token: int = 0) -> None:
        """Send a message, now or when the peer has read those before it."""
        data = encode(body, device, token)
        if self._waiting or not self._write(data):
            self._waiting.append(data)
            self._waits += len(data) + _OVERHEAD
            if self.full_since is None:
                self.full_since = self._time()
                self._anteroom.forget(self._sock)
                self._loop.add_writer(self._sock, self._writable)
            elif self._waits > self._most:
                self._soon(self._does_not_read)

    def _does_not_read(self) -> None:
        if self._waits > self._most:
            self._lost("it does not read")

    def _write(self, data: bytes) -> bool:
        """Whether there was room for it; there is, once the peer is gone."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # reading tells
            try:
                self._sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return False
        return True

    def _writable(self) -> None:
        self._loop.remove_writer(self._sock)
        self._soon(self._flush)

    def _flush(self) -> None:
        """Write what waits; then reading goes on."""
        if self.full_since is None or self._sock.fileno() < 0:  # it was closed meanwhile
            return
        self.full_since = self._time()
        while self._waiting:
            if not self._write(self._waiting[0]):
                self._loop.add_writer(self._sock, self._writable)
                return
            self._waits -= len(self._waiting.popleft()) + _OVERHEAD
        self.full_since = None
        self._anteroom.watch(self._sock, self._readable)

    def close(self, close: Callable[[socket.socket], None]) -> None:
        """Nothing more comes or goes; *close* closes the socket, and what is in its queue."""
        self._anteroom.forget(self._sock)
        self._loop.remove_writer(self._sock)
        self.full_since = None
        self._waiting.clear()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        close(self._sock)
