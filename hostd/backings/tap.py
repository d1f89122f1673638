"""A tap of the host's kernel as a port of a switch: the way into the world."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from pathlib import Path
from typing import Final

from hcall.formats import frames
from hcall.kernel.tap import check_name, open_tap

from .parts.switch import Switch

log = logging.getLogger(__name__)

_AT_ONCE: Final = 64  # frames of one wakeup: others wait meanwhile


class TapName(str):
    """The name of an interface; empty: none."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str, folder: Path) -> TapName:
        """Raises ValueError."""
        return cls(check_name(text) if text else "")


class Tap:
    """Reads and writes one frame at a time; what the kernel does not take at once is dropped."""

    def __init__(self, name: str, switch: Switch) -> None:
        """Raises OSError."""
        self._name = name
        self._fd = open_tap(name)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._readable)
        self._buffer = memoryview(bytearray(frames.MAX_BATCH))
        self._port = switch.join(self._deliver)
        self._port.up = True

    def close(self) -> None:
        """Pull it out."""
        if self._fd >= 0:
            self._port.leave()
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _readable(self) -> None:
        read = []
        try:
            for _ in range(_AT_ONCE):
                read.append(os.read(self._fd, frames.MAX_FRAME))
        except BlockingIOError:
            pass
        except OSError as error:  # EBADFD, for ever
            said = "the interface was deleted" if error.errno == errno.EBADFD else error.strerror
            log.error("%s: %s; the switch goes on without it until the device is plugged again", self._name, said)
            self.close()
            return
        done = 0
        while done < len(read):
            size, done = frames.pack_into(self._buffer, read, done)
            batch = bytes(self._buffer[:size])
            self._port.send(batch, frames.runs(batch))

    def _deliver(self, batch: bytes, count: int) -> None:
        for frame in frames.split(memoryview(batch)):
            try:
                os.write(self._fd, frame)
            except BlockingIOError:
                return  # the kernel is behind: what is left is lost
            except OSError as error:
                log.debug("%s: %s", self._name, error.strerror)  # it is down, or gone, or it is no frame for the kernel
