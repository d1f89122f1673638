"""The device tree: what there is, by node handle, and what changed.

Siblings stand in the order of their handles, and no handle is used twice.  So a walk that is overtaken by plug and
unplug can go on from what it last saw, and never shows a node twice.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol

from hcall.errors import BadHandle, HcallError, NoMatch, StaleHandle
from hcall.numbers import ADDED, CHANGES_LIMIT, CLASS_SHIFT, FIRST_ASSIGNED_CLASS, LEAVING, REMOVED
from hcall.text import cut, suggest

from ..device import Device
from ..model.handlers import Entry, Handler
from ..model.later import Later

NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9,._+-]{0,30}")  # IEEE 1275, 3.2.1.1: 1 to 31 characters
_LOG: Final = 256  # changes that are kept for CHANGES


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


class Waiting(Protocol):
    """A call that is answered later."""

    since: float
    later: Later[Any]


class Hold(Protocol):
    """One guest's hold on the device of a node, from OPEN to CLOSE."""

    expel: Callable[[str], None]
    pending: set[Any]

    def close(self, then: Callable[[], None] | None = None) -> object:
        """Give the device back."""

    def break_down(self) -> None:
        """The device has failed: nothing but a reset, or CLOSE, works from now on."""


class Node:
    """A place in the tree, with a device or without.  Lists of children are linked: NEXT costs the same everywhere."""

    def __init__(self, name: str, handle: int, parent: Node | None, device: Device | None, class_id: int) -> None:
        self.name, self.handle, self.parent, self.device, self.class_id = name, handle, parent, device, class_id
        self.children: dict[str, Node] = {}
        self.next: Node | None = None
        self.previous: Node | None = None
        self.opens: list[Hold] = []
        if device is not None:
            device.opens = self.opens
        self.tables: dict[int | None, dict[int, Entry]] = {}  # of `Open`, by accepted features
        self.leaving = False
        self.gone = False
        self.failed = False  # its device is broken until a reset of it succeeds
        self.complaint = ""  # of its backing, the last that was logged since the reset
        self.when_closed: list[Callable[[], None]] = []  # called once, when the last open handle is gone
        compatible = device.compatible if device else ()
        self.compatible = (compatible,) if isinstance(compatible, str) else compatible
        self.ids = device.ids if device else (0, 0)
        self.calls = {handler.name: self.number(handler) for handler in (device.handlers if device else ())}

    def number(self, handler: Handler) -> int:
        """The hypercall number of a verb or call here."""
        return self.class_id << CLASS_SHIFT | handler.number

    @property
    def path(self) -> str:
        """`/name/of/each/node` down to this one; `/` is the root."""
        return "/" if self.parent is None else f"{self.parent.path.rstrip('/')}/{self.name}"

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
        if self.device is not None:
            found |= {"compatible": self.compatible, "vendor-id": self.ids[0], "device-id": self.ids[1]}
            found |= {"hcall-class": self.class_id}
            for name in self.device.properties:
                value = getattr(self.device, name, None)
                if value is None:  # it has not been set
                    continue
                found[name.replace("_", "-")] = cut(value) if isinstance(value, str) else value
        return found


class Change(NamedTuple):
    """What CHANGES lists."""

    what: int  # ADDED, LEAVING or REMOVED
    node: int
    parent: int


class Tree:
    """All nodes of a machine."""

    def __init__(self, epoch: int, name: str = "machine") -> None:
        self.handles = Handles(epoch)
        self.nodes: dict[int, Node] = {}
        self.watchers: dict[object, Callable[[Node], None]] = {}  # called with the parent of what changed
        self._classes: dict[object, int] = {}
        self._log: deque[tuple[int, Change]] = deque()  # with their serials: handles of the same counter
        self._forgotten = self.handles.following  # changes before this serial are not in the log
        self.root = self._add(name, None, None)

    def node(self, handle: int) -> Node:
        """The node behind *handle*.  Raises StaleHandle or BadHandle."""
        node = self.nodes.get(handle)
        if node is None:
            raise self.handles.missing(handle)
        return node

    def find(self, path: str) -> Node:
        """The node at *path*.  Raises NoMatch."""
        node = self.root
        for name in path.strip("/").split("/") if path.strip("/") else ():
            try:
                node = node.children[name]
            except KeyError:
                near = suggest(name, node.children)
                raise NoMatch(f"no node {path!r}{near or ': `hostd ls` shows what there is'}") from None
        return node

    def plug(self, path: str, device: Device) -> Node:
        """A new node with *device* at *path*, with the nodes above it that are missing.

        Raises ValueError for a path that is taken, or has a name that is none.
        """
        names = path.strip("/").split("/")
        for name in names:
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no device name: 1 to 31 letters, digits and ,._+-")
        parent = self.root
        for name in names[:-1]:
            parent = parent.children.get(name) or self._add(name, parent, None)
        if parent.leaving:
            raise ValueError(f"{parent.path} is being unplugged")
        if names[-1] in parent.children:
            raise ValueError(f"there is a {path!r} already")
        return self._add(names[-1], parent, device)

    def leave(self, node: Node) -> None:
        """*node* is to be unplugged: nothing below it can be opened any more, and guests are told, deepest first."""
        for below in reversed(list(node.walk())):
            below.leaving = True
            self._note(LEAVING, below)

    def remove(self, node: Node) -> None:
        """*node* and all below it are gone."""
        assert node.parent is not None, "the root stays"
        below = list(node.walk())
        for gone in below:
            del self.nodes[gone.handle]
            gone.leaving = gone.gone = True
        del node.parent.children[node.name]
        if node.previous is not None:
            node.previous.next = node.next
        if node.next is not None:
            node.next.previous = node.previous
        for gone in reversed(below):
            self._note(REMOVED, gone)

    def changes(self, since: int) -> tuple[int, tuple[Change, ...] | None]:
        """(now, the changes from *since* to before *now*), or (now, None): too long ago, walk the tree again."""
        if since < self._forgotten:
            return self.handles.following, None
        later = [(serial, change) for serial, change in self._log if serial >= since]
        if len(later) > CHANGES_LIMIT:
            return later[CHANGES_LIMIT][0], tuple(change for _, change in later[:CHANGES_LIMIT])
        return self.handles.following, tuple(change for _, change in later)

    def _add(self, name: str, parent: Node | None, device: Device | None) -> Node:
        node = Node(name, self.handles.new(), parent, device, self._class_id(device) if device else 0)
        self.nodes[node.handle] = node
        if parent is not None:
            node.previous = next(reversed(parent.children.values()), None)
            if node.previous is not None:
                node.previous.next = node
            parent.children[name] = node
            self._note(ADDED, node, node.handle)
        return node

    def _class_id(self, device: Device) -> int:
        """The 16-bit device id; for a model without one, or if two vendors collide, one from 0x8000."""
        sort: object = device.ids if device.ids != (0, 0) else device.compatible
        if sort not in self._classes:
            taken = set(self._classes.values())
            own = device.ids[1]
            free = next(number for number in range(FIRST_ASSIGNED_CLASS, 1 << 16) if number not in taken)
            self._classes[sort] = free if own == 0 or own in taken else own
        return self._classes[sort]

    def _note(self, what: int, node: Node, serial: int | None = None) -> None:
        assert node.parent is not None
        self._log.append((serial or self.handles.new(), Change(what, node.handle, node.parent.handle)))
        if len(self._log) > _LOG:
            self._forgotten = self._log.popleft()[0] + 1
        for watcher in list(self.watchers.values()):
            watcher(node.parent)
