"""Interrupt vectors of one open handle: each a counter, a mask bit and at most one hint that is not acknowledged.

Memory is bounded whatever a device does, and no interrupt is lost across a mask or a lost link: the count goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hcall.saved import Saved, check

#: Of most vectors, and never added to: at rest nothing was raised.
_NONE: Final[dict[int, int]] = {}
LEAP: Final = 1 << 32  # more interrupts than come between two savings, and room for as many lives of a host


class Vectors:
    """Costs next to nothing until the first interrupt."""

    __slots__ = ("_base", "_counts", "_hint", "_hinted", "_seen", "mask")

    def __init__(self, hint: Callable[[int, int], None]) -> None:
        """*hint*(vector, count) tells the guest."""
        self._hint = hint
        self._base = 0  # what a vector that was never raised stands at
        self._counts = self._seen = _NONE
        self._hinted = 0  # bit set: hints that are not acknowledged
        self.mask = 0  # bit set: vectors that count, but give no hints

    def count(self, vector: int) -> int:
        """How often *vector* was raised."""
        return self._counts.get(vector, self._base)

    def fire(self, vector: int) -> None:
        """Raise *vector*."""
        if self._counts is _NONE:
            self._counts = {}
        self._counts[vector] = self._counts.get(vector, self._base) + 1
        self._notify(vector)

    def acknowledge(self, vector: int, seen: int) -> None:
        """The guest has seen the count *seen*; beyond it there is another hint."""
        self._hinted &= ~(1 << vector)
        if self._seen is _NONE:
            self._seen = {}
        self._seen[vector] = max(0, min(seen, self.count(vector)))
        self._notify(vector)

    def set_mask(self, mask: int) -> int:
        """Mask exactly the vectors of the bit set *mask*; the mask before."""
        before, self.mask = self.mask, mask
        for vector in self._counts:
            if before & ~mask & 1 << vector:
                self._notify(vector)
        return before

    def relink(self) -> None:
        """The hints on the old link may be lost: give them again."""
        self._hinted = 0
        for vector in self._counts:
            self._notify(vector)

    def save(self) -> Saved:
        """What `restore` needs."""
        vectors = [[vector, count, self._seen.get(vector, 0)] for vector, count in self._counts.items()]
        return {"version": 1, "base": self._base, "mask": self.mask, "vectors": vectors}

    def restore(self, saved: Saved) -> None:
        """Go on where *saved* was taken, in another life of the host; the hints come with `relink`.

        All counters leap ahead: the guest may know higher ones than were saved, and would ignore what is not beyond
        them.  What was seen does not, so that vectors that were ever raised are looked at once more.  Raises ValueError
        for what another version saved.
        """
        check(saved, 1)
        self._base, self.mask = saved["base"] + LEAP, saved["mask"]
        self._counts = {vector: count + LEAP for vector, count, _ in saved["vectors"]}
        self._seen = {vector: seen for vector, _, seen in saved["vectors"]}

    def _notify(self, vector: int) -> None:
        bit = 1 << vector
        count = self._counts.get(vector, 0)
        if not (self._hinted | self.mask) & bit and count > self._seen.get(vector, 0):
            self._hinted |= bit
            self._hint(vector, count)
