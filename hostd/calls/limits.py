"""The caps on what guests can make the host hold: `[limits]` of the machine file."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from hcall.kernel.memfd import PAGE, SPARSE
from hcall.messages import MAX_SLOTS, SLOTS
from hcall.wire import MAX_ITEMS

HIGH_WATER: Final = 256 * 1024  # bytes that wait for a guest: from so many on nothing more is read of it


class Bounds(NamedTuple):
    """The least and the most that a limit can be, and why."""

    least: int
    most: int
    why: str

    def mistake(self, value: int) -> str | None:
        """What is wrong with *value*."""
        if self.least <= value <= self.most:
            return None
        return f"must be {self.least} to {self.most}, not {value}: {self.why}"


BOUNDS: Final = {
    "guests": Bounds(1, 1 << 20, "no process has descriptors for more"),
    "slots": Bounds(1, MAX_SLOTS, "a guest takes no other number of slots"),
    "handles": Bounds(1, 1 << 16, "a guest without a device has no use, and each costs the host memory"),
    "regions": Bounds(1, MAX_ITEMS, "HELLO has room for no more, and a guest lends one at least"),
    "memory": Bounds(PAGE, 1 << 52, "a region has a page at least, and no machine has more"),
    "greetings": Bounds(1, 1 << 20, "no process has descriptors for more"),
    "opens": Bounds(1, 1 << 24, "a guest without a device has no use, and each costs the host memory"),
    "lent": Bounds(PAGE, 1 << 52, "a region has a page at least, and no machine has more"),
    "sparse": Bounds(0, 1 << 52, "a region may be all there, and no machine has more"),
    "unfilled": Bounds(0, 1 << 52, "all regions may be all there, and no machine has more"),
    "share": Bounds(1, 100, "it is in percent"),
    "queued": Bounds(HIGH_WATER, 1 << 40, "so much waits before the host stops to read from a guest"),
}  # fmt: skip
# A machine file is for `guestd`, too; a program that serves may have guests of its own, which do with less.
GUESTD_BYTES: Final = SPARSE
FILE_BOUNDS: Final = BOUNDS | {
    name: BOUNDS[name]._replace(least=GUESTD_BYTES, why="so much guestd lends at once")
    for name in ("memory", "lent", "sparse")
}


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Those above *share* are for each guest, those below for all together.  Raises ValueError beyond BOUNDS."""

    slots: int = SLOTS  # calls at once
    handles: int = 1024  # devices open at once
    regions: int = 16  # of memory
    memory: int = 4 << 30  # bytes
    sparse: int = GUESTD_BYTES  # bytes of memory that may be without pages: the host pays for those that it fills
    queued: int = 1 << 20  # bytes to a guest that does not read
    share: int = 50  # percent of each of the following that one user may have, see `shares`
    guests: int = 2048
    greetings: int = 2048  # connections without a guest
    opens: int = 1 << 16  # devices open at once
    lent: int = 256 << 30  # bytes of memory
    unfilled: int = 0  # bytes of memory without pages; 0: three quarters of what this process may have

    def __post_init__(self) -> None:
        for name, bounds in BOUNDS.items():
            if mistake := bounds.mistake(getattr(self, name)):
                raise ValueError(f"{name} {mistake}")
