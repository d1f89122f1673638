"""A device with one call of each sort, which answers when the test says so; and a host that has it."""

from __future__ import annotations

from clumsy import Clumsy, Shared
from raw import RawGuest

import hostd
from hcall import numbers
from hcall.errors import LinkLost
from hostd.device import Data, Device, Feature, Later, Property, Room, call
from hostd.machine.file import DeviceSpec


class Slow(Device):
    """Answers when the test says so; has one call of each sort."""

    compatible, ids = ("test,slow", "test,generic"), (0x1234, 0x8)
    EXTRA = Feature(0)
    text = Property(str)
    level = Property(float)
    parts = Property(tuple)

    def start(self) -> None:
        self.log: list[int] = []
        self.waiting: dict[int, Later[int]] = {}
        self.text, self.level, self.parts = "", 1.5, (1, "two", b"3", True, 0.5)

    def read(self, into: Room, at: int) -> int:
        return into.put(b"r" * into.nbytes)

    def write(self, data: Data, at: int) -> int:
        return data.nbytes

    @call
    def late(self, which: int) -> Later[int]:
        self.log.append(which)
        self.waiting[which] = Later()
        return self.waiting[which]

    @call
    def now(self, which: int) -> int:
        self.log.append(which)
        return which

    @call(needs=EXTRA)
    def extra(self, a: int) -> int:
        return a

    @call(early=True)
    def early(self, a: int) -> int:
        return a

    @call
    def half(self, a: float) -> float:
        return a / 2

    @call
    def lost(self) -> None:
        raise LinkLost("a model's joke")


SPECS = [DeviceSpec(name, name, model, {}) for name, model in (("slow", Slow), ("clumsy", Clumsy), ("shared", Shared))]


def slow(host: hostd.Host) -> Slow:
    found = host.tree.find("/slow").device
    assert isinstance(found, Slow)
    return found


async def node(guest: RawGuest, path: str) -> int:
    return int(await guest.core(numbers.FIND, 0, path))


async def opened(guest: RawGuest, path: str, cookie: int = 0) -> tuple[int, dict[str, int]]:
    """Open, and no more."""
    handle, calls, _, _ = await guest.core(numbers.OPEN, await node(guest, path), cookie)
    return handle, calls
