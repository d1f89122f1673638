"""A place in the device tree."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from hcall.formats.pci import VENDOR
from hcall.text import cut

from ..device import Device
from .plugged import Holder, Plugged


class Node:
    """A place in the tree, with a device or without.  Lists of children are linked: NEXT costs the same everywhere."""

    def __init__(self, name: str, handle: int, parent: Node | None, plugged: Plugged | None = None) -> None:
        self.name, self.handle, self.parent, self.plugged = name, handle, parent, plugged
        self.children: dict[str, Node] = {}
        self.next: Node | None = None
        self.previous: Node | None = None
        self.leaving = False
        self.gone = False
        strings = plugged.device.compatible if plugged is not None else ()
        self.compatible = (strings,) if isinstance(strings, str) else strings  # what drivers match, the best first
        self.ids = plugged.device.ids if plugged is not None else (0, 0)  # 16-bit vendor and device; (0, 0) = none

    @property
    def device(self) -> Device | None:
        """What is plugged in here, if anything."""
        return self.plugged.device if self.plugged is not None else None

    @property
    def bus_ids(self) -> tuple[int, int]:
        """By which a bus knows it that has no compatible strings: without ids, this project's, and its class."""
        return self.ids if self.plugged is None or any(self.ids) else (VENDOR, self.plugged.class_id)

    @property
    def opens(self) -> Collection[Holder]:
        """The holds on its device."""
        return self.plugged.holds if self.plugged is not None else ()

    @property
    def failed(self) -> bool:
        """Whether its device is broken, until a reset of it succeeds."""
        return self.plugged is not None and self.plugged.failed

    @property
    def path(self) -> str:
        """`/name/of/each/node` down to this one; `/` is the root."""
        return "/" if self.parent is None else f"{self.parent.path.rstrip('/')}/{self.name}"

    def adopt(self, child: Node) -> None:
        """*child* stands below this one from now on, where its handle belongs."""
        child.previous = next((each for each in reversed(self.children.values()) if each.handle < child.handle), None)
        child.next = self.first_child if child.previous is None else child.previous.next
        self.children[child.name] = child
        if child.previous is not None:
            child.previous.next = child
        if child.next is not None:  # only what was saved comes before others
            child.next.previous = child
            self.children = dict(sorted(self.children.items(), key=lambda item: item[1].handle))

    @property
    def first_child(self) -> Node | None:
        """The child that was plugged first."""
        return next(iter(self.children.values()), None)

    def walk(self) -> Iterator[Node]:
        """This node and all below it, parents first."""
        yield self
        for child in list(self.children.values()):
            yield from child.walk()

    def properties(self) -> dict[str, object]:
        """All properties by name, the standard ones first."""
        found: dict[str, object] = {"name": self.name}
        if self.plugged is not None:
            found |= {"compatible": self.compatible, "vendor-id": self.ids[0], "device-id": self.ids[1]}
            found |= {"hcall-class": self.plugged.class_id}
            for name in self.plugged.device.declares.properties:
                value = getattr(self.plugged.device, name, None)
                if value is None:  # it has not been set
                    continue
                found[name.replace("_", "-")] = cut(value) if isinstance(value, str) else value
        return found
