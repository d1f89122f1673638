"""The host's end of a split virtqueue: what it takes and gives.  Whatever the guest can change is read once."""

from __future__ import annotations

from typing import Final, NamedTuple

from hcall.errors import BadArea, ProtocolViolation
from hcall.formats.lanes import ring
from hcall.kernel.barriers import fence
from hcall.messages import Direction

from ...calls.memory import Memory, ReadyAreas

_ALIGNED: Final = (16, 2, 4)  # virtio 1.2, 2.7
_TO_GUEST, _TO_DEVICE = int(Direction.TO_GUEST), int(Direction.TO_DEVICE)
_NO_AREAS: Final = ReadyAreas(None, None)


class Known(NamedTuple):
    """A chain that was looked at, and is good as long as its descriptors have the same bytes."""

    view: memoryview  # of these in the table
    raw: bytes
    body: memoryview
    wire: ReadyAreas | tuple[()]  # for the call
    is_usual: bool  # its body may have the fixed width
    answer: memoryview


class Queue:
    """One queue: descriptors, available and used ring, each within one region of the guest's memory."""

    __slots__ = ("_addresses", "_avail", "_avail_event", "_heads", "_known", "_memory", "_table", "_used",
                 "_used_event", "_used_items", "_version", "_views", "given", "has_events", "size", "taken",
                 "told")  # fmt: skip

    def __init__(self, memory: Memory, size: int, addresses: tuple[int, int, int], has_events: bool) -> None:
        """Raises BadArea for what cannot be one."""
        self._memory, self._addresses, self.size, self.has_events = memory, addresses, size, has_events
        self.taken = self.given = self.told = 0  # indices of 16 bits; up to which the guest was told
        for address, aligned in zip(addresses, _ALIGNED, strict=True):
            if address % aligned:
                raise BadArea(f"a part of a queue at {address:#x}, which is no multiple of {aligned}")
        self._views: list[memoryview] = []
        self._map()

    def _map(self) -> None:
        self._version = self._memory.version
        self._known: list[Known | None] = [None] * self.size
        sizes = ring.sizes(self.size)
        parts = [self._piece(*each, _TO_GUEST) for each in zip(self._addresses, sizes, strict=True)]
        self._table, avail, used = parts
        self._avail = avail.cast("H")  # flags, index, heads, the event of what was used
        self._heads = self._avail[2 : 2 + self.size]
        self._used = used[:4].cast("H")  # flags, index
        self._used_items = used[4 : 4 + 8 * self.size].cast("I")  # head, bytes
        self._used_event = self._avail[2 + self.size :]
        self._avail_event = used[4 + 8 * self.size :].cast("H")
        self._views = [self._heads, self._used_event, self._avail, self._used, self._used_items, self._avail_event,
                       *parts]  # fmt: skip

    def _piece(self, address: int, length: int, way: int) -> memoryview:
        """Raises BadArea."""
        areas = self._memory.ready(((address, length, way),))
        pieces = areas.into or areas.out or ()
        if len(pieces) != 1:
            raise BadArea(f"{length} bytes at {address:#x} that no region has alone")
        return pieces[0]

    def close(self) -> None:
        """Look at the memory no more."""
        self._known = []  # calls under way keep theirs
        for view in self._views:
            view.release()
        self._views = []

    def look(self, under_way: int) -> int:
        """How many calls wait to be taken, *under_way* being taken and not given.  Raises ProtocolViolation."""
        if self._memory.version != self._version:
            self.close()
            try:
                self._map()
            except BadArea:
                raise ProtocolViolation("the memory of a ring was taken away") from None
        new = (self._avail[1] - self.taken) & 0xFFFF
        if new > self.size - under_way:
            raise ProtocolViolation(f"an index that jumps: {new} new chains, {under_way} under way, in a queue of "
                                    f"{self.size}")  # fmt: skip
        return new

    def take(self) -> tuple[int, Known]:
        """The head of the next chain, which is there, and the chain.  Raises ProtocolViolation."""
        head = self._heads[self.taken % self.size]
        self.taken = (self.taken + 1) & 0xFFFF
        if head >= self.size:
            raise ProtocolViolation(f"a chain that begins at {head}, in a queue of {self.size}")
        known = self._known[head]
        if known is not None:
            if known.view.tobytes() == known.raw:
                return head, known
            self._known[head] = None
        chain, raw = ring.walk(self._table, head, self.size)
        try:
            areas = _NO_AREAS
            if chain.data or chain.room:
                wire = [(*each, _TO_DEVICE) for each in chain.data] + [(*each, _TO_GUEST) for each in chain.room]
                areas = self._memory.ready(tuple(wire)).kept()
            body, answer = self._piece(*chain.body, _TO_DEVICE), self._piece(*chain.answer, _TO_GUEST)
        except BadArea as error:
            raise ProtocolViolation(f"a descriptor of what is not there: {error}") from None
        view = self._table[head * ring.BYTES :][: len(raw or b"")]
        known = Known(view, raw or b"", body,
                      () if areas is _NO_AREAS else areas, len(body) == ring.BODY_BYTES, answer)  # fmt: skip
        if raw is not None:
            self._known[head] = known
        return head, known

    def give(self, head: int, size: int) -> None:
        """The chain of *head* is done, with *size* bytes of answer; for the guest to see with `publish`."""
        at = 2 * (self.given % self.size)
        self._used_items[at], self._used_items[at + 1] = head, size
        self.given = (self.given + 1) & 0xFFFF

    def publish(self) -> bool:
        """The guest sees what was given; whether it wants to be told."""
        self._used[1] = self.given
        if self.told == self.given:
            return False
        fence()
        before, self.told = self.told, self.given
        if self.has_events:
            return ring.is_due(self._used_event[0], self.given, before)
        return not self._avail[0] & ring.NO_TELL

    def rest(self) -> None:
        """All is taken: the guest is to tell of the next one, unless `look` finds it."""
        if self.has_events:
            self._avail_event[0] = self.taken
        fence()

    def finish(self) -> None:
        """It is over."""
        self._used[1] = self.given
        self._used[0] = ring.ENDED
