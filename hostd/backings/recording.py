"""What an input device replays: evdev records in a file."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from hcall.formats.input import RECORD, Packet, Packets

from .parts.in_order import InOrder, may_wait

_READ: Final = 64 * RECORD.size  # bytes at a time


class Recording:
    """Packets, read a few at a time, as often as wanted: by a thread, if the file lies on what may wait."""

    def __init__(self, path: Path, came: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        """*came* is called when there is more than `next` had; *failed* if there is nothing more.  Raises OSError."""
        self._came, self._failed = came, failed
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for its other end
        info = os.fstat(self._fd)
        try:
            if not stat.S_ISREG(info.st_mode) and path != Path(os.devnull):
                raise OSError(errno.EINVAL, "no file", str(path))
            if info.st_size % RECORD.size:
                raise OSError(errno.EINVAL, f"no recording: {info.st_size} bytes are no whole records", str(path))
        except OSError:
            os.close(self._fd)
            raise
        self._order = InOrder("replay:", may_wait(self._fd))
        self._packets: deque[Packet] = deque()
        self._reading = False
        self.is_over = True  # nothing more comes
        self._run = 0

    def close(self) -> None:
        """Let go of the file."""
        self.stop()
        self._order.do(partial(os.close, self._fd))
        self._order.close()

    def stop(self) -> None:
        """Nothing more comes before the next `rewind`."""
        self._run += 1
        self._packets.clear()
        self.is_over = True

    def rewind(self, skip: int = 0) -> None:
        """`next` begins anew, after so many packets."""
        self.stop()
        self._decoder, self._at, self._skip, self.is_over = Packets(), 0, skip, False

    def next(self) -> Packet | None:
        """The packet after the last one; None at the end, when it `is_over`, or for now."""
        while not (self._packets or self._reading or self.is_over):
            self._read()
        packet = self._packets.popleft() if self._packets else None
        if self._order.waits and not self._packets:
            self._read()
        return packet

    def _read(self) -> None:
        if not (self._reading or self.is_over):
            self._reading = True
            self._order.do(partial(os.pread, self._fd, _READ, self._at), partial(self._got, self._run))

    def _got(self, run: int, data: bytes | Exception) -> None:
        self._reading = False
        if run != self._run:
            self._read()
            return
        if isinstance(data, Exception) or not data:
            self.is_over = True
        else:
            self._at += len(data)
            self._packets += self._decoder.feed(data)
            while self._packets and self._skip:
                self._packets.popleft()
                self._skip -= 1
            if self._order.waits and not self._packets:
                self._read()
        if isinstance(data, Exception):
            self._failed(data)
        elif self._order.waits and self._packets:
            self._came()
