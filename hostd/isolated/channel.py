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
    """Sends at once what the kernel takes, the rest in its order; nobody waits."""

    def __init__(self, sock: socket.socket) -> None:
        """*sock* is this one's from now on."""
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self.sock = sock
        self._waiting: deque[tuple[bytes, list[int]]] = deque()  # with descriptors that are ours

    def send(self, *message: Any, fds: Sequence[int] = ()) -> None:
        """Send *message*; *fds* stay the caller's.  Raises TypeError, ValueError or OverflowError for what it cannot
        carry.  To an end that is closed it sends nothing."""
        packet = wire.encode((*message, False))
        own = list(map(os.dup, fds))
        if len(packet) > _AT_ONCE:
            own.append(_file(packet))
            packet = wire.encode((True,))
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
                    socket.send_fds(self.sock, [packet], fds)
                else:
                    self.sock.send(packet)
            except BlockingIOError:
                return
            except OSError:  # it has ended, which its reader is told
                pass
            self._waiting.popleft()
            for fd in fds:
                os.close(fd)

    def receive(self) -> Iterator[tuple[list[Any], list[int]]]:
        """The messages that are there, with their descriptors, which are the caller's.  Raises EOFError at the end."""
        for _ in range(_MESSAGES):
            try:
                packet, fds, _ = descriptors.receive(self.sock, 2 * _AT_ONCE)
            except BlockingIOError:
                return
            except OSError:
                packet, fds = b"", []
            if not packet:
                raise EOFError
            message = msgspec.msgpack.decode(packet)
            if message[-1]:  # it is in a file
                message = msgspec.msgpack.decode(_content(fds.pop()))
            yield message[:-1], fds

    def close(self) -> None:
        """No more."""
        if self._waiting:
            asyncio.get_running_loop().remove_writer(self.sock)
        for _, fds in self._waiting:
            for fd in fds:
                os.close(fd)
        self._waiting.clear()
        self.sock.close()


def _file(data: bytes) -> int:
    fd = os.memfd_create("message", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    return fd


def _content(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        return file.read()
