"""What one guest has: the devices it holds, the memory it lent, the nodes it sees and watches.

Knows no lane and no socket.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Protocol

from hcall import numbers
from hcall.errors import BadArgument, BadHandle, Busy, HcallError, IoError, NotAllowed, NotOpen
from hcall.formats import ccw
from hcall.saved import Saved, check

from ..model.later import Later
from ..tree.complaints import Complaints
from ..tree.node import Node
from ..tree.tree import LOG, Change, Sees, Tree
from .channels.subchannels import Subchannels
from .configuration import Configuration
from .hold import Hold
from .limits import Limits
from .memory import Lending, Memory, Region
from .shares import OPENS, Purse
from .vectors import Vectors

#: What most guests watch, and never added to.
_NOTHING: Final[dict[int, Vectors]] = {}


class Ring(Protocol):
    """A ring of a device that is open: a lane."""

    def kick(self) -> None:
        """There are calls in it."""


class Rings(Protocol):
    """Those of one guest."""

    def add(
        self, hold: Hold, size: int, addresses: tuple[int, int, int], features: int, kick: int, tell: int
    ) -> int | Later[int]:
        """The handle of another one.  Raises BadArea or Busy."""

    def find(self, handle: int) -> Ring:
        """The one behind *handle*.  Raises BadHandle or StaleHandle."""

    def remove(self, handle: int, then: Callable[[], None]) -> None:
        """That one takes nothing more; *then* follows when all that was taken is answered.  Raises as `find`."""


class Owner(Protocol):
    """Whose account it is: a guest."""

    @property
    def name(self) -> str:
        """For people; it can be printed."""

    @property
    def complaints(self) -> Complaints:
        """What went wrong for it that no device did."""

    @property
    def number(self) -> int:
        """No other guest of the host has it, however long this one is gone."""

    @property
    def purse(self) -> Purse:
        """What it has of its user's share."""

    def hint(self, tag: int, vector: int, count: int) -> None:
        """Tell it of an interrupt."""

    def lend(self, number: int, start: int, size: int, offset: int | None, then: Lending) -> None:
        """Give *then* the region that the descriptor is that it sent with *number*, soon.  Raises Busy."""

    def free(self, region: Region, then: Callable[[], None]) -> None:
        """Unmap *region* as soon as no call under way looks at it; *then* follows."""

    def go_on(self, steps: Iterator[None]) -> None:
        """Do *steps* in its turns: now, as far as there is time."""

    @property
    def rings(self) -> Rings:
        """Its rings."""

    def detach(self, then: Callable[[], None]) -> None:
        """It has said DETACH: its devices are given back, and *then* follows."""

    @property
    def sees(self) -> Sees | None:
        """Whether the node at a path is there for it; what is below one that is not is not either.  None: all are."""

    @property
    def opens(self) -> Sees | None:
        """Whether it may open the node at a path, if it sees it.  None: it may."""


class Account:
    """What one guest has."""

    __slots__ = ("_forgotten", "_own", "channels", "configuration", "holds", "limits", "memory", "owner", "tree",
                 "watched")  # fmt: skip

    def __init__(self, tree: Tree, limits: Limits, owner: Owner) -> None:
        self.tree, self.limits, self.owner = tree, limits, owner
        self.memory = Memory(limits, owner.purse, owner.free)
        self.configuration = Configuration(limits, owner.purse, tree.nodes)
        self.channels = Subchannels(limits, owner.purse, self.memory, self.hint)
        self.holds: dict[int, Hold] = {}  # by open handle
        self.watched = _NOTHING  # by node handle: numbers.CHILDREN and AVAILABLE
        self._own: Sequence[tuple[int, Change]] = ()  # with serials: what came and went for this guest alone
        self._forgotten = 0  # such changes before this serial are not there

    @property
    def number(self) -> int:
        """The guest's."""
        return self.owner.number

    @property
    def name(self) -> str:
        """The guest's, for people."""
        return self.owner.name

    def complain(self, number: int, error: BaseException, *, is_expected: bool = False) -> None:
        """See `Caller`."""
        self.owner.complaints.note(numbers.CORE.get(number, f"call {number:#x}"), error, is_expected=is_expected)

    # The tree, as far as the guest sees it.

    def sees(self, node: Node) -> bool:
        """Whether *node* is there for the guest."""
        return self.owner.sees is None or self.owner.sees(node.path)

    def node(self, handle: int) -> Node:
        """The node behind *handle*.  Raises StaleHandle or BadHandle."""
        if handle in self.holds:
            raise BadHandle(f"{handle:#x} is an open handle, not a node's")
        node = self.tree.nodes.get(handle)
        if node is None or (self.owner.sees is not None and not self.sees(node)):
            raise self.tree.handles.missing(handle)
        return node

    def find(self, path: str) -> Node:
        """The node at *path*.  Raises NoMatch."""
        return self.tree.find(path, self.owner.sees)

    def first_child(self, node: Node) -> Node | None:
        """The first that the guest sees."""
        return self._seen(node.first_child)

    def next(self, node: Node) -> Node | None:
        """The next sibling that the guest sees."""
        return self._seen(node.next)

    def changes(self, since: int) -> tuple[int, tuple[Change, ...] | None]:
        """As `Tree.changes`, of what the guest sees; from now on it is told that there are more."""
        self.tree.watchers.setdefault(self, self._changed)
        return self.tree.changes(since if since >= self._forgotten else 0, self.owner.sees, self._own)

    def revise(self, before: Sees | None) -> Iterator[None]:
        """What it sees and opens is not what it was *before*: what it sees no longer is gone, as if unplugged.

        It is told of what comes and goes; what it may not open any more it has not open after as many steps.
        """
        after = self.owner.sees
        came: list[Node] = []
        went: list[Node] = []
        for node in self.tree.root.walk():
            saw, sees = (not each or each(node.path) for each in (before, after))
            if saw is not sees:
                (came if sees else went).append(node)
        changed = [(numbers.REMOVED, node) for node in reversed(went)] + [(numbers.ADDED, node) for node in came]
        changes = [(what, node, node.parent) for what, node in changed if node.parent is not None]
        own = [*self._own]
        own += ((self.tree.handles.new(), Change(what, node.handle, above.handle)) for what, node, above in changes)
        if len(own) > LOG:
            self._forgotten = own[-LOG - 1][0] + 1
        self._own = own[-LOG:]
        if self in self.tree.watchers:
            for node in went:
                self.watched.pop(node.handle, None)
            for handle in dict.fromkeys(above.handle for _, _, above in changes if self.sees(above)):
                self.watch(handle).fire(numbers.CHILDREN)
        if self.tree.classes.waits(self):
            self._available()
        return self._close_what_is_not_its()

    def _close_what_is_not_its(self) -> Iterator[None]:
        for hold in list(self.holds.values()):
            opens = self.owner.opens
            if hold.handle in self.holds and opens is not None and not opens(hold.plugged.path):
                hold.close()
            yield

    def _seen(self, node: Node | None) -> Node | None:
        """*node*, or the next sibling that the guest sees."""
        if self.owner.sees is None:
            return node
        while node is not None and not self.sees(node):
            node = node.next
        return node

    def _changed(self, what: int, node: Node, parent: Node) -> None:
        """Hint that the children of *parent* changed: vector 0 of that node, unless it has gone with them."""
        if what == numbers.REMOVED:
            self.watched.pop(node.handle, None)
        if not parent.gone and self.sees(node):
            self.watch(parent.handle).fire(numbers.CHILDREN)

    def enlist(self, sort: str) -> None:
        """Tell the guest when there may be a free device of that class for it: once, by an interrupt of the root."""
        self.tree.classes.enlist(self, sort, self._told)

    def _told(self, node: Node) -> bool:
        if not self.may_open(node):
            return False
        self._available()
        return True

    def _available(self) -> None:
        self.watch(self.tree.root.handle).fire(numbers.AVAILABLE)

    def attend(self) -> None:
        """The guest knows subchannels: from now on devices that are to leave call for its attention there."""
        self.tree.watchers.setdefault(self.channels, self._leaves)

    def _leaves(self, what: int, node: Node, parent: Node) -> None:
        place = self.tree.ccw.place(node) if what == numbers.LEAVING and self.sees(node) else None
        if place is not None:
            with suppress(Busy):  # it tests nothing
                self.channels.call(ccw.subchannel(*place), node)

    def watch(self, handle: int) -> Vectors:
        """The interrupts of a node, or the one of a ring."""
        if self.watched is _NOTHING:
            self.watched = {}
        if handle not in self.watched:
            self.watched[handle] = Vectors(partial(self.hint, handle))
        return self.watched[handle]

    # Holds.

    def may_open(self, node: Node) -> bool:
        """Whether *node* is there for the guest, and its device to open."""
        return self.sees(node) and (self.owner.opens is None or self.owner.opens(node.path))

    def open(self, node: Node, cookie: int) -> Hold:
        """Open the device of *node*.  Its interrupts carry *cookie*, or the handle if that is 0."""
        plugged = node.plugged
        if plugged is None:
            raise NotAllowed(f"{node.path} has no device")
        if self.owner.opens is not None and not self.owner.opens(node.path):
            raise NotAllowed(f"{node.path} is for you to see, not to open: so says the machine's policy")
        if node.leaving:
            raise Busy(f"{node.path} is being unplugged")
        if plugged.holds and not plugged.device.shared:
            raise Busy(f"{node.path} is in use: `hostd ls` shows by whom")
        self.check(cookie)
        if plugged.failed:
            plugged.reset()
        if plugged.failed:
            raise IoError(f"{node.path} has failed, and cannot be reset; the host's log says why")
        self.owner.purse.take(OPENS)
        hold = Hold(plugged, self.tree.handles.new(), cookie, self)
        self.holds[hold.handle] = hold
        return hold

    def check(self, cookie: int) -> None:
        """Whether something can be opened with *cookie*.  Raises Busy or BadArgument."""
        if len(self.holds) >= self.limits.handles:
            raise Busy(f"a guest has at most {self.limits.handles} devices open")
        if not 0 <= cookie < 1 << 64:
            raise BadArgument("a cookie is 64 bits, unsigned")

    def offered(self, handle: int) -> int:
        """The feature bits that the device of a node offers.  Raises StaleHandle, BadHandle or NotAllowed."""
        node = self.node(handle)
        if node.plugged is None:
            raise NotAllowed(f"{node.path} has no device")
        return node.plugged.device.offered

    def hold(self, handle: int) -> Hold:
        """What is open behind *handle*.  Raises NotOpen, StaleHandle or BadHandle."""
        hold = self.holds.get(handle)
        if hold is None or hold.plugged.gone:  # or is about to be closed
            raise self.not_open(handle)
        return hold

    def not_open(self, handle: int) -> HcallError:
        """Why nothing is open behind *handle*."""
        node = self.tree.nodes.get(handle)
        if node is not None and self.sees(node):
            return NotOpen(f"{handle:#x} is a node handle: open the device first")
        return self.tree.handles.missing(handle)

    def forget(self, handle: int) -> None:
        """*handle* was closed, or its device is gone: it is stale from now on."""
        if self.holds.pop(handle, None) is not None:
            self.owner.purse.give(OPENS)

    # What outlives the daemon.

    def save(self) -> Saved:
        """What `restore` needs, when no call is under way; but for the memory, which the guest brings again."""
        return {
            "version": 1, "watches": self in self.tree.watchers,
            "own": [[serial, list(change)] for serial, change in self._own], "forgotten": self._forgotten,
            "waits": self.tree.classes.waits(self), "channels": self.channels.save(),
            "attends": self.channels in self.tree.watchers, "configuration": self.configuration.save(),
            "holds": [hold.save() for hold in self.holds.values()],
            "watched": [[handle, vectors.save()] for handle, vectors in self.watched.items()],
        }  # fmt: skip

    def restore(self, saved: Saved) -> None:
        """Go on where *saved* was taken; a hold on a device that is not there any more is stale.  Raises ValueError."""
        check(saved, 1)
        self._own, self._forgotten = [(serial, Change(*each)) for serial, each in saved["own"]], saved["forgotten"]
        if saved["watches"]:
            self.tree.watchers.setdefault(self, self._changed)
        for sort in saved.get("waits", ()):
            self.enlist(sort)
        if saved.get("attends"):
            self.attend()
        self.channels.restore(saved.get("channels", [0, []]), self.tree.ccw.node)
        for handle, vectors in saved["watched"]:
            if handle in self.tree.nodes:
                self.watch(handle).restore(vectors)
        self.configuration.restore(saved.get("configuration", []))
        there = {node.path: node.plugged for node in self.tree.root.walk()}
        for each in saved["holds"]:
            plugged = there.get(each["path"])
            if plugged is not None:
                hold = self.holds[each["handle"]] = Hold(plugged, each["handle"], each["cookie"], self)
                hold.restore(each)
                self.owner.purse.owe(OPENS)

    # Interrupts.

    def hint(self, tag: int, vector: int, count: int) -> None:
        """Tell the guest that *vector* stands at *count*."""
        self.owner.hint(tag, vector, count)

    def acknowledge(self, handle: int, vector: int, seen: int) -> None:
        """The guest has seen *vector* at the count *seen*.  A handle that is gone meanwhile does not matter."""
        hold = self.holds.get(handle)
        vectors = hold.vectors if hold is not None else self.watched.get(handle)
        if vectors is not None:
            vectors.acknowledge(vector, seen)

    def relink(self) -> None:
        """The guest came back: every hint that it did not acknowledge is given again."""
        for vectors in [*(hold.vectors for hold in self.holds.values()), *self.watched.values()]:
            vectors.relink()
        self.channels.relink()

    def close(self, then: Callable[[], None]) -> Iterator[None]:
        """Give back all devices: those with calls under way now, each of the others in a step of its own.

        *then* is called when none of them works for this guest any more.
        """
        self.tree.watchers.pop(self, None)
        self.tree.watchers.pop(self.channels, None)
        self.channels.close()
        self.tree.classes.forget(self)
        self.watched.clear()
        waiting = 1  # until all have been told

        def closed() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                then()

        def close(hold: Hold) -> None:
            nonlocal waiting
            waiting += 1
            hold.close(closed)

        def rest() -> Iterator[None]:
            for hold in list(self.holds.values()):
                if hold.handle in self.holds:  # else it was closed meanwhile
                    close(hold)
                    yield
            closed()

        for hold in [hold for hold in self.holds.values() if hold.pending]:
            close(hold)
        return rest()
