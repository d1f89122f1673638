"""Handles: 64 bits, an epoch and a counter, for nodes, holds, changes and lanes alike."""

from __future__ import annotations

from hcall.errors import BadHandle, HcallError, StaleHandle


class Handles:
    """One counter for handles of every sort: none is ever used again, in this epoch or another."""

    def __init__(self, epoch: int) -> None:
        self._first = self.following = epoch << 48 | 1

    def new(self) -> int:
        """A handle that nothing else has or had."""
        self.following += 1
        return self.following - 1

    def missing(self, handle: int) -> HcallError:
        """Why there is nothing behind *handle*: it was, or it never was."""
        if self._first <= handle < self.following:
            return StaleHandle(f"handle {handle:#x} is gone")
        return BadHandle(f"handle {handle:#x} was never given")
