"""What is done to files of the host's, which may lie on anything: one thing after the other, and never by the loop.

Where nothing waits, it is done at once instead.  What another life of the host has begun is waited for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from hostd.model.workers import Workers

from .filesystem import LOCAL, filesystem

T = TypeVar("T")

_MOST: Final = 64 * 1024  # bytes that wait to be written
_LOST: Final = "the host ended before this was written"
_NUMBER: Final = struct.Struct("i")  # an errno; 0: all went well


def may_wait(fd: int) -> bool:
    """Whether a write to it, or to what is in it, may wait for nobody knows what."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return filesystem(fd) not in LOCAL
    return stat.S_ISBLK(mode)


class Sink:
    """Where bytes go, for whoever may wait; after an error nothing more does."""

    error: OSError | None = None
    fd = -1

    def check(self) -> None:
        """Raises the error that it had."""
        if self.error is not None:
            raise self.error

    def write(self, data: bytes) -> None:
        """All of it.  Raises OSError."""
        self.check()
        try:
            while data:
                data = data[os.write(self.fd, data) :]
        except OSError as error:
            self.error = error
            raise

    def tell(self, heir: socket.socket) -> None:
        """Let *heir* know that all is done which was to be done, how it went, and which file it was."""
        with heir, contextlib.suppress(OSError):  # nobody wants it
            number = 0 if self.error is None else self.error.errno or errno.EIO
            socket.send_fds(heir, [_NUMBER.pack(number)], [] if self.fd < 0 else [self.fd])

    def hear(self, legator: socket.socket) -> None:
        """Wait for what `tell` said, and go on with its file, unless there is one.  Raises OSError."""
        with legator:
            said, fds, _, _ = socket.recv_fds(legator, _NUMBER.size, 1)
        if self.fd < 0 and fds:
            self.fd = fds.pop()
        for fd in fds:
            os.close(fd)
        number = _NUMBER.unpack(said)[0] if said else errno.EINTR
        if number:
            self.error = OSError(number, os.strerror(number) if said else _LOST)
            raise self.error


class InOrder:
    """Takes work, and does it in order: in one thread, or at once.  What it calls back is told in the loop."""

    def __init__(self, name: str, waits: bool) -> None:
        """*waits*: the work may take nobody knows how long."""
        self._workers = Workers(name, 1) if waits else None
        self._under_way = 0
        self._kept = bytearray()  # until what is being written is
        self._writes: Callable[[bytes], object] | None = None  # and who writes then
        self.unwritten = 0  # bytes that were taken, and are not there, or never will be
        self._heirs: list[socket.socket] = []

    @property
    def waits(self) -> bool:
        """Whether there is a thread that may wait."""
        return self._workers is not None

    @property
    def is_idle(self) -> bool:
        """Whether all is done."""
        return not self._under_way

    def do(self, work: Callable[[], T], then: Callable[[T | Exception], None] = lambda _: None) -> None:
        """Do *work* after all that came before; *then* gets what it returns, or raises."""
        self._write_kept()
        self._submit(work, then)

    def append(self, write: Callable[[bytes], object], data: bytes, then: Callable[[Exception | None], None]) -> int:
        """Give *data* to *write*; how much of it is taken.

        *then* is called when there is room again, or with what went wrong: nothing of what was kept is written then.
        """
        if self._workers is None:
            try:
                write(data)
            except OSError as error:
                then(error)
            return len(data)
        data = data[: _MOST - self.unwritten]
        if data:
            self._kept += data
            self.unwritten += len(data)
            if self._writes is None:
                self._then, self._writes = then, write
                self._write_kept()
        return len(data)

    def forget(self) -> None:
        """Nobody wants what is kept, nor to hear of what is under way."""
        self._kept.clear()
        self._writes = None
        self.unwritten = 0

    def _write_kept(self) -> None:
        if self._kept and self._writes is not None:
            write, then, data = self._writes, self._then, bytes(self._kept)
            self._kept.clear()
            self._submit(partial(write, data), partial(self._written, write, then, len(data)))

    def _written(
        self, write: Callable[[bytes], object], then: Callable[[Exception | None], None], count: int, outcome: object
    ) -> None:
        if write is not self._writes:
            return
        if isinstance(outcome, Exception):
            self._kept.clear()  # it stays unwritten
            then(outcome)
            return
        self.unwritten -= count
        if self._kept:
            self._write_kept()
        elif not self.unwritten:
            self._writes = None
        then(None)

    def _submit(self, work: Callable[[], T], then: Callable[[T | Exception], None]) -> None:
        if self._workers is None:
            outcome: T | Exception
            try:
                outcome = work()
            except OSError as error:
                outcome = error
            then(outcome)
            return

        def over(outcome: Any) -> None:
            self._under_way -= 1
            then(outcome)

        self._under_way += 1
        self._workers.submit(work).then(over)

    def heir(self, sink: Sink) -> Sequence[int]:
        """A descriptor for `Sink.hear` in another life, if anything is under way: all that is, is done by this one."""
        if self.is_idle:
            return ()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._heirs.append(theirs)
        self.do(partial(sink.tell, ours))
        return (theirs.fileno(),)

    def inherit(
        self, sink: Sink, legator: socket.socket, unwritten: int, then: Callable[[object], None] = lambda _: None
    ) -> None:
        """Whatever is to be done to *sink* waits for *legator*, with *unwritten* bytes; *then* hears how it went."""
        self.unwritten += unwritten

        def heard(outcome: object) -> None:
            if not isinstance(outcome, Exception):
                self.unwritten -= unwritten
            then(outcome)

        self.do(partial(sink.hear, legator), heard)

    def close(self) -> None:
        """What was taken is still done; nobody waits for it."""
        self._write_kept()
        for each in self._heirs:
            each.close()
        self._heirs.clear()
        if self._workers is not None:
            self._workers.close()
