"""What an input device replays: evdev records in a file."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from pathlib import Path
from typing import Final

from hcall.formats.input import RECORD, Packet, Packets

_READ: Final = 64 * RECORD.size  # bytes at a time


class Recording:
    """Packets, read a few at a time, as often as wanted."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait for its other end
        info = os.fstat(self._fd)
        try:
            if not stat.S_ISREG(info.st_mode) and path != Path(os.devnull):
                raise OSError(errno.EINVAL, "no file", str(path))
            if info.st_size % RECORD.size:
                raise OSError(errno.EINVAL, f"no recording: {info.st_size} bytes are no whole records", str(path))
        except OSError:
            self.close()
            raise
        self._packets: deque[Packet] = deque()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def rewind(self) -> Packet | None:
        """The first packet; None if there is none."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        self._decoder = Packets()
        self._packets.clear()
        return self.next()

    def next(self) -> Packet | None:
        """The packet after the last one; None at the end."""
        while not self._packets:
            data = os.read(self._fd, _READ)
            if not data:
                return None
            self._packets += self._decoder.feed(data)
        return self._packets.popleft()
