"""The device tree: what there is, by node handle, and what changed.

Siblings stand in the order of their handles, and no handle is used twice.  So a walk that is overtaken by plug and
unplug can go on from what it last saw, and never shows a node twice.
"""

from __future__ import annotations

import bisect
import operator
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple, TypeAlias

from hcall.errors import NoMatch
from hcall.numbers import ADDED, CHANGES_LIMIT, FIRST_ASSIGNED_CLASS, LEAVING, REMOVED
from hcall.programs.mistakes import InUse
from hcall.saved import Saved, check
from hcall.text import cut, suggest

from ..device import Device
from .faces.ccw import Ccw
from .faces.claim import Classes
from .faces.pci import Pci
from .handles import Handles
from .long_calls import LongCalls
from .node import Node
from .plugged import Plugged

NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9,._+-]{0,30}")  # IEEE 1275, 3.2.1.1: 1 to 31 characters
DEPTH: Final = 32  # names of a path at most: what walks the tree, or tells of it, goes down a call for each
_VERSION: Final = 1  # of what is saved
LOG: Final = 256  # changes that are kept for CHANGES


def path_mistakes(path: str) -> Iterator[str]:
    """What is wrong with *path*, without its first slash, as the place of a device."""
    if path.count("/") >= DEPTH:
        yield f"a path has {DEPTH} names at most, not {path.count('/') + 1}"
    else:
        for name in path.split("/"):
            if not NAME.fullmatch(name):
                yield f"{cut(name)!r} is no device name: 1 to 31 letters, digits and ,._+-"


class Change(NamedTuple):
    """What CHANGES lists."""

    what: int  # ADDED, LEAVING or REMOVED
    node: int
    parent: int


#: Hears of each change: ADDED, LEAVING or REMOVED, the node, and its parent.
Watcher: TypeAlias = Callable[[int, Node, Node], None]

#: Whether the node at a path is there for somebody.
Sees: TypeAlias = Callable[[str], bool]


class Tree:
    """All nodes of a machine."""

    def __init__(self, epoch: int, name: str = "machine", saved: Saved | None = None) -> None:
        """What is plugged where it stood when it was *saved*, in this epoch, has the handle and numbers of then.

        Raises ValueError if another version of this has saved it.
        """
        saved = saved or {"version": _VERSION, "used": None, "nodes": {}, "classes": [], "log": [], "forgotten": None}
        check(saved, _VERSION)
        self.handles = Handles(epoch, saved["used"], saved["nodes"])
        self.nodes: dict[int, Node] = {}
        self._order: list[int] = []  # their handles, from the least on
        self.watchers: dict[object, Watcher] = {}
        self.long_calls = LongCalls()  # of the core
        self.classes, self.ccw = Classes(), Ccw(saved.get("ccw", {}))
        #: Does what is a step for each watcher: the host's chores, if there is a host.
        self.chore: Callable[[Iterator[None]], object] = list
        self.pci = Pci(saved.get("pci", {}))
        self._classes: dict[tuple[object, ...], int] = {tuple(sort): number for sort, number in saved["classes"]}
        #: With serials, of the same counter as handles, and paths.
        self._log = deque((serial, Change(*change), path) for serial, change, path in saved["log"])
        self._forgotten: int = saved["forgotten"] or self.handles.following  # changes before this serial are not there
        self.root = self._add(name, None, None)

    def save(self) -> Saved:
        """What another tree needs to be this one, once all is plugged there, too."""
        return {
            "version": _VERSION, "used": [self.handles.first, self.handles.following],
            "nodes": {node.path: node.handle for node in self.nodes.values()},
            "classes": [[list(sort), number] for sort, number in self._classes.items()],
            "pci": self.pci.save(), "ccw": self.ccw.save(),
            "log": [[serial, list(change), path] for serial, change, path in self._log], "forgotten": self._forgotten,
        }  # fmt: skip

    def node(self, handle: int) -> Node:
        """The node behind *handle*.  Raises StaleHandle or BadHandle."""
        node = self.nodes.get(handle)
        if node is None:
            raise self.handles.missing(handle)
        return node

    def following(self, handle: int, count: int) -> list[Node]:
        """The nodes whose handles are greater than *handle*, the least first, *count* at most."""
        start = bisect.bisect_right(self._order, handle)
        return [self.nodes[each] for each in self._order[start : start + count]]

    def find(self, path: str, sees: Sees | None = None) -> Node:
        """The node at *path*, among those that somebody *sees*.  Raises NoMatch."""
        node = self.root
        for name in path.strip("/").split("/") if path.strip("/") else ():
            child = node.children.get(name)
            if child is None or (sees is not None and not sees(child.path)):
                there = [each.name for each in node.children.values() if sees is None or sees(each.path)]
                raise NoMatch(f"no node {path!r}{suggest(name, there) or ': `hostd ls` shows what there is'}")
            node = child
        return node

    def overran(self) -> list[dict[str, Any]]:
        """Which calls and hooks took longer than a turn, of which device, or of the core: how often, how long at most.

        Milliseconds; those that took the longest first.
        """
        of_devices = [(node.path, node.plugged.long_calls) for node in self.nodes.values() if node.plugged is not None]
        found: list[dict[str, Any]] = [
            {"device": path, "call": name, "count": count, "longest_ms": round(longest * 1000, 1)}
            for path, calls in [(None, self.long_calls), *of_devices]
            for name, (count, longest) in calls.by_name.items()
        ]
        return sorted(found, key=operator.itemgetter("longest_ms"), reverse=True)

    def check(self, path: str) -> None:
        """Whether something can be plugged at *path* now.  Raises InUse, it is taken or leaves, or ValueError."""
        for mistake in path_mistakes(path.strip("/")):
            raise ValueError(mistake)
        *above, name = path.strip("/").split("/")
        parent: Node | None = self.root
        for each in above:
            parent = parent.children.get(each) if parent is not None else None
            if parent is not None and parent.leaving:
                raise InUse(f"{parent.path} is being unplugged: try again when it is gone")
        if parent is not None and name in parent.children:
            raise InUse(f"there is a {path!r} already: unplug it first, or take another name")

    def plug(self, path: str, plugged: Plugged) -> Node:
        """A new node with a device at *path*, with the nodes above it that are missing.  Raises as `check`."""
        self.check(path)
        *above, name = path.strip("/").split("/")
        parent = self.root
        for each in above:
            parent = parent.children.get(each) or self._add(each, parent, None)
        plugged.class_id = self._class_id(plugged.device)
        node = self._add(name, parent, plugged)
        self.classes.add(node)
        self.ccw.add(node)
        plugged.when_idle = partial(self._free, node)
        self._free(node)
        return node

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
            self.classes.remove(gone)
            self.ccw.remove(gone)
            del self._order[bisect.bisect_left(self._order, gone.handle)]
            self.pci.remove(gone)
            gone.leaving = gone.gone = True
        del node.parent.children[node.name]
        if node.previous is not None:
            node.previous.next = node.next
        if node.next is not None:
            node.next.previous = node.previous
        for gone in reversed(below):
            self._note(REMOVED, gone)

    def changes(
        self, since: int, sees: Sees | None = None, own: Iterable[tuple[int, Change]] = ()
    ) -> tuple[int, tuple[Change, ...] | None]:
        """(now, the changes from *since* to before *now*), or (now, None): too long ago, walk the tree again.

        Of those among nodes that somebody *sees*; and of *own*, somebody's who came to see others, with their serials.
        """
        if since < self._forgotten:
            return self.handles.following, None
        later = [(serial, change) for serial, change, path in self._log if serial >= since and (not sees or sees(path))]
        later = sorted([*later, *(each for each in own if each[0] >= since)])
        if len(later) > CHANGES_LIMIT:
            return later[CHANGES_LIMIT][0], tuple(change for _, change in later[:CHANGES_LIMIT])
        return self.handles.following, tuple(change for _, change in later)

    def _add(self, name: str, parent: Node | None, plugged: Plugged | None) -> Node:
        node = Node(name, 0, parent, plugged)
        given = self.handles.given(node.path)
        node.handle = given or self.handles.new()
        self.nodes[node.handle] = node
        bisect.insort(self._order, node.handle)
        self.pci.add(node)
        if parent is not None:
            parent.adopt(node)
            if not given:  # else it was there all the time
                self._note(ADDED, node, node.handle)
        return node

    def _class_id(self, device: Device) -> int:
        """The 16-bit device id; for a model without one, or if two vendors collide, one from 0x8000."""
        names = device.compatible
        sort = device.ids if device.ids != (0, 0) else (names,) if isinstance(names, str) else names
        if sort not in self._classes:
            taken = set(self._classes.values())
            own = device.ids[1]
            free = next(number for number in range(FIRST_ASSIGNED_CLASS, 1 << 16) if number not in taken)
            self._classes[sort] = free if own == 0 or own in taken else own
        return self._classes[sort]

    def _note(self, what: int, node: Node, serial: int | None = None) -> None:
        assert node.parent is not None
        self._log.append((serial or self.handles.new(), Change(what, node.handle, node.parent.handle), node.path))
        if len(self._log) > LOG:
            self._forgotten = self._log.popleft()[0] + 1
        if self.watchers:
            self.chore(self._told(what, node, node.parent))

    def _free(self, node: Node) -> None:
        """The device of *node* may be opened: those who wait for one are told."""
        if self.classes.is_awaited(node):
            self.chore(self.classes.tell(node))

    def _told(self, what: int, node: Node, parent: Node) -> Iterator[None]:
        for key in list(self.watchers):
            if (watcher := self.watchers.get(key)) is not None:  # it may have ended meanwhile
                watcher(what, node, parent)
                yield
