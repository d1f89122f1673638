"""What a daemon says to people: written by a thread of its own, so that nobody can stop the daemon by not reading.

Standard error may be a pager, a terminal at Ctrl-S or a pipe to a process that is stopped: a write to it waits, as long
as somebody likes.  What does not fit meanwhile is lost, and counted where it is missing.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Final

from hcall.text import counted

_MOST: Final = 1 << 20  # bytes that wait
_EACH: Final = 64  # bytes that a write, most often of a line or a traceback, takes besides
_LAST_SECONDS: Final = 2.0  # for what waits at the end


class Log(io.RawIOBase):
    """Takes bytes at once, and writes them to a descriptor when that takes them.

    No lock of Python's is held meanwhile: a model may be stopped by an exception wherever it is (`calls.overrun`).
    """

    def __init__(self, fd: int, most: int = _MOST) -> None:
        """It is to *fd*; at most *most* bytes wait."""
        self._fd, self._most = fd, most
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()  # b"": here some are missing; None: the end
        self._put = self._taken = 0  # bytes; only the thread counts the latter
        self._lost, self._is_marked = 0, False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)  # it may wait for ever
        self._thread.start()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]  # any buffer
        """Never waits."""
        text = bytes(data)
        if self._put - self._taken + len(text) + _EACH <= self._most:
            self._put += len(text) + _EACH
            self._queue.put(text)
        else:
            self._lost += 1
            if not self._is_marked:
                self._is_marked = True
                self._queue.put(b"")
        return len(text)

    def end(self, seconds: float) -> None:
        """Wait until all is written, for *seconds* at most; nothing more is."""
        self._queue.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while (text := self._queue.get()) is not None:
            if text:
                self._out(text)
                self._taken += len(text) + _EACH
            else:
                self._is_marked = False
                lost, self._lost = self._lost, 0
                self._out(f"hostd: {counted(lost, 'message')} lost here: standard error took no more\n".encode())

    def _out(self, text: bytes) -> None:
        rest = memoryview(text)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:  # somebody who has it, too, made it so
                poll = select.poll()
                poll.register(self._fd, select.POLLOUT)
                poll.poll()
            except OSError:  # nobody is there who could read it, or the disk is full
                return


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """What this process writes to standard error, and what models print, goes by a `Log`; all of it to standard error.

    For a process that is a daemon: what another program that serves a host writes is its own affair.
    """
    sys.stderr.flush()
    log = Log(sys.stderr.fileno())
    text = io.TextIOWrapper(log, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)  # type: ignore[type-var]
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            yield
    finally:
        text.flush()
        log.end(_LAST_SECONDS)
