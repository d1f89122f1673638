"""The host's end of a session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, TypeGuard

from ..errors import ProtocolViolation, Status
from ..messages import ACK, BUNDLES, CALL, CALLS, FEATURES, IRQ, REPLIES, REPLY, SLOTS, End, Hello
from ..numbers import MAX_VECTORS
from ..saved import Saved, check
from ..wire import MAX_INLINE, MAX_MESSAGE, NUMBERS, PLAIN, SMALL, encode, encode_plain, fits
from .states import HOST_MOVES, READY, Event, Message, Session, State

#: Of most sessions, and never added to: a set of its own would take 0.2 KiB of each guest that is at rest.
_NONE: Final[set[int]] = set()
_NEVER: Final[frozenset[int]] = frozenset()
_MISFIT: Final = "the device's answer does not fit a message"


def _is_ack(message: object) -> TypeGuard[Message]:
    """Whose handle may be any number: one that never was does no harm."""
    return (
        type(message) is tuple and len(message) == 4 and message[0] == ACK and {*map(type, message)} == {int}
        and 0 <= message[2] < MAX_VECTORS and message[3] >= 0
    )  # fmt: skip


def _is_bundle(args: tuple[object, ...], areas: tuple[object, ...]) -> bool:
    return 0 < len(args) == len(areas) and {*map(type, args), *map(type, areas)} == {tuple}


class _Part:
    """What is answered of a bundle, while not all is."""

    __slots__ = ("data", "left")

    def __init__(self, left: Iterable[int], data: bytes = b"") -> None:
        self.left, self.data = {*left}, data


#: Of most sessions, as those above.
_NO_PARTS: Final[dict[int, _Part]] = {}


class HostSession(Session):
    """The host's end: hands out each new call once, and answers a repeated one from its slot."""

    __slots__ = ("_last", "_left", "_linked", "_more", "_parts", "_repeated", "_replies", "_seqs", "begun", "features",
                 "slots")  # fmt: skip
    MOVES = HOST_MOVES

    def __init__(self, slots: int = SLOTS, state: State = State.GREETING) -> None:
        super().__init__(state)
        self.slots = slots  # messages with calls, at once
        self.features = 0  # those that WELCOME confirms
        self._more = 0  # calls than messages with calls
        self._last = 0  # seq of the lane's newest call
        self._linked = 0  # what it was when this link began
        self._repeated: set[int] = _NONE  # slots whose call of before came again on this link
        self._seqs: list[int] = []  # by slot: its newest call
        self._replies: list[bytes | None] = []  # by slot: that call's reply, None while there is none
        #: By seq: calls that an earlier life of the host began.  They may have had their effect.
        self.begun: frozenset[int] = _NEVER
        self._parts = _NO_PARTS  # by slot
        self._left: set[int] = _NONE  # slots of those that did not come again yet: nobody is at work on them

    def save(self) -> Saved:
        """What `restore` makes the session of again, in another life of the host."""
        parts = [[slot, [*part.left], part.data] for slot, part in self._parts.items()]
        return {"version": 2, "slots": self.slots, "last": self._last, "more": self._more, "seqs": [*self._seqs],
                "replies": [*self._replies], "parts": parts}  # fmt: skip

    @classmethod
    def restore(cls, saved: Saved) -> HostSession:
        """The session as it was, without a link.  Raises ValueError for what another version saved.

        Repeated calls are answered as they would have been.  One that had no answer when the state was taken is handed
        out, in its turn, when the guest repeats it; its seq is in `begun`.
        """
        check(saved, 2)
        session = cls(saved["slots"], State.LOST)
        session._last, session._seqs, session._replies = saved["last"], [*saved["seqs"]], [*saved["replies"]]
        session._more = saved["more"]
        session._parts = {slot: _Part(left, data) for slot, left, data in saved["parts"]} or _NO_PARTS
        session._left = {slot for slot, reply in enumerate(session._replies) if reply is None}
        session.begun = frozenset(session._seqs[slot] for slot in session._left)
        return session

    @property
    def calls(self) -> int:
        """How many calls the guest has made."""
        return self._last + self._more

    def greet(self, data: bytes) -> Hello | None:
        """The guest's HELLO, once it is complete.  Raises ProtocolViolation."""
        messages = self._decoder.feed(data)
        if len(messages) > 1 or (messages and (self._decoder.partial or self._decoder.broken)):
            raise ProtocolViolation("nothing may follow HELLO before WELCOME")
        if self._decoder.broken is not None:
            raise self._decoder.broken
        if not messages:
            return None
        hello = Hello.check(messages[0])
        self.move(Event.HELLO)
        self.features = hello.features & FEATURES
        return hello

    def lose(self) -> None:
        """The link broke."""
        self.move(Event.LOSS)
        self._relink()

    def resume(self, features: int = 0) -> None:
        """The guest came back on a new link, with these *features*.  Its unanswered calls come again, in seq order."""
        self.move(Event.RESUME)
        self.features = features
        self._relink()
        self._linked = self._last
        self._repeated = _NONE

    def receive(self, data: bytes) -> list[Message]:
        """The new CALLs, bundles of calls and ACKs in *data*, in their order.

        After a violation those before it are still given, and `broken` is set; the session has to end then.
        """
        decoder = self._decoder
        messages = decoder.feed(data)
        if self.state is not READY:
            self.broken = ProtocolViolation(f"a message in the state {self.state.name}")
            return []
        fresh: list[Message] = []
        seqs, replies, last = self._seqs, self._replies, self._last
        for message in messages:
            if type(message) is tuple and len(message) == 7:
                kind, slot, seq, number, handle, args, areas = message
                if not (
                    int is type(kind) is type(slot) is type(seq) is type(number) is type(handle)
                    and tuple is type(args) is type(areas)
                    and (kind == CALL or (kind == CALLS and self.features & BUNDLES and _is_bundle(args, areas)))
                ):
                    self.broken = self._wrong(kind)
                    return fresh
                if seq == last + 1:
                    if 0 <= slot < len(seqs):
                        if replies[slot] is None:
                            self.broken = ProtocolViolation(f"slot {slot} still waits for its answer")
                            return fresh
                        seqs[slot] = seq
                        replies[slot] = None
                    elif slot == len(seqs) < self.slots:  # slots come into use in order
                        seqs.append(seq)
                        replies.append(None)
                    else:
                        self.broken = ProtocolViolation(f"slot {slot} is out of range or out of turn")
                        return fresh
                    self._last = last = seq
                    if kind == CALLS:
                        self._more += len(args) - 1
                    fresh.append(message)
                elif not self._repeat(slot, seq):
                    self.broken = ProtocolViolation(f"seq {seq} in slot {slot} after seq {last}")
                    return fresh
                elif slot in self._left:
                    self._left.remove(slot)
                    fresh.append(message)
            elif _is_ack(message):
                fresh.append(message)
            else:
                self.broken = ProtocolViolation("neither CALL nor ACK")
                return fresh
        self.broken = decoder.broken
        return fresh

    def _wrong(self, kind: object) -> ProtocolViolation:
        """What is wrong with a message of that *kind*, which is of seven elements and no good CALL or CALLS."""
        if type(kind) is int and kind == CALLS and self.features & BUNDLES:
            return ProtocolViolation("CALLS is [7, slot, seq, number, handle, [args, ...], [areas, ...]]")
        return ProtocolViolation("CALL is [0, slot, seq, number, handle, args, areas]")

    def _repeat(self, slot: int, seq: int) -> bool:
        """Take a call that comes again.  Once on each link: a flood of repeats would be a flood of replies."""
        if not 0 <= slot < len(self._seqs) or self._seqs[slot] != seq or seq > self._linked or slot in self._repeated:
            return False
        if self._repeated is _NONE:
            self._repeated = set()
        self._repeated.add(slot)
        reply = self._replies[slot]
        if reply is None and slot in self._parts:
            reply = self._parts[slot].data
        if reply:
            self.out.append(reply)
        return True

    def reply(self, slot: int, seq: int, status: int, value: object) -> bool:
        """Answer the call *seq* in *slot*; whether the wire can carry *value*, else the answer is INTERNAL."""
        carried = True
        try:
            data = (encode_plain if type(value) in PLAIN else encode)((REPLY, slot, seq, status, value))
            if len(data) > SMALL and (len(data) > MAX_MESSAGE or not fits(value)):
                raise ValueError("longer than a message may be")
        except (TypeError, ValueError, OverflowError):
            carried = False
            data = encode((REPLY, slot, seq, Status.INTERNAL, _MISFIT))
        self._replies[slot] = data
        # A call of an older link is answered on this one only when the guest has asked again.
        if seq > self._linked or slot in self._repeated:
            self.out.append(data)
        return carried

    def unanswered(self, slot: int, count: int) -> Sequence[int]:
        """Which of the *count* calls of the bundle in *slot* have no answer yet, by their places in it."""
        part = self._parts.get(slot)
        return range(count) if part is None else sorted(part.left)

    def reply_some(
        self, slot: int, seq: int, count: int, first: int, statuses: Sequence[int | None], values: Sequence[object]
    ) -> list[int]:
        """Answer some of the *count* calls of the bundle *seq* in *slot*, those from *first* on.

        A status of None: it was not made.  Returns the places of values that the wire cannot carry, where the answer is
        INTERNAL.
        """
        misfits: list[int] = []
        data = _some(slot, seq, first, statuses, values, misfits)
        self._replies[slot] = data if len(values) == count else self._with(slot, count, first, len(values), data)
        if seq > self._linked or slot in self._repeated:
            self.out.append(data)
        return misfits

    def interrupt(self, tag: int, vector: int, count: int) -> None:
        """Hint that *vector* stands at *count*."""
        self.out.append(encode((IRQ, tag, vector, count)))

    def end(self, last: End) -> None:
        """Say the last word; only what is in `out` still goes to the guest."""
        self.move(Event.END)
        self.out.append(encode(last))

    def _with(self, slot: int, count: int, first: int, answered: int, data: bytes) -> bytes | None:
        """All REPLIES of the bundle in *slot*, of which *data* are some; None while there are more to come."""
        if self._parts is _NO_PARTS:
            self._parts = {}
        part = self._parts.setdefault(slot, _Part(range(count)))
        part.left.difference_update(range(first, first + answered))
        part.data += data
        if part.left:
            return None
        del self._parts[slot]
        return part.data


def _some(
    slot: int, seq: int, first: int, statuses: Sequence[int | None], values: Sequence[object], misfits: list[int]
) -> bytes:
    """REPLIES, or several if they do not fit one."""
    kinds = {*map(type, values)}
    try:
        told = tuple(statuses) if any(statuses) or None in statuses else 0
        data = (encode_plain if PLAIN.issuperset(kinds) else encode)((REPLIES, slot, seq, first, told, values))
        if len(data) > MAX_MESSAGE or not (
            NUMBERS.issuperset(kinds) or (kinds == {bytes} and len(data) <= MAX_INLINE) or fits(values)
        ):
            raise ValueError("longer than a message may be")
        return data
    except (TypeError, ValueError, OverflowError):
        if len(values) == 1:
            misfits.append(first)
            return encode((REPLIES, slot, seq, first, (Status.INTERNAL,), (_MISFIT,)))
    half = len(values) // 2
    return _some(slot, seq, first, statuses[:half], values[:half], misfits) + _some(
        slot, seq, first + half, statuses[half:], values[half:], misfits
    )
