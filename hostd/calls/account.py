"""What one guest has: the devices it has opened, the memory it lent, the nodes it watches.

Knows no lane and no socket.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hcall.errors import BadArgument, BadHandle, Busy, HcallError, IoError, NotAllowed, NotOpen

from hostd.calls.memory import Memory

from ..tree.tree import Node, Tree
from .hold import Open, reset
from .limits import Limits
from .vectors import Vectors


class Account:
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
