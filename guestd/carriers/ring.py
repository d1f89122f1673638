"""The guest's end of a ring: calls of one device, in memory that the host looks at.  No socket, no loop.

Each slot has its place for a body, for what travels within a message on the socket, and for an answer, and four
descriptors for these and the areas; they stay as they are as long as calls of a slot are alike.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any, Final, Generic, NamedTuple, TypeVar

from hcall.errors import BadArgument, ProtocolViolation
from hcall.formats.lanes import ring
from hcall.formats.lanes.ring import Chain, Piece
from hcall.kernel.barriers import fence
from hcall.kernel.memfd import PAGE
from hcall.messages import Areas, Args, Direction
from hcall.wire import MAX_INLINE, MAX_MESSAGE, fits

from ..memory import Buffer, Ram

W = TypeVar("W")  # what a client keeps beside a call until the answer comes
SLOTS: Final = 64  # calls at once; others wait
_EACH: Final = 4  # descriptors of a slot: body, answer, and two areas
_STRIDE: Final = MAX_MESSAGE + MAX_INLINE + MAX_MESSAGE  # of a slot: answer, what is inline, body; few are touched
_INLINE_AT: Final = MAX_MESSAGE
_BODY_AT: Final = MAX_MESSAGE + MAX_INLINE
_WIDEST: Final = 1 << 64
_TO_GUEST: Final = int(Direction.TO_GUEST)


class Laid(NamedTuple):
    """What the descriptors of a slot are for."""

    body: int  # bytes
    areas: Areas
    room: int  # bytes that the device may fill; -1: none is to be filled
    is_inline: bool  # these are in the slot, and the answer is bytes


_NOTHING: Final = Laid(0, (), 0, False)


class Ring(Generic[W]):
    """Calls of the device that is open behind *handle*."""

    def __init__(self, ram: Ram, handle: int, slots: int = SLOTS) -> None:
        """Raises MemoryError."""
        self.device, self.size = handle, _EACH * slots
        self.handle = 0  # its own, once the host knows it
        table, available, used = ring.sizes(self.size)
        at = [0, table, -(-(table + available) // 4) * 4]
        start = -(-(at[2] + used) // PAGE) * PAGE
        self._ram = ram
        self.buffer: Buffer = ram.alloc(start + slots * _STRIDE)
        view, address = self.buffer.view, self.buffer.address
        view[:start] = bytes(start)
        self.addresses = address + at[0], address + at[1], address + at[2]
        self._table = view[:table]
        shared = view[at[1] : at[1] + available].cast("H")
        self._avail, self._heads, self._used_event = shared[:2], shared[2 : 2 + self.size], shared[2 + self.size :]
        self._used = view[at[2] : at[2] + 4].cast("H")
        self._items = view[at[2] + 4 : at[2] + 4 + 8 * self.size].cast("I")
        self._avail_event = view[at[2] + 4 + 8 * self.size : at[2] + used].cast("H")
        self._views = [view[start + n * _STRIDE : start + (n + 1) * _STRIDE] for n in range(slots)]
        self._bodies = [each[_BODY_AT:] for each in self._views]
        self._at = [address + start + n * _STRIDE for n in range(slots)]
        self._laid = [_NOTHING] * slots
        self._free = [*range(slots)][::-1]
        self._sent: dict[int, tuple[int, Args, Areas, W]] = {}  # by slot, what is not answered
        self._waiting: deque[tuple[int, Args, Areas, W]] = deque()  # for a slot
        self._put = self._published = self._taken = 0  # indices of 16 bits
        ram.users.append(self.uses)
        self.over = False
        self.kick = self.tell = -1  # eventfds, if it has some: the host reads the first, and writes to the other
        self.kicked: Any = None  # the last KICK, until it is answered

    @property
    def busy(self) -> bool:
        """Whether calls are not answered."""
        return bool(self._sent or self._waiting)

    @property
    def may_linger(self) -> bool:
        """Whether a call may wait for the world outside: half of the slots are for others."""
        return not self.over and len(self._free) > len(self._views) // 2

    def call(self, number: int, args: Args, areas: Areas, waiter: W) -> None:
        """Make a call as soon as a slot is free.  Raises BadArgument for what cannot be sent."""
        if self._waiting or not self._free:
            self._waiting.append((number, args, areas, waiter))
            return
        slot = self._free.pop()
        try:
            if len(args) == 1 and type(args[0]) is int and 0 <= args[0] < _WIDEST:
                ring.BODY.pack_into(
                    self._bodies[slot], 0, ring.ARRAY, number, ring.HANDLE, self.device, ring.ARGUMENT, args[0]
                )
                size = ring.BODY_BYTES
            else:
                body = ring.pack_body(number, self.device, args)
                size = len(body)
                if size > MAX_MESSAGE or not fits(args):
                    raise ValueError("longer than a message may be")
                self._bodies[slot][:size] = body
            laid = self._laid[slot]
            if laid.areas != areas or laid.body != size or (areas and type(areas[0]) is bytes):
                self._lay(slot, size, areas)
        except (TypeError, ValueError, OverflowError) as error:
            self._free.append(slot)
            raise BadArgument(f"this call cannot be sent: {error}") from None
        self._sent[slot] = number, args, areas, waiter
        self._heads[self._put % self.size] = slot * _EACH
        self._put = (self._put + 1) & 0xFFFF

    def _lay(self, slot: int, body: int, areas: Areas) -> None:
        """Set the descriptors of *slot*.  Raises ValueError."""
        data: tuple[Piece, ...] = ()
        room: tuple[Piece, ...] = ()
        total, is_inline, at = -1, False, self._at[slot]
        for area in areas:
            if type(area) is tuple:
                address, length, way = area
                if way == _TO_GUEST:
                    room += ((address, length),)
                    total = max(total, 0) + length
                else:
                    data += ((address, length),)
            elif is_inline or data or room:
                raise ValueError("one area within a message is all that a ring takes, and it comes first")
            elif type(area) is int and 0 <= area <= MAX_INLINE:
                room, total, is_inline = ((at + _INLINE_AT, area),), area, True
            elif isinstance(area, bytes) and len(area) <= MAX_INLINE:
                self._views[slot][_INLINE_AT : _INLINE_AT + len(area)] = area
                data = ((at + _INLINE_AT, len(area)),)
            else:
                raise ValueError(f"an area of more than {MAX_INLINE} bytes, or none")
        if 2 + len(data) + len(room) > _EACH:
            raise ValueError(f"a ring takes {_EACH - 2} areas")
        described = ring.describe(Chain((at + _BODY_AT, body), data, (at, MAX_MESSAGE), room), slot * _EACH)
        first = slot * _EACH * ring.BYTES
        self._table[first : first + len(described)] = described
        self._laid[slot] = Laid(body, areas, total, is_inline)

    def flush(self) -> bool:
        """The host sees what was put; whether it is to be told."""
        put, before = self._put, self._published
        if put == before:
            return False
        self._avail[1] = self._published = put
        fence()
        return ring.is_due(self._avail_event[0], put, before)

    def rest(self) -> None:
        """The guest is to be told of the next answer, unless `take` finds it."""
        self._used_event[0] = self._taken
        fence()

    def take(self) -> list[tuple[W, int, Any]]:
        """What was answered, as (waiter, status, value).  Raises ProtocolViolation."""
        index, at = self._used[1], self._taken
        if index == at:
            return []
        answers: list[tuple[W, int, Any]] = []
        freed = []
        sents = self._sent
        if (index - at) & 0xFFFF > len(sents):
            raise ProtocolViolation("more answers in a ring than calls")
        while at != index:
            n = 2 * (at % self.size)
            head, size = self._items[n], self._items[n + 1]
            slot, rest = divmod(head, _EACH)
            sent = sents.get(slot)
            if rest or sent is None or size > MAX_MESSAGE:
                raise ProtocolViolation("an answer in a ring to no call")
            view = self._views[slot]
            status: int
            value: Any
            if size == ring.ANSWER_BYTES:
                ok, mark, value = ring.ANSWER.unpack_from(view)
                if ok == ring.OK and mark == ring.VALUE:
                    status = 0
                else:
                    status, value = ring.unpack_answer(ring.ANSWER.pack(ok, mark, value))
            else:
                status, value = ring.unpack_answer(bytes(view[:size]))
            laid = self._laid[slot]
            if laid.room >= 0 and status == 0:
                if type(value) is not int or not 0 <= value <= laid.room:
                    raise ProtocolViolation("an answer that does not fit the room there was")
                if laid.is_inline:
                    value = bytes(view[_INLINE_AT : _INLINE_AT + value])
            answers.append((sent[3], status, value))
            at = self._taken = (at + 1) & 0xFFFF
            del sents[slot]
            freed.append(slot)
        self._free += freed[::-1]  # the same slots for the same calls, if they come in the same order
        while self._waiting and self._free:
            number, args, areas, waiter = self._waiting.popleft()
            try:
                self.call_now(number, args, areas, waiter)
            except BadArgument as error:
                answers.append((waiter, int(error.status), str(error)))
        return answers

    def call_now(self, number: int, args: Args, areas: Areas, waiter: W) -> None:
        """As `call`, for the first one of those that wait, when there is a slot."""
        waiting, self._waiting = self._waiting, deque()
        try:
            self.call(number, args, areas, waiter)
        finally:
            self._waiting = waiting

    @property
    def has_come(self) -> bool:
        """Whether there is something to take."""
        return self._used[1] != self._taken or self.has_ended

    @property
    def has_ended(self) -> bool:
        """Whether the host has ended it."""
        return bool(self._used[0] & ring.ENDED)

    def end(self) -> list[tuple[int, Args, Areas, W]]:
        """It is over: the calls that were not made."""
        left = [*self._sent.values(), *self._waiting]
        self.over = True
        self._sent.clear()
        self._waiting.clear()
        return left

    def close(self) -> None:
        """Give its memory back."""
        if self.uses in self._ram.users:
            self._ram.users.remove(self.uses)
        for view in (self._table, self._avail, self._heads, self._used_event, self._used, self._items,
                     self._avail_event, *self._bodies, *self._views):  # fmt: skip
            view.release()
        self.buffer.free()
        for fd in (self.kick, self.tell):
            if fd >= 0:
                os.close(fd)
        self.kick = self.tell = -1

    def uses(self, address: int, size: int) -> bool:
        """Whether a call that is not answered has an area within these bytes."""
        lists = [areas for _, _, areas, _ in [*self._sent.values(), *self._waiting]]
        return any(
            type(area) is tuple and area[0] < address + size and address < area[0] + area[1]
            for areas in lists
            for area in areas
        )
