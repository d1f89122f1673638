"""The tree as a PCI bus has it: each device a function, 31 slots of a bus, and the 32nd for the bridge to the next.

A bus has a bridge as soon as there are devices beyond it: an extension chassis.  What stands below a device goes with
it, and so do the functions of a slot: up to seven of them are functions 1 to 7 beside it.  A device keeps its address
as long as it is there.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from hcall.formats import pci

from ..node import Node

log = logging.getLogger(__name__)

PLACES: Final = pci.SLOTS - 1  # for devices: the last slot of a bus is a bridge's
MOST: Final = pci.BUSES * PLACES  # slots with devices
#: An address rests until so many others were left, if there are others to give: who looks late finds nothing there
#: rather than something else.
REST: Final = 64


class Pci:
    """Which device is where."""

    def __init__(self, saved: Mapping[str, int] = MappingProxyType({})) -> None:
        """What stood at a path when it was *saved* is found where it was, if it comes again."""
        self._given = dict(saved)
        self._nodes: dict[int, Node] = {}  # by address
        self._addresses: dict[int, int] = {}  # by node handle
        self._fresh = max(
            (_index(where) + 1 for where in self._given.values()), default=0
        )  # from here on none was used
        self._resting = dict.fromkeys(where & ~7 for where in self._given.values())  # slots; those left first are first
        self._left: dict[int, dict[int, None]] = {}  # functions that were left, by slot, the same way
        self._used = [0] * pci.BUSES  # slots with devices, by bus
        self._full = False  # and that was said
        self.last_bus = 0  # with a device

    def save(self) -> dict[str, int]:
        """Addresses by path."""
        return {node.path: where for where, node in self._nodes.items()}

    def address(self, node: Node) -> int | None:
        """Where *node* is found; None: it has no device, or there was no room."""
        return self._addresses.get(node.handle)

    def at(self, address: int) -> Node | None:
        """What is found there, but for bridges."""
        return self._nodes.get(address)

    def bridge(self, address: int) -> bool:
        """Whether there is a bridge, to the next bus."""
        bus, slot, function = pci.place(address)
        return slot == PLACES and function == 0 and bus < self.last_bus

    def add(self, node: Node) -> None:
        """*node* has come.  If all buses are full, its device is not found this way, and the log says so."""
        if node.plugged is None:
            return
        slot = self._slot_of(node)
        where = self._given.pop(node.path, None)
        if where in self._nodes or (where is not None and where & 7 and where & ~7 != slot):
            where = None
        if where is None:
            where = self._function(slot)
        if where is None:
            where = self._slot()
        if where is None:
            if not self._full:
                log.warning("%s is not found as on a PCI bus, nor is what comes after it: all %d slots are taken; the "
                            "other ways to probe find it", node.path, MOST)  # fmt: skip
            self._full = True
            return
        if where & 7 == 0:
            self._resting.pop(where, None)
            bus, _, _ = pci.place(where)
            self._used[bus] += 1
            self.last_bus = max(self.last_bus, bus)
        self._nodes[where] = node
        self._addresses[node.handle] = where

    def remove(self, node: Node) -> None:
        """*node* is gone."""
        where = self._addresses.pop(node.handle, None)
        if where is None:
            return
        del self._nodes[where]
        if where & 7:
            self._left.setdefault(where & ~7, {})[where] = None
            return
        self._left.pop(where, None)
        self._full = False
        self._resting[where] = None
        self._used[pci.place(where)[0]] -= 1
        while self.last_bus and not self._used[self.last_bus]:
            self.last_bus -= 1

    def _slot_of(self, node: Node) -> int | None:
        """The slot of the device that *node* goes with, if it does with one."""
        slot, above = None, node.parent
        while above is not None:
            slot, above = self._addresses.get(above.handle, slot), above.parent
        return slot if slot is None else slot & ~7

    def _function(self, slot: int | None) -> int | None:
        """A free function of *slot*."""
        if slot is None:
            return None
        left = self._left.get(slot, {})
        there = [slot + number for number in range(1, pci.FUNCTIONS) if slot + number not in self._nodes]
        free = next((where for where in there if where not in left), next(iter(left), None))
        if free is not None:
            left.pop(free, None)
        return free

    def _slot(self) -> int | None:
        if len(self._resting) <= REST and self._fresh < MOST:
            self._fresh += 1
            return pci.address(*divmod(self._fresh - 1, PLACES))
        return next(iter(self._resting), None)


def _index(address: int) -> int:
    bus, slot, _ = pci.place(address)
    return bus * PLACES + slot
