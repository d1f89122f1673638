"""file:PATH  appends to a file; nothing ever comes back."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from hostd.backing import Backing, Port


class LogFile(Backing):
    """Appends to a file."""

    def __init__(self, rest: str, folder: Path) -> None:
        self._path = folder / rest
        self.endpoint = str(self._path)
        self._waiting = False  # for a pipe to be read

    def start(self, port: Port) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # it may be a pipe
        self._fd = os.open(self._path, flags, 0o666)
        self._port, self._loop = port, asyncio.get_running_loop()

    def stop(self) -> None:
        if self._waiting:
            self._loop.remove_writer(self._fd)
        os.close(self._fd)

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
