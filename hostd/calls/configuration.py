"""What a guest wrote into the configuration space of devices: its own view of them, which nobody else has.

A device that goes takes it along, and the next guest, or the same after its end, finds the space as it was at first.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from types import MappingProxyType
from typing import Any, Final

from hcall.errors import Busy

from .limits import Limits
from .shares import CONFIGURED, Purse

_NOTHING: Final[Mapping[int, int]] = MappingProxyType({})


class Configuration:
    """Of one guest."""

    __slots__ = ("_limits", "_nodes", "_purse", "_written")

    def __init__(self, limits: Limits, purse: Purse, nodes: Container[int]) -> None:
        """*nodes* are the handles of those that there are; *purse* pays for each device that is written to."""
        self._limits, self._purse, self._nodes = limits, purse, nodes
        self._written: dict[int, dict[int, int]] = {}  # by node handle: fours of bytes, by their offset

    def of(self, node: int) -> Mapping[int, int]:
        """What was written for a *node*."""
        return self._written.get(node, _NOTHING)

    def write(self, node: int, offset: int, value: int) -> None:
        """Note four bytes for a *node*.  Raises Busy if that are too many devices."""
        of_node = self._written.get(node)
        if of_node is None:
            of_node = self._room_for(node)
        of_node[offset] = value

    def save(self) -> list[Any]:
        """What `restore` needs."""
        return [[node, [list(each) for each in written.items()]] for node, written in self._written.items()]

    def restore(self, saved: list[Any]) -> None:
        """Go on where *saved* was taken."""
        for node, written in saved:
            self._written[node] = dict(written)
            self._purse.owe(CONFIGURED)

    def _room_for(self, node: int) -> dict[int, int]:
        if len(self._written) >= self._limits.handles:
            for gone in [each for each in self._written if each not in self._nodes]:
                del self._written[gone]
                self._purse.give(CONFIGURED)
        if len(self._written) >= self._limits.handles:
            raise Busy(f"a guest has at most {self._limits.handles} {CONFIGURED}")
        self._purse.take(CONFIGURED)
        return self._written.setdefault(node, {})
