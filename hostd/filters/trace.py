"""A trace: each call, answer and interrupt of all guests, and what comes and goes, as lines of JSON for its readers."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec

from hcall import numbers
from hcall.clock import Clock
from hcall.errors import Status
from hcall.messages import Args
from hcall.text import cut

from ..calls.dispatch import Deferred, Dispatch, WireOrReady
from ..calls.filters import Hint
from ..calls.memory import TO_GUEST
from ..guests.guest import Guest
from ..guests.guests import Came, Guests
from ..tree.node import Node
from ..tree.tree import Tree
from . import events
from .brief import brief
from .reader import Reader

_CHANGES: Final = {numbers.ADDED: "plug", numbers.LEAVING: "leaving", numbers.REMOVED: "unplug"}
_OF_NODES: Final = {numbers.CHILDREN: "CHANGES", numbers.AVAILABLE: "CLAIM"}  # the call that a hint asks for
_STATUSES: Final = {int(status): status.name for status in Status}


def micro(seconds: float) -> float:
    """*seconds*, to the microsecond: twice as fast as round()."""
    return int(seconds * 1e6) / 1e6


class Trace:
    """What happens in one host, while somebody reads it."""

    def __init__(self, guests: Guests, tree: Tree, clock: Clock) -> None:
        self._guests, self.tree, self.clock = guests, tree, clock
        self.began = clock.time()
        self.readers: list[Reader] = []
        self._for: dict[str | None, tuple[Reader, ...]] = {}  # by device
        self._take_out: Callable[[], None] | None = None
        self.ids = itertools.count(1)
        self._encode = msgspec.json.Encoder().encode

    @property
    def now(self) -> float:
        """Seconds since the host started."""
        return micro(self.clock.time() - self.began)

    def follow(self, reader: Reader) -> Callable[[], None]:
        """Let *reader* have what happens from now on; what ends that."""
        self.readers.append(reader)
        self._for.clear()
        if self._take_out is None:
            self._take_out = self._guests.put(lambda guest: _Filter(self, guest))
            self.tree.watchers[self] = self._changed
            self._guests.watchers[self] = self._came

        def leave() -> None:
            if reader not in self.readers:
                return
            self.readers.remove(reader)
            self._for.clear()
            if not self.readers and self._take_out is not None:
                self._take_out()
                self._take_out = None
                del self.tree.watchers[self], self._guests.watchers[self]

        return leave

    def wanted(self, device: str | None) -> tuple[Reader, ...]:
        """Those who want to know what happens at that path."""
        readers = self._for.get(device)
        if readers is None:
            readers = self._for[device] = tuple(reader for reader in self.readers if reader.wants(device))
        return readers

    def is_lost(self, device: str | None) -> bool:
        """Whether nobody has room for what happens there: then it is counted, and need not be written down."""
        readers = self.wanted(device)
        for reader in readers:
            if not reader.lost:
                return False
        for reader in readers:
            reader.lost += 1
        return True

    def note(self, device: str | None, event: msgspec.Struct) -> None:
        """*event* happened at the path *device*."""
        readers = self.wanted(device)
        if readers:
            line = self._encode(event)
            for reader in readers:
                reader.put(line)

    def _changed(self, what: int, node: Node, parent: Node) -> None:
        self._for.clear()  # of paths that may not come again
        self.note(node.path, events.Device(_CHANGES[what], self.now, node.path, tuple(map(cut, node.compatible))))

    def _came(self, what: Came, guest: Guest, why: str) -> None:
        self.note(None, events.Guest(what.value, self.now, guest.name, cut(why) or None))


class _Filter:
    """In front of one guest."""

    def __init__(self, trace: Trace, guest: Guest) -> None:
        self._trace, self._name = trace, guest.name
        self._time = trace.clock.time
        self._holds, self._tree = guest.account.holds, trace.tree

    def call(
        self, number: int, handle: int, args: Args, areas: WireOrReady, go_on: Dispatch
    ) -> tuple[int, object] | Deferred:
        """See `Filter`."""
        hold = self._holds.get(handle)
        if hold is not None:
            device: str | None = hold.plugged.path
            name = hold.plugged.names.get(number)
        else:
            node = self._tree.nodes.get(handle)
            device = node.path if node is not None else None
            name = None
        trace = self._trace
        if not trace.wanted(device):
            return go_on(number, handle, args, areas)
        name = name or numbers.CORE.get(number) or f"{number:#x}"
        data, room = _sizes(areas) if areas else (0, 0)
        # Most often it is a verb, with one number: half the time.
        short = args if not args or (len(args) == 1 and type(args[0]) is int) else brief(args)
        begun = self._time()
        answer = go_on(number, handle, args, areas)
        if type(answer) is tuple and trace.is_lost(device):
            return answer
        call = events.Call(micro(begun - trace.began), next(trace.ids), self._name, device, name, short, data, room)
        if isinstance(answer, tuple):
            status, value = answer
            call.seconds = micro(self._time() - begun)
            call.status, call.answer = _STATUSES.get(status), _said(status, value)
            trace.note(device, call)
            return answer
        trace.note(device, call)
        return _Late(answer, partial(self._answered, call, begun))

    def _answered(self, call: events.Call, begun: float, status: int, value: object) -> None:
        now, trace = self._time(), self._trace
        answer = events.Answer(
            micro(now - trace.began), call.id, call.guest, call.device, call.call,
            _STATUSES.get(status), _said(status, value), micro(now - begun),
        )  # fmt: skip
        trace.note(call.device, answer)

    def hint(self, tag: int, vector: int, count: int, go_on: Hint) -> None:
        """See `Filter`."""
        device, name = self._interrupt(tag, vector)
        trace = self._trace
        if trace.wanted(device):
            trace.note(device, events.Interrupt(trace.now, self._name, device, name, count))
        go_on(tag, vector, count)

    def _interrupt(self, tag: int, vector: int) -> tuple[str | None, str]:
        """Where it comes from, and its name."""
        for hold in self._holds.values():
            if tag == (hold.cookie or hold.handle):
                names = tuple(hold.plugged.device.declares.irqs)
                return hold.plugged.path, names[vector] if vector < len(names) else str(vector)
        node = self._tree.nodes.get(tag)
        return (node.path, _OF_NODES.get(vector, str(vector))) if node is not None else (None, str(vector))


class _Late:
    """An answer that is noted when it comes."""

    def __init__(self, answer: Deferred, note: Callable[[int, object], None]) -> None:
        self._answer, self._note, self.waits = answer, note, answer.waits

    @property
    def size(self) -> int:
        """See `Deferred`."""
        return self._answer.size

    def then(self, answer: Callable[[int, object], None], /) -> None:
        """See `Deferred`."""

        def noted(status: int, value: object) -> None:
            self._note(status, value)
            answer(status, value)

        self._answer.then(noted)


def _said(status: int, value: object) -> object:
    """What an answer shows: its value in short, or the whole sentence of a failure."""
    return cut(value) if status and type(value) is str else brief(value)


def _sizes(areas: Any) -> tuple[int, int]:
    """The bytes for the device in *areas*, and the room for its answer, as far as they are areas; ready ones: 0."""
    data = room = 0
    for area in areas if type(areas) is tuple else ():
        if type(area) is bytes:
            data += len(area)
        elif type(area) is int:
            room += area
        elif type(area) is tuple and len(area) == 3 and type(area[1]) is int:
            if area[2] == TO_GUEST:
                room += area[1]
            else:
                data += area[1]
    return data, room
