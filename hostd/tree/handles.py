"""Handles: 64 bits, an epoch and a counter, for nodes, holds, changes and lanes alike."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hcall.errors import BadHandle, HcallError, StaleHandle


class Handles:
    """One counter for handles of every sort: none is ever used again, in this epoch or another."""

    def __init__(
        self, epoch: int, used: tuple[int, int] | None = None, given: Mapping[str, int] = MappingProxyType({})
    ) -> None:
        """Another life had those *used*, from the first to before the second; those *given* are the nodes' at paths."""
        self.first = self.following = epoch << 48 | 1
        if used is not None:
            self.first, self.following = min(self.first, used[0]), max(self.following, used[1])
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
        if self.first <= handle < self.following:
            return StaleHandle(f"handle {handle:#x} is gone")
        return BadHandle(f"handle {handle:#x} was never given")
