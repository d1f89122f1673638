"""One end of the socketpair between the daemon and the process of a device: messages in order, with descriptors."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from hcall import wire
from hcall.kernel import descriptors

_AT_ONCE: Final = 32 * 1024  # bytes of a packet; what is longer, such as a saved queue, goes as a file
_MESSAGES: Final = 64  # that are taken in one turn of the loop
_BUFFER: Final = 1 << 20  # bytes that the kernel keeps, each way


class Channel:
    """Sends at once what the kernel takes, the rest in its order; nobody waits.

    Descriptors go by a socket of their own: to look for some with each message would double what it costs.
    """

    def __init__(self, sock: socket.socket, lane: socket.socket) -> None:
        """Messages by *sock*, descriptors by *lane*; both are this one's from now on."""
        for each in (sock, lane):
            each.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self.sock, self._lane = sock, lane
        self._waiting: deque[tuple[bytes, list[int]]] = deque()  # with descriptors that are ours

    def send(self, *message: Any, fds: Sequence[int] = ()) -> None:
        """Send *message*; *fds* stay the caller's.  Raises TypeError, ValueError or OverflowError for what it cannot
        carry.  To an end that is closed it sends nothing."""
        packet = wire.encode((*message, len(fds)))
        own = list(map(os.dup, fds))
        if len(packet) > _AT_ONCE:
            own.append(_file(packet))
            packet = wire.encode((len(own),))
        self._waiting.append((packet, own))
        if len(self._waiting) == 1:
            self._flush()
            if self._waiting:
                asyncio.get_running_loop().add_writer(self.sock, self._writable)

    def _writable(self) -> None:
        self._flush()
        if not self._waiting:
            asyncio.get_running_loop().remove_writer(self.sock)

    def _flush(self) -> None:
        while self._waiting:
            packet, fds = self._waiting[0]
            try:
                if fds:
                    socket.send_fds(self._lane, [b"\0"], fds)
                    self._waiting[0] = packet, []
                    _close(fds)
                self.sock.send(packet)
            except BlockingIOError:
                return
            except OSError:  # it has ended, which its reader is told
                _close(self._waiting[0][1])
            self._waiting.popleft()

    def receive(self) -> Iterator[tuple[list[Any], list[int]]]:
        """The messages that are there, with their descriptors, which are the caller's.  Raises EOFError at the end."""
        for _ in range(_MESSAGES):
            try:
                packet = self.sock.recv(2 * _AT_ONCE)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:
                raise EOFError
            *message, count = msgspec.msgpack.decode(packet)
            fds = descriptors.receive(self._lane, 1)[1] if count else []
            if not message:  # it is in a file
                *message, _ = msgspec.msgpack.decode(_content(fds.pop()))
            yield message, fds

    def close(self) -> None:
        """No more."""
        if self._waiting:
            asyncio.get_running_loop().remove_writer(self.sock)
        for _, fds in self._waiting:
            _close(fds)
        self._waiting.clear()
        self.sock.close()
        self._lane.close()


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _file(data: bytes) -> int:
    fd = os.memfd_create("message", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    return fd


def _content(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return file.read()
