"""Devices by class, in the order of their handles, and who waits for one that is free.

A class is a string that a device is compatible with, as a driver's match has it; the class "" has all devices.
"""

from __future__ import annotations

import bisect
import operator
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from ..node import Node

ANY: Final = ""
WAITS: Final = 64  # classes that one waits for; who waits for more waits for any

#: Hears that the device of a node may be had now; False: not by this one, which goes on waiting.
Told: TypeAlias = Callable[[Node], bool]
_handle: Final = operator.attrgetter("handle")


def classes(node: Node) -> tuple[str, ...]:
    """The classes of the device of *node*; none without one."""
    return (ANY, *dict.fromkeys(node.compatible)) if node.plugged is not None else ()


def is_free(node: Node) -> bool:
    """Whether the device of *node* can be opened once more."""
    plugged = node.plugged
    return plugged is not None and not node.leaving and (plugged.device.shared or not plugged.holds)


class Classes:
    """Of one tree."""

    def __init__(self) -> None:
        self._nodes: dict[str, list[Node]] = {}
        self._waiting: dict[str, dict[object, Told]] = {}  # who came first is told first
        self._waits: dict[object, set[str]] = {}  # the same, by who waits

    def add(self, node: Node) -> None:
        """*node* is in the tree."""
        for sort in classes(node):
            bisect.insort(self._nodes.setdefault(sort, []), node, key=_handle)

    def remove(self, node: Node) -> None:
        """*node* is there no more."""
        for sort in classes(node):
            nodes = self._nodes[sort]
            del nodes[bisect.bisect_left(nodes, node.handle, key=_handle)]
            if not nodes:
                del self._nodes[sort]

    def after(self, sort: str, handle: int) -> Node | None:
        """The first node of a class whose handle is greater."""
        nodes = self._nodes.get(sort, ())
        at = bisect.bisect_right(nodes, handle, key=_handle)
        return nodes[at] if at < len(nodes) else None

    # Who waits.

    def enlist(self, who: object, sort: str, told: Told) -> None:
        """*who* is told, once, when a device of the class may be free."""
        waits = self._waits.setdefault(who, set())
        if sort not in waits and len(waits) >= WAITS:
            sort = ANY
        waits.add(sort)
        self._waiting.setdefault(sort, {})[who] = told

    def waits(self, who: object) -> list[str]:
        """The classes that *who* waits for."""
        return sorted(self._waits.get(who, ()))

    def forget(self, who: object, *sorts: str) -> None:
        """*who* waits for these classes no more; for none, if none is named."""
        waits = self._waits.get(who, set())
        for sort in sorts or tuple(waits):
            if sort in waits:
                waits.remove(sort)
                del self._waiting[sort][who]
                if not self._waiting[sort]:
                    del self._waiting[sort]
        if not waits:
            self._waits.pop(who, None)

    def is_awaited(self, node: Node) -> bool:
        """Whether somebody waits for a device such as that of *node*."""
        return bool(self._waiting) and not self._waiting.keys().isdisjoint(classes(node))

    def tell(self, node: Node) -> Iterator[None]:
        """Tell those who wait that the device of *node* is free, each in a step, as long as it is."""
        for sort in classes(node):
            for who in list(self._waiting.get(sort, ())):
                told = self._waiting.get(sort, {}).get(who)
                if not is_free(node):
                    return
                if told is not None and told(node):
                    self.forget(who, sort)
                yield
