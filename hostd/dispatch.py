"""A body, `[number, handle, args]` with its areas, becomes a call of a handler.

For every carrier: one argument check, one failure path, one place to filter or capture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from protocol.errors import BadArea, BadArgument, BadHandle, Busy, HcallError, IoError, NoSuchCall, NotAllowed, NotOpen
from protocol.hcall import CLASS_SHIFT
from protocol.memory import InlineRoom, Memory
from protocol.messages import Areas, Args

from .answers import OK, failed, finished
from .core import CORE
from .irq import Vectors
from .later import Later
from .limits import Limits
from .opened import DATA, NO_AREA, ROOM, Open, Pending, reset
from .tree import Node, Tree


class Dispatcher:
    """What one guest has opened, and the memory it lent.  Knows no lane and no socket."""

    __slots__ = ("_expel", "_hint", "detach", "limits", "memory", "opens", "take_fd", "tree", "watched")

    def __init__(
        self,
        tree: Tree,
        limits: Limits,
        hint: Callable[[int, int, int], None],
        take_fd: Callable[[int], int],
        detach: Callable[[], None],
        expel: Callable[[str], None],
    ) -> None:
        """*hint*(tag, vector, count) goes to the guest, *take_fd*(id) gives what it sent.

        *detach* learns of DETACH, *expel*(text) ends the guest's session.
        """
        self.tree, self.limits, self._hint, self.take_fd, self.detach = tree, limits, hint, take_fd, detach
        self._expel = expel
        self.memory = Memory(limits.regions, limits.memory)
        self.opens: dict[int, Open] = {}
        self.watched: dict[int, Vectors] = {}  # by node handle: changes among its children

    def dispatch(self, number: int, handle: int, args: Args, areas: Areas) -> tuple[int, object] | Pending:
        """The answer, (status, value), or the Pending of one that comes later."""
        room = data = None
        try:
            if number >> CLASS_SHIFT == 0:
                core = CORE.get(number)
                if core is None:
                    raise NoSuchCall(f"the core has no call {number:#x}")
                function, kinds = core
                if areas:
                    raise BadArea("calls of the core take no areas")
                if len(args) != len(kinds) or (args and (*map(type, args),) != kinds):
                    raise _wrong_arguments(args, kinds)
                value = function(self, handle, *args) if args else function(self, handle)
            else:
                opened = self.opens.get(handle)
                if opened is None:
                    raise self.not_open(handle)
                entry = opened.table.get(number)
                if entry is None:
                    raise opened.missing(number)
                method, kinds, takes, expected = entry
                if len(args) == 1 == len(kinds):  # a verb, most often
                    if type(args[0]) is not kinds[0]:
                        args = _fitting(args, kinds)
                elif (*map(type, args),) != kinds:
                    args = _fitting(args, kinds)
                if takes == ROOM:
                    room = self.memory.room(areas)
                    # A call with * in it is not inlined by the interpreter: 0.1 us.
                    value = method(room, args[0]) if len(args) == 1 else method(room, *args)
                    if type(room) is InlineRoom and type(value) is int:  # most often; `finished` does the same
                        return OK, room.filled(value)
                elif takes == DATA:
                    data = self.memory.data(areas)
                    value = method(data, args[0]) if len(args) == 1 else method(data, *args)
                elif takes == NO_AREA:
                    if areas:
                        raise BadArea("this call takes no area")
                    value = method(*args)
                else:
                    room, data = self.memory.both(areas)
                    value = method(room, data, *args)
                if type(value) is Later:
                    return Pending(opened, value, room, data, expected)
                return finished(value, room, data, expected)
            if type(value) is Later:
                return Pending(None, value, None, None, Any)
            return OK, value
        except BaseException as error:  # a model may do anything: sys.exit(), too
            return failed(error, room, data, self.opens.get(handle))

    def node(self, handle: int) -> Node:
        """The node behind *handle*.  Raises StaleHandle or BadHandle."""
        if handle in self.opens:
            raise BadHandle(f"{handle:#x} is an open handle, not a node's")
        return self.tree.node(handle)

    def not_open(self, handle: int) -> HcallError:
        """Why nothing is open behind *handle*."""
        if handle in self.tree.nodes:
            return NotOpen(f"{handle:#x} is a node handle: open the device first")
        return self.tree.handles.missing(handle)

    def open(self, node: Node, cookie: int) -> int:
        """Open the device of *node*; the handle.  Its interrupts carry *cookie*, or the handle if that is 0."""
        if node.device is None:
            raise NotAllowed(f"{node.path} has no device")
        if node.leaving:
            raise Busy(f"{node.path} is being unplugged")
        if node.opens and not node.device.shared:
            raise Busy(f"{node.path} is in use: `hostd ls` shows by whom")
        if len(self.opens) >= self.limits.handles:
            raise Busy(f"a guest has at most {self.limits.handles} devices open")
        if not 0 <= cookie < 1 << 64:
            raise BadArgument("a cookie is 64 bits")
        if node.failed:
            reset(node)
        if node.failed:
            raise IoError(f"{node.path} has failed, and cannot be reset; the host's log says why")
        handle = self.tree.handles.new()
        self.opens[handle] = Open(node, handle, partial(self._hint, cookie or handle), self.forget, self._expel)
        return handle

    def opened(self, handle: int) -> Open:
        """What is open behind *handle*.  Raises NotOpen, StaleHandle or BadHandle."""
        opened = self.opens.get(handle)
        if opened is None:
            raise self.not_open(handle)
        return opened

    def forget(self, handle: int) -> None:
        """*handle* was closed, or its device is gone: it is stale from now on."""
        self.opens.pop(handle, None)

    def acknowledge(self, handle: int, vector: int, seen: int) -> None:
        """The guest has seen *vector* at the count *seen*.  A handle that is gone meanwhile does not matter."""
        opened = self.opens.get(handle)
        vectors = opened.vectors if opened is not None else self.watched.get(handle)
        if vectors is not None:
            vectors.acknowledge(vector, seen)

    def watch(self) -> None:
        """Hint from now on when the children of a node change: vector 0 of that node."""
        self.tree.watchers.setdefault(self, self._changed)

    def _changed(self, parent: Node) -> None:
        for gone in self.watched.keys() - self.tree.nodes.keys():
            del self.watched[gone]
        if parent.handle not in self.watched:
            self.watched[parent.handle] = Vectors(partial(self._hint, parent.handle))
        self.watched[parent.handle].fire(0)

    def relink(self) -> None:
        """The guest came back: every hint that it did not acknowledge is given again."""
        for vectors in [*(opened.vectors for opened in self.opens.values()), *self.watched.values()]:
            vectors.relink()

    def close(self, then: Callable[[], None]) -> None:
        """Give back all devices; *then* is called when none of them works for this guest any more."""
        self.tree.watchers.pop(self, None)
        self.watched.clear()
        waiting = {0, *self.opens}  # 0 until all have been told

        def closed(handle: int) -> None:
            waiting.discard(handle)
            if not waiting:
                then()

        for handle, opened in list(self.opens.items()):
            opened.close(partial(closed, handle))
        closed(0)


def _fitting(args: Args, kinds: tuple[type, ...]) -> Args:
    """*args*, a whole number made a float where one is taken (PEP 484; 1.0 is 1 in JavaScript).  Raises BadArgument."""
    fitting = tuple(float(value) if kind is float and type(value) is int else value
                    for value, kind in zip(args, kinds, strict=False))  # fmt: skip
    if len(args) != len(kinds) or (*map(type, fitting),) != kinds:
        raise _wrong_arguments(args, kinds)
    return fitting


def _wrong_arguments(args: Args, kinds: tuple[type, ...]) -> BadArgument:
    return BadArgument(f"this call takes {_names(kinds)}, not {_names(map(type, args))}")


def _names(kinds: Iterable[type]) -> str:
    return f"({', '.join('None' if kind is type(None) else kind.__name__ for kind in kinds)})"
