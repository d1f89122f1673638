"""A device that is taken out of its place, and goes on in another one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgpack
from hcall.clock import Clock
from raw import plugged

from hostd.calls.memory import Memory
from hostd.calls.vectors import Vectors
from hostd.device import Device
from hostd.model.areas import InlineRoom
from hostd.tree.plugged import Plugged


def moved(site: Plugged, device: Device, clock: Clock | None = None) -> Plugged:
    """*device* goes on as that of *site*, which is no more: by bytes and descriptors, as if in another process."""
    saved, fds = site.save()
    packed, theirs = msgpack.packb(saved), [os.dup(fd) for fd in fds]
    site.cede()
    again = plugged(device, clock=clock or site.clock)
    again.load(msgpack.unpackb(packed), theirs)
    return again


class Hand:
    """Calls a device, as its one guest; *make* makes one like it."""

    def __init__(self, make: Callable[[], Device], clock: Clock | None = None) -> None:
        self.make = make
        self.site = plugged(make(), clock=clock)
        self.site.start()
        self._set_up()
        self.site.ready()

    def _set_up(self) -> None:
        self.vectors = Vectors(lambda vector, count: None)
        self.site.live.append(self.vectors)
        self.device: Any = self.site.device

    def move(self) -> None:
        """To another device."""
        self.site = moved(self.site, self.make())
        self._set_up()

    def stop(self) -> None:
        self.site.retire()

    def read(self, count: int = 4096, at: int = 0) -> bytes:
        room = InlineRoom(count)
        return room.filled(self.device.read(room, at))

    def write(self, data: bytes, at: int = 0) -> int:
        count: int = self.device.write(Memory().data((data,)), at)
        return count
