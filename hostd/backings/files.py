"""file:PATH  appends to a file; nothing ever comes back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from hcall.saved import Saved
from hostd.backing import Backing, Port


class LogFile(Backing):
    """Appends to a file."""

    _fd = -1

    def __init__(self, rest: str, folder: Path) -> None:
        self._path = folder / rest
        self.endpoint = str(self._path)
        self._waiting = False  # for a pipe to be read

    def start(self, port: Port) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # it may be a pipe
        self._port, self._loop = port, asyncio.get_running_loop()
        if self._fd < 0:
            self._fd = os.open(self._path, flags, 0o666)
        elif self._waiting:  # as the one that was saved
            self._loop.add_writer(self._fd, self._writable)

    def stop(self) -> None:
        if self._fd < 0:
            return
        asyncio.get_running_loop().remove_writer(self._fd)
        os.close(self._fd)
        self._fd = -1

    cede = stop

    def save(self) -> tuple[Saved, Sequence[int]]:
        """The very file, whatever has its name by now: a log that was moved away, or a pipe."""
        return {"waiting": self._waiting}, (self._fd,)

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        (self._fd,), self._waiting = fds, saved["waiting"]

    def write(self, data: bytes) -> int:
        done = 0
        try:
            while done < len(data):  # a pipe may take a part
                done += os.write(self._fd, data[done:])
        except BlockingIOError:
            self._waiting = True
            self._loop.add_writer(self._fd, self._writable)
        return done

    def _writable(self) -> None:
        self._waiting = False
        self._loop.remove_writer(self._fd)
        self._port.transmit()
