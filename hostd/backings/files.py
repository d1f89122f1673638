"""file:PATH  appends to a file; nothing ever comes back.

A file whose filesystem may wait, such as NFS, is written to by a thread: what a guest writes is taken before it is
there, 64 KiB of it, `sync` waits for that, and so does another life of the host.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hcall.saved import Saved
from hostd.backing import Backing, Port

from .parts.in_order import InOrder, Sink, may_wait


class _Log(Sink):
    """The file."""

    def __init__(self, fd: int) -> None:
        self.fd = fd


class LogFile(Backing):
    """Appends to a file."""

    _fd = -1
    _legator: socket.socket | None = None  # whoever writes to it still, in another life
    _ended = False
    _left = 0  # bytes that it has to write

    def __init__(self, rest: str, folder: Path) -> None:
        self._path = folder / rest
        self.endpoint = str(self._path)
        self._waiting = False  # for a pipe to be read
        self._order = InOrder("file:", waits=False)

    def start(self, port: Port) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # it may be a pipe
        self._port, self._loop = port, asyncio.get_running_loop()
        if self._fd < 0:
            self._fd = os.open(self._path, flags, 0o666)
        elif self._waiting:  # as the one that was saved
            self._loop.add_writer(self._fd, self._writable)
        self._log = _Log(self._fd)
        if may_wait(self._fd):
            os.set_blocking(self._fd, True)
            self._order = InOrder("file:", waits=True)
        if self._legator is not None:
            legator, self._legator = self._legator, None
            self._order.inherit(self._log, legator, self._left, self._over)
        elif self._left:  # it was told so
            self._order.unwritten, self._log.error = self._left, OSError(errno.EIO, os.strerror(errno.EIO))

    def stop(self) -> None:
        if self._fd < 0:
            return
        self._ended = True
        asyncio.get_running_loop().remove_writer(self._fd)
        self._order.do(partial(os.close, self._fd))
        self._order.close()
        self._fd = -1
        if self._legator is not None:
            self._legator.close()

    cede = stop

    def save(self) -> tuple[Saved, Sequence[int]]:
        """The very file, whatever has its name by now: a log that was moved away, or a pipe."""
        heir = self._order.heir(self._log)
        return {"waiting": self._waiting, "left": self._order.unwritten}, (self._fd, *heir)

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        (self._fd, *heard), self._waiting, self._left = fds, saved["waiting"], saved["left"]
        for fd in heard:
            self._legator = socket.socket(fileno=fd)

    def write(self, data: bytes | memoryview) -> int:
        if self._order.waits:
            return self._order.append(self._log.write, bytes(data), self._over)
        done = 0
        try:
            while done < len(data):  # a pipe may take a part
                done += os.write(self._fd, data[done:])
        except BlockingIOError:
            self._waiting = True
            self._loop.add_writer(self._fd, self._writable)
        return done

    @property
    def unwritten(self) -> int:
        return self._order.unwritten

    def reset(self) -> None:
        """What failed for one guest may work for the next."""
        if self._log.error is not None:
            self._order.forget()
            self._log = _Log(self._fd)

    def _over(self, outcome: object) -> None:
        if self._ended:
            return
        if isinstance(outcome, Exception):
            self._port.failed(outcome)
        else:
            self._port.transmit()

    def _writable(self) -> None:
        self._waiting = False
        self._loop.remove_writer(self._fd)
        self._port.transmit()
