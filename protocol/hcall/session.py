"""Both ends of a session without I/O: bytes in, messages and bytes out.  One table says what may happen when.

A lane has N slots.  Each new call carries the lane's next seq and one slot; it acknowledges the slot's previous
reply.  A call that is sent again on a new link is answered from its slot, so every call has its effect once,
wherever the link was cut (the scheme of NFSv4.1 sessions, RFC 8881, 2.10.6).
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeAlias, TypeVar

from .errors import BadArgument, ProtocolViolation, Status
from .messages import ACK, CALL, END, IRQ, REPLY, SLOTS, WELCOME, Areas, Args, End, Hello, Welcome
from .wire import MAX_MESSAGE, SMALL, Decoder, encode, fits

Message: TypeAlias = tuple[Any, ...]
W = TypeVar("W")  # what a guest's client keeps beside a call until the answer comes


class State(enum.Enum):
    """Where a session stands."""

    IDLE = enum.auto()  # guest: no link yet, or none now
    GREETING = enum.auto()  # a link, and HELLO on its way
    READY = enum.auto()
    LOST = enum.auto()  # host: no link; all is kept for the guest to come back
    ENDED = enum.auto()


class Event(enum.Enum):
    """What can happen to a session: a message, or something on its link."""

    LINK = enum.auto()  # guest: a socket is connected
    HELLO = enum.auto()
    WELCOME = enum.auto()
    CALL = enum.auto()
    REPLY = enum.auto()
    IRQ = enum.auto()
    ACK = enum.auto()
    RESUME = enum.auto()  # host: the same token came on another link
    LOSS = enum.auto()  # the link broke
    END = enum.auto()  # either end's last word


READY: Final = State.READY  # a member's look-up costs 0.08 us, and there are five for each call
ENDED: Final = State.ENDED

HOST_MOVES: Final[dict[tuple[State, Event], State]] = {
    (State.GREETING, Event.HELLO): State.READY,
    (State.GREETING, Event.LOSS): State.ENDED,
    (State.GREETING, Event.END): State.ENDED,
    (State.READY, Event.CALL): State.READY,
    (State.READY, Event.ACK): State.READY,
    (State.READY, Event.RESUME): State.READY,  # the old link may still look alive
    (State.READY, Event.LOSS): State.LOST,
    (State.READY, Event.END): State.ENDED,
    (State.LOST, Event.RESUME): State.READY,
    (State.LOST, Event.END): State.ENDED,
}
GUEST_MOVES: Final[dict[tuple[State, Event], State]] = {
    (State.IDLE, Event.LINK): State.GREETING,
    (State.IDLE, Event.END): State.ENDED,
    (State.GREETING, Event.WELCOME): State.READY,
    (State.GREETING, Event.LOSS): State.IDLE,
    (State.GREETING, Event.END): State.ENDED,
    (State.READY, Event.REPLY): State.READY,
    (State.READY, Event.IRQ): State.READY,
    (State.READY, Event.LOSS): State.IDLE,
    (State.READY, Event.END): State.ENDED,
}
_EVENTS: Final = {REPLY: Event.REPLY, IRQ: Event.IRQ, WELCOME: Event.WELCOME, END: Event.END}


def _possible(value: object, areas: Areas) -> bool:
    """Whether the device can have filled *areas*, if it was to, with what it claims: nobody who uses it checks it."""
    if type(areas[0]) is int:  # room within the message, and more or something else in it
        return False
    room = 0
    for area in areas:  # a third of the time of `sum`
        if type(area) is tuple and area[2]:
            room += area[1]
    return not room or (type(value) is int and 0 <= value <= room)


class _Session:
    """The state, and the bytes that wait to be sent."""

    __slots__ = ("_decoder", "broken", "out", "state")
    MOVES: dict[tuple[State, Event], State]

    def __init__(self, state: State) -> None:
        self.state = state
        self.broken: ProtocolViolation | None = None  # what the last `receive` stopped at
        self.out: list[bytes] = []
        self._decoder = Decoder()

    def move(self, event: Event) -> None:
        """Go to the state that follows.  Raises ProtocolViolation, and changes nothing, if none does."""
        try:
            self.state = self.MOVES[self.state, event]
        except KeyError:
            raise ProtocolViolation(f"{event.name} in the state {self.state.name}") from None

    @property
    def partial(self) -> bool:
        """Whether half a message has come."""
        return self._decoder.partial

    @property
    def partial_is_new(self) -> bool:
        """Whether that half came with the last bytes, and not before."""
        return self._decoder.partial_is_new

    def _relink(self) -> None:
        """A new link: what was half read or not yet written is gone."""
        self.out = []
        self._decoder = Decoder()


class HostSession(_Session):
    """The host's end: hands out each new call once, and answers a repeated one from its slot."""

    __slots__ = ("_last", "_linked", "_repeated", "_replies", "_seqs", "_slots")
    MOVES = HOST_MOVES

    def __init__(self, slots: int = SLOTS) -> None:
        super().__init__(State.GREETING)
        self._slots = slots
        self._last = 0  # seq of the lane's newest call
        self._linked = 0  # what it was when this link began
        self._repeated: set[int] = set()  # slots whose call of before came again on this link
        self._seqs: list[int] = []  # by slot: its newest call
        self._replies: list[bytes | None] = []  # by slot: that call's reply, None while there is none

    @property
    def calls(self) -> int:
        """How many calls the guest has made."""
        return self._last

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
        return hello

    def lose(self) -> None:
        """The link broke."""
        self.move(Event.LOSS)
        self._relink()

    def resume(self) -> None:
        """The guest came back on a new link.  Its unanswered calls will come again, in seq order."""
        self.move(Event.RESUME)
        self._relink()
        self._linked = self._last
        self._repeated.clear()

    def receive(self, data: bytes) -> list[Message]:
        """The new CALLs and the ACKs in *data*, in their order.

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
                    kind == CALL
                    and int is type(kind) is type(slot) is type(seq) is type(number) is type(handle)
                    and tuple is type(args) is type(areas)
                ):
                    self.broken = ProtocolViolation("CALL is [0, slot, seq, number, handle, args, areas]")
                    return fresh
                if seq == last + 1:
                    if 0 <= slot < len(seqs):
                        if replies[slot] is None:
                            self.broken = ProtocolViolation(f"slot {slot} still waits for its answer")
                            return fresh
                        seqs[slot] = seq
                        replies[slot] = None
                    elif slot == len(seqs) < self._slots:  # slots come into use in order
                        seqs.append(seq)
                        replies.append(None)
                    else:
                        self.broken = ProtocolViolation(f"slot {slot} is out of range or out of turn")
                        return fresh
                    self._last = last = seq
                    fresh.append(message)
                elif not self._repeat(slot, seq):
                    self.broken = ProtocolViolation(f"seq {seq} in slot {slot} after seq {last}")
                    return fresh
            elif type(message) is tuple and len(message) == 4 and message[0] == ACK and {*map(type, message)} == {int}:
                fresh.append(message)
            else:
                self.broken = ProtocolViolation("neither CALL nor ACK")
                return fresh
        self.broken = decoder.broken
        return fresh

    def _repeat(self, slot: int, seq: int) -> bool:
        """Take a call that comes again.  Once on each link: a flood of repeats would be a flood of replies."""
        if not 0 <= slot < len(self._seqs) or self._seqs[slot] != seq or seq > self._linked or slot in self._repeated:
            return False
        self._repeated.add(slot)
        reply = self._replies[slot]
        if reply is not None:
            self.out.append(reply)
        return True

    def reply(self, slot: int, seq: int, status: int, value: object) -> bool:
        """Answer the call *seq* in *slot*; whether the wire can carry *value*, else the answer is INTERNAL."""
        carried = True
        try:
            data = encode((REPLY, slot, seq, status, value))
            if len(data) > SMALL and (len(data) > MAX_MESSAGE or not fits(value)):
                raise ValueError("longer than a message may be")
        except (TypeError, ValueError, OverflowError):
            carried = False
            data = encode((REPLY, slot, seq, Status.INTERNAL, "the device's answer does not fit a message"))
        self._replies[slot] = data
        # A call of an older link is answered on this one only when the guest has asked again.
        if seq > self._linked or slot in self._repeated:
            self.out.append(data)
        return carried

    def interrupt(self, tag: int, vector: int, count: int) -> None:
        """Hint that *vector* stands at *count*."""
        self.out.append(encode((IRQ, tag, vector, count)))

    def end(self, last: End) -> None:
        """Say the last word; only what is in `out` still goes to the guest."""
        self.move(Event.END)
        self.out.append(encode(last))


class GuestSession(_Session, Generic[W]):
    """The guest's end: puts calls into slots and keeps each, with its waiter, until it is answered."""

    __slots__ = ("_backlog", "_free", "_given_up", "_new", "_sent", "_seq", "last")
    MOVES = GUEST_MOVES

    def __init__(self, given_up: Callable[[W], bool] = lambda waiter: False) -> None:
        """A call that waits for a slot is dropped if *given_up*(waiter) then."""
        super().__init__(State.IDLE)
        self._given_up = given_up
        self.last: End | None = None  # the host's last word
        self._new = True  # no WELCOME yet
        self._seq = 0
        self._free: list[int] = []
        self._sent: dict[int, tuple[int, bytes, W, Areas]] = {}  # by slot: seq, message, waiter, areas; in seq order
        self._backlog: deque[tuple[int, int, Args, Areas, W]] = deque()

    @property
    def busy(self) -> int:
        """How many calls wait for their answer."""
        return len(self._sent)

    def greet(self, hello: Hello) -> bytes:
        """There is a link: the bytes of HELLO, to be sent with its descriptors before anything else."""
        self.move(Event.LINK)
        self._relink()
        return encode(hello)

    def lose(self) -> None:
        """The link broke; every call is kept."""
        self.move(Event.LOSS)
        self._relink()

    def end(self) -> list[W]:
        """Nothing more will be answered: the waiters of all calls."""
        if self.state is not State.ENDED:
            self.move(Event.END)
        waiters = [call[2] for call in self._sent.values()] + [entry[4] for entry in self._backlog]
        self._sent.clear()
        self._backlog.clear()
        return waiters

    def call(self, handle: int, number: int, args: Args, areas: Areas, waiter: W) -> None:
        """Send a call as soon as a slot is free.  Raises BadArgument for what the wire cannot carry."""
        if not self._free:
            self._backlog.append((handle, number, args, areas, waiter))
            return
        slot = self._free.pop()
        seq = self._seq + 1
        try:
            data = encode((CALL, slot, seq, number, handle, args, areas))
            if len(data) > SMALL and (len(data) > MAX_MESSAGE or not fits(args) or not fits(areas)):
                raise ValueError("longer than a message may be")
        except (TypeError, ValueError, OverflowError) as error:
            self._free.append(slot)
            raise BadArgument(f"this call cannot be sent: {error}") from None
        self._seq = seq
        self._sent[slot] = (seq, data, waiter, areas)
        if self.state is READY:  # else WELCOME sends it, with all that are unanswered
            self.out.append(data)

    def uses(self, address: int, size: int) -> bool:
        """Whether a call that is not answered has an area within these bytes: the host may still fill them.

        Nobody has to be waiting for it any more: a task that is cancelled leaves its call behind.
        """
        lists = [call[3] for call in self._sent.values()] + [entry[3] for entry in self._backlog]
        return any(
            type(area) is tuple and area[0] < address + size and address < area[0] + area[1]
            for areas in lists
            for area in areas
        )

    def acknowledge(self, handle: int, vector: int, seen: int) -> None:
        """Say that *vector* was seen at the count *seen*; lost with the link, after which the host hints again."""
        if self.state is READY:
            self.out.append(encode((ACK, handle, vector, seen)))

    def receive(self, data: bytes) -> tuple[list[tuple[W, int, Any]], list[Message]]:
        """The answers in *data* as (waiter, status, value), and the IRQ messages.

        After a violation those before it are still given, and `broken` is set; the session has to end then.
        """
        answers: list[tuple[W, int, Any]] = []
        interrupts: list[Message] = []
        sent, free = self._sent, self._free
        ready = self.state is READY
        for message in self._decoder.feed(data):
            if type(message) is tuple and len(message) == 5 and ready and message[0] == REPLY:
                kind, slot, seq, status, value = message
                if int is type(kind) is type(slot) is type(seq) is type(status):
                    call = sent.get(slot)
                    if call is not None and call[0] == seq:
                        if call[3] and status == 0:
                            room = call[3][0]
                            is_inline = type(room) is int and type(value) is bytes and len(value) <= room  # most often
                            if not is_inline and not _possible(value, call[3]):
                                self.broken = ProtocolViolation("an answer that does not fit the room there was")
                                return answers, interrupts
                        del sent[slot]
                        free.append(slot)
                        answers.append((call[2], status, value))
                        continue
                self.broken = ProtocolViolation("an answer to no call")
                return answers, interrupts
            try:
                if self._other(message):
                    interrupts.append(message)  # type: ignore[arg-type]  # a tuple, as was just seen
            except ProtocolViolation as violation:
                self.broken = violation
                return answers, interrupts
            ready = self.state is READY
        self.broken = self._decoder.broken
        while self._backlog and free:
            queued = self._backlog.popleft()
            if self._given_up(queued[4]):
                continue
            try:
                self.call(*queued)
            except BadArgument as error:
                answers.append((queued[4], Status.BAD_ARGUMENT, str(error)))
        return answers, interrupts

    def _other(self, message: object) -> bool:
        """Take a message that is no REPLY; whether it is an IRQ.  Raises ProtocolViolation."""
        if type(message) is not tuple or not message or type(message[0]) is not int or message[0] not in _EVENTS:
            raise ProtocolViolation("a message of no known kind")
        event = _EVENTS[message[0]]
        self.move(event)
        if event is Event.WELCOME:
            self._welcome(Welcome.check(message))
        elif event is Event.END:
            self.last = End.check(message)
        elif event is Event.REPLY or len(message) != 4 or {*map(type, message)} != {int}:
            raise ProtocolViolation("a message of the wrong shape")
        return event is Event.IRQ

    def _welcome(self, welcome: Welcome) -> None:
        if self._new:
            self._free += range(welcome.slots)[::-1]  # slot 0 is used first, the latest freed one next
            self._new = False
        elif not welcome.resumed:
            raise ProtocolViolation("the host no longer knows this session")
        self.out += [call[1] for call in self._sent.values()]
