"""Handles: 64 bits, an epoch and a counter, for nodes, holds, changes and lanes alike."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hcall.errors import BadHandle, HcallError, StaleHandle


class Handles:
    """One counter for handles of every sort: none is ever used again, in this epoch or another."""

    def __init__(self, epoch: int, following: int = 0, given: Mapping[str, int] = MappingProxyType({})) -> None:
        """All before *following* have been used; those *given* are still the nodes' at these paths."""
        self._first = epoch << 48 | 1
        self.following = max(self._first, following)
        self._given = dict(given)

    def new(self) -> int:
        """A handle that nothing else has or had."""
        self.following += 1
        return self.following - 1

    def given(self, path: str) -> int | None:
        """The handle that the node at *path* has had all the time; once, for what comes there later is another."""
        return self._given.pop(path, None)

    def missing(self, handle: int) -> HcallError:
        """Why there is nothing behind *handle*: it was, or it never was."""
        if self._first <= handle < self.following:
            return StaleHandle(f"handle {handle:#x} is gone")
        return BadHandle(f"handle {handle:#x} was never given")
