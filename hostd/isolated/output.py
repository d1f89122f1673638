"""What the process of a device prints and logs, for the daemon's log: each line with the device's name."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Final

from hcall.text import counted, harmless

log = logging.getLogger(__name__)

_AT_ONCE: Final = 16 * 1024  # bytes that are read in one turn of the loop
_LINE: Final = 1000  # characters; what is longer is cut into lines
_LINES: Final = 200  # of one process at once; others are counted until it has been silent


class Output:
    """Reads the pipe *fd*, which is this one's, until it is closed."""

    def __init__(self, fd: int, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self.fd, self._path, self._loop = fd, path, loop
        self._rest = ""
        loop.add_reader(fd, self.read)

    def read(self) -> bool:
        """What is there now; False: no more comes."""
        try:
            data = os.read(self.fd, _AT_ONCE)
        except BlockingIOError:
            return True
        if not data:
            self._loop.remove_reader(self.fd)
        *lines, self._rest = (self._rest + data.decode(errors="replace")).split("\n")
        while len(self._rest) > _LINE:
            lines.append(self._rest[:_LINE])
            self._rest = self._rest[_LINE:]
        for line in lines[:_LINES]:
            self.log(logging.WARNING, line)
        if len(lines) > _LINES:
            log.warning("%s: and %s more", self._path, counted(len(lines) - _LINES, "line"))
        return bool(data)

    def log(self, level: int, text: str) -> None:
        """A line, or more, of its own log."""
        text = harmless(text.rstrip())
        log.log(level, "%s", text if text.startswith(f"{self._path}: ") else f"{self._path}: {text}")

    def close(self) -> None:
        """Read what is left, and no more."""
        self.read()
        if self._rest:
            self.log(logging.WARNING, self._rest)
        self._loop.remove_reader(self.fd)
        os.close(self.fd)
