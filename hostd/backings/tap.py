"""A tap of the host's kernel as a port of a switch: the way into the world."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hcall.formats import frames
from hcall.kernel.tap import check_name, open_tap
from hcall.saved import Saved
from hostd.backing import Carried

from .parts.switch import Port, Switch

log = logging.getLogger(__name__)

_AT_ONCE: Final = 64  # frames of one wakeup: others wait meanwhile


class Tap(Carried):
    """Reads and writes one frame at a time; what the kernel does not take at once is dropped."""

    def __init__(self, name: str) -> None:
        self._name, self._fd = name, -1
        self._port: Port | None = None

    @classmethod
    def parse(cls, text: str, folder: Path) -> Tap:
        """The interface *text*; empty: there is none.  Raises ValueError."""
        return cls(check_name(text) if text else "")

    def start(self, switch: Switch) -> None:
        """Put it into *switch*.  Raises OSError."""
        if not self._name:
            return
        if self._fd < 0:
            self._fd = open_tap(self._name)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._readable)
        self._buffer = memoryview(bytearray(frames.MAX_BATCH))
        self._port = switch.join(self._deliver)
        self._port.up = True

    def stop(self) -> None:
        """Pull it out."""
        if self._fd >= 0:
            if self._port is not None:
                self._port.leave()
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd, self._port = -1, None

    def save(self) -> tuple[Saved, Sequence[int]]:
        """The interface goes with its descriptor, unless somebody made it to stay."""
        return {}, () if self._fd < 0 else (self._fd,)

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        (self._fd,) = fds or (-1,)

    def cede(self) -> None:
        self.stop()

    def _readable(self) -> None:
        assert self._port is not None
        read = []
        try:
            for _ in range(_AT_ONCE):
                read.append(os.read(self._fd, frames.MAX_FRAME))
        except BlockingIOError:
            pass
        except OSError as error:  # EBADFD, for ever
            said = "the interface was deleted" if error.errno == errno.EBADFD else error.strerror
            log.error("%s: %s; the switch goes on without it until the device is plugged again", self._name, said)
            self.stop()
            return
        done = 0
        while done < len(read):
            size, done = frames.pack_into(self._buffer, read, done)
            batch = bytes(self._buffer[:size])
            for _ in self._port.send(batch, frames.runs(batch)):  # few: all at once
                pass

    def _deliver(self, batch: bytes, count: int) -> None:
        for frame in frames.split(memoryview(batch)):
            try:
                os.write(self._fd, frame)
            except BlockingIOError:
                return  # the kernel is behind: what is left is lost
            except OSError as error:
                log.debug("%s: %s", self._name, error.strerror)  # it is down, or gone, or it is no frame for the kernel
