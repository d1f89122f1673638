"""The tree as a channel subsystem has it: each device at a subchannel, in the order in which they came.

A device keeps its subchannel as long as it is there, and no other is given it before all 262,144 were used.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from hcall.formats.ccw import NUMBERS, SETS
from hcall.formats.ccw import place as place_of

from ..node import Node

log = logging.getLogger(__name__)
MOST: Final = SETS * NUMBERS


class Ccw:
    """Which device is where: places count through all sets."""

    def __init__(self, saved: Mapping[str, Any] = MappingProxyType({})) -> None:
        """What stood at a path when it was *saved* is found where it was, if it comes again."""
        self._given: dict[str, int] = dict(saved.get("nodes", ()))
        self._used: int = saved.get("used", 0)  # from here on none was given
        self._nodes: dict[int, Node] = {}  # by place
        self._places: dict[int, int] = {}  # by node handle
        self._left = dict.fromkeys(self._given.values())  # places; those left first are first
        self._full = False  # and that was said

    def save(self) -> dict[str, Any]:
        """What another one begins with."""
        return {"used": self._used, "nodes": {node.path: place for place, node in self._nodes.items()}}

    def add(self, node: Node) -> None:
        """*node* has come."""
        if node.plugged is None:
            return
        place = self._given.pop(node.path, None)
        if place is None or place in self._nodes:
            place = self._free()
        if place is None:
            if not self._full:
                log.warning("%s has no subchannel, nor has what comes after it: all %d are taken; the other ways to "
                            "probe find it", node.path, MOST)  # fmt: skip
            self._full = True
            return
        self._left.pop(place, None)
        self._nodes[place] = node
        self._places[node.handle] = place

    def remove(self, node: Node) -> None:
        """*node* is gone."""
        place = self._places.pop(node.handle, None)
        if place is not None:
            del self._nodes[place]
            self._left[place] = None
            self._full = False

    def at(self, number_of_set: int, number: int) -> Node | None:
        """The node that has the device there."""
        return self._nodes.get(number_of_set * NUMBERS + number)

    def node(self, word: int) -> Node | None:
        """The same by the subsystem-identification word."""
        return self.at(*place_of(word))

    def place(self, node: Node) -> tuple[int, int] | None:
        """The set and number of *node*."""
        place = self._places.get(node.handle)
        return None if place is None else divmod(place, NUMBERS)

    def exists(self, number_of_set: int, number: int) -> bool:
        """Whether there is a subchannel, with a device or without."""
        return number_of_set * NUMBERS + number < self._used

    def _free(self) -> int | None:
        if self._used < MOST:
            self._used += 1
            return self._used - 1
        return next(iter(self._left), None)
