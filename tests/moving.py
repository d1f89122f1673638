"""A device that is taken out of its place, and goes on in another one."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from typing import Any, Final

import msgpack
from raw import memory_of, plugged

from hcall.clock import Clock
from hostd.calls.vectors import Vectors
from hostd.device import Device
from hostd.model.areas import InlineRoom
from hostd.tree.plugged import Plugged

_SECONDS: Final = 10  # after which a test says that something hangs


async def until(condition: Callable[[], bool]) -> None:
    """The loop goes on until *condition* holds."""
    async with asyncio.timeout(_SECONDS):
        for _ in itertools.takewhile(lambda _: not condition(), itertools.count()):
            await asyncio.sleep(0)


def moved(site: Plugged, device: Device, clock: Clock | None = None) -> Plugged:
    """*device* goes on as that of *site*, which is no more: by bytes and descriptors, as if in another process."""
    saved, fds = site.save()
    packed, theirs = msgpack.packb(saved), [os.dup(fd) for fd in fds]
    site.cede()
    again = plugged(device, clock=clock or site.clock)
    again.load(msgpack.unpackb(packed), theirs)
    return again


class Holder:
    """Which guest it is."""

    def __init__(self, guest: int) -> None:
        self.guest = guest


class Hand:
    """Calls a device, as its one guest; *make* makes one like it."""

    def __init__(self, make: Callable[[], Device], clock: Clock | None = None) -> None:
        self.make = make
        self.site = plugged(make(), clock=clock)
        self.site.start()
        self.guest = 1
        self._set_up()
        self.site.ready()

    def _set_up(self) -> None:
        self.vectors = Vectors(lambda vector, count: None)
        self.site.live[self.vectors] = None
        self.site.holds[Holder(self.guest)] = None  # type: ignore[index]  # all that is asked of it
        self.device: Any = self.site.device

    def move(self) -> None:
        """To another device."""
        self.site = moved(self.site, self.make())
        self._set_up()

    def reset(self) -> None:
        """The guest closes it, and another one comes."""
        self.leave()
        self.guest += 1
        self._set_up()
        self.site.ready()

    def leave(self) -> None:
        """The guest closes it."""
        self.site.live.clear()
        self.site.holds.clear()
        self.site.reset()

    def stop(self) -> None:
        self.site.holds.clear()
        self.site.retire()

    def call(self, name: str, *args: Any) -> Any:
        """By the table of hypercalls, as a guest's call goes."""
        return self.site.tables.method(self.site.calls[name])(*args)

    def read(self, count: int = 4096, at: int = 0) -> bytes:
        room = InlineRoom(count)
        return room.filled(self.call("read", room, at))

    def write(self, data: bytes, at: int = 0) -> int:
        count: int = self.call("write", memory_of().data((data,)), at)
        return count
