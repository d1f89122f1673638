"""The guest's end of a session."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice
from operator import itemgetter
from typing import Any, Final, Generic, TypeVar

from ..errors import BadArgument, ProtocolViolation, Status
from ..messages import (
    ACK,
    BUNDLES,
    CALL,
    END,
    IRQ,
    REPLIES,
    REPLY,
    WELCOME,
    Areas,
    Args,
    Direction,
    End,
    Hello,
    Welcome,
)  # fmt: skip
from ..wire import MAX_MESSAGE, PLAIN, SMALL, encode, encode_plain, fits
from .bundles import Bundle
from .states import GUEST_MOVES, READY, Event, Message, Session, State

W = TypeVar("W")  # what a guest's client keeps beside a call until the answer comes
TO_GUEST: Final = int(Direction.TO_GUEST)  # a member's look-up costs 0.08 us
_EVENTS: Final = {REPLY: Event.REPLY, IRQ: Event.IRQ, WELCOME: Event.WELCOME, END: Event.END}


def _possible(value: object, areas: Areas) -> bool:
    """Whether the device can have filled *areas*, if it was to, with what it claims: nobody who uses it checks it."""
    if type(areas[0]) is int:  # room within the message, and more or something else in it
        return False
    room = 0
    for area in areas:  # a third of the time of `sum`
        if type(area) is tuple and area[2] == TO_GUEST:
            room += area[1]
    return not room or (type(value) is int and 0 <= value <= room)


def _calls(bundles: Iterable[Bundle[W]]) -> list[tuple[W, Areas]]:
    """Those of *bundles* that are not answered."""
    return [(waiter, areas) for bundle in bundles for _, areas, waiter in bundle.left]


class GuestSession(Session, Generic[W]):
    """The guest's end: puts calls into slots and keeps each, with its waiter, until it is answered."""

    __slots__ = ("_alone", "_answers", "_bundles", "_epoch", "_free", "_given_up", "_lingering", "_new", "_sent",
                 "_seq", "_slots", "features", "joins", "last", "moved", "queued")  # fmt: skip
    MOVES = GUEST_MOVES

    def __init__(self, given_up: Callable[[W], bool] = lambda waiter: False) -> None:
        """A call that waits for a slot is dropped if *given_up*(waiter) then."""
        super().__init__(State.IDLE)
        self._given_up = given_up
        self.last: End | None = None  # the host's last word
        self._new = True  # no WELCOME yet
        self._epoch = 0
        self.features = 0  # those of HELLO that the last WELCOME has confirmed: no other is used
        self.moved = False  # the last WELCOME was of another life of the host, which had saved the session
        self._seq = 0
        self._slots = 0
        self._free: list[int] = []
        self._sent: dict[int, tuple[int, bytes, W, Areas]] = {}  # by slot: seq, message, waiter, areas; in seq order
        self._bundles: dict[int, tuple[int, bytes, Bundle[W]]] = {}  # by slot, none of those above
        self.queued: deque[Bundle[W]] = deque()  # for `pack`
        self.joins: Bundle[W] | None = None  # the last one of those, if its like may be added to its calls
        self._alone: set[int] = set()  # numbers whose answers are too long for a bundle
        self._answers: list[tuple[W, int, Any]] = []  # those of the last `receive`
        self._lingering: set[int] = set()  # slots of calls that wait for the world outside

    @property
    def busy(self) -> int:
        """How many calls wait for their answer."""
        return len(self._sent) + len(self._bundles)

    def greet(self, hello: Hello) -> bytes:
        """There is a link: the bytes of HELLO, to be sent with its descriptors before anything else."""
        self.move(Event.LINK)
        self._relink()
        return encode(hello)

    def lose(self) -> None:
        """The link broke; every call is kept."""
        self.move(Event.LOSS)
        self._relink()

    def mend(self) -> list[tuple[W, int, Any]]:
        """Make good what an exception in the midst of `call` or `receive` left half done: a signal handler's, say.

        The link has to be cut then.  What is unanswered is sent again on the next one, and has its effect once, so
        nothing is lost wherever it was.  Given are the answers that `receive` had taken, some perhaps once more.
        """
        self._bundles = {slot: entry for slot, entry in self._bundles.items() if entry[2].left}
        unanswered = self._unanswered()
        self._seq = max([self._seq, *(call[0] for call in unanswered)])
        self._free = [slot for slot in range(self._slots)[::-1] if slot not in self._sent and slot not in self._bundles]
        sent = {id(waiter) for waiter, _ in self._sent_calls()}
        sent_bundles = [entry[2] for entry in self._bundles.values()]
        self.queued = deque(bundle for bundle in self.queued if bundle not in sent_bundles)
        for bundle in self.queued:
            bundle.keep(lambda waiter: id(waiter) not in sent)
        self.joins = None
        self._lingering &= self._sent.keys()
        return self._answers

    def _unanswered(self) -> list[tuple[Any, ...]]:
        """The messages that are not wholly answered, in seq order: seq, message, ..."""
        return sorted([*self._sent.values(), *self._bundles.values()], key=itemgetter(0))

    def _sent_calls(self) -> list[tuple[W, Areas]]:
        """What was sent and is not answered."""
        calls = [(call[2], call[3]) for call in self._sent.values()]
        return calls + _calls(entry[2] for entry in self._bundles.values())

    def end(self) -> list[W]:
        """Nothing more will be answered: the waiters of all calls."""
        if self.state is not State.ENDED:
            self.move(Event.END)
        waiters = [waiter for waiter, _ in self._sent_calls() + _calls(self.queued)]
        self._sent.clear()
        self._bundles.clear()
        self.queued.clear()
        self.joins = None
        self._lingering.clear()
        return waiters

    def call(self, handle: int, number: int, args: Args, areas: Areas, waiter: W, *, is_next: bool = False) -> None:
        """Send a call as soon as a slot is free.  Raises BadArgument for what the wire cannot carry.

        *is_next*: it is the first of those that are queued, and there is a slot.
        """
        if (self.queued or not self._free) and not is_next:
            alone: Bundle[W] = Bundle(handle, number, [(args, areas, waiter)], is_alone=True)
            alone.has_waited = True
            self.joins = None
            self.queued.append(alone)
            return
        slot = self._free.pop()
        seq = self._seq + 1
        try:
            call = (CALL, slot, seq, number, handle, args, areas)
            if (args and (len(args) > 1 or type(args[0]) not in PLAIN)) or (
                areas and (len(areas) > 1 or type(areas[0]) is not int)
            ):
                data = encode(call)
            else:  # most often
                data = encode_plain(call)
            if len(data) > SMALL and (len(data) > MAX_MESSAGE or not fits(args) or not fits(areas)):
                raise ValueError("longer than a message may be")
        except (TypeError, ValueError, OverflowError) as error:
            self._free.append(slot)
            raise BadArgument(f"this call cannot be sent: {error}") from None
        self._sent[slot] = (seq, data, waiter, areas)  # first: see `mend`
        self._seq = seq
        if self.state is READY:  # else WELCOME sends it, with all that are unanswered
            self.out.append(data)

    def queue(self, handle: int, number: int, args: Args, areas: Areas, waiter: W) -> None:
        """The same with the next `pack`, in one message with its like, if the host takes that.  Raises as `call`."""
        joins = self.joins
        if joins is not None and joins.number == number and joins.handle == handle:
            joins.calls.append((args, areas, waiter))
            return
        takes = bool(self.features & BUNDLES)
        if not takes and not self.queued:
            self.call(handle, number, args, areas, waiter)
            return
        bundle = Bundle(handle, number, [(args, areas, waiter)], is_alone=not takes or number in self._alone)
        self.joins = None
        self.queued.append(bundle)
        if not bundle.is_alone:
            self.joins = bundle

    def pack(self) -> list[tuple[W, int, Any]]:
        """Send what is queued, as far as there are slots; the answers to what cannot be sent."""
        refused: list[tuple[W, int, Any]] = []
        self.joins = None
        while self.queued and self._free and self.state is READY:
            bundle = self.queued[0]
            if bundle.has_waited:
                bundle.keep(lambda waiter: not self._given_up(waiter))
            if len(bundle.calls) > 1:
                slot, seq = self._free[-1], self._seq + 1
                data = bundle.encode(slot, seq)
                if data is None:  # if one of them cannot be sent, that shows when it is alone
                    self.queued = deque([*bundle.halves(), *islice(self.queued, 1, None)])
                    continue
                self._bundles[slot] = seq, data, bundle  # first: see `mend`
                self._free.pop()
                self._seq = seq
                self.out.append(data)
                self.queued.popleft()
                continue
            for args, areas, waiter in bundle.left:
                try:
                    self.call(bundle.handle, bundle.number, args, areas, waiter, is_next=True)
                except BadArgument as error:
                    refused.append((waiter, Status.BAD_ARGUMENT, str(error)))
            self.queued.popleft()  # last: see `mend`
        for bundle in reversed(self.queued):
            if bundle.has_waited:  # and all that are in front of it
                break
            bundle.has_waited = True
        if self.queued and not self.queued[-1].is_alone:
            self.joins = self.queued[-1]
        return refused

    @property
    def may_linger(self) -> bool:
        """Whether a call may wait for the world outside: half of the slots are for others, which go on meanwhile."""
        return bool(self._free) and not self.queued and 2 * len(self._lingering) + 2 <= self._slots

    def linger(self) -> None:
        """The call that was made last is one that waits."""
        self._lingering.add(next(reversed(self._sent)))

    def withdraw(self, waiter: W) -> bool:
        """Do not make the call of *waiter* if it still waits for a slot; whether no answer will come."""
        for bundle in self.queued:
            bundle.keep(lambda each: each is not waiter)
        return all(each is not waiter for each, _ in self._sent_calls())

    def uses(self, address: int, size: int) -> bool:
        """Whether a call that is not answered has an area within these bytes: the host may still fill them.

        Nobody has to be waiting for it any more: a task that is cancelled leaves its call behind.
        """
        lists = [areas for _, areas in self._sent_calls() + _calls(self.queued)]
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
        self._answers = answers
        interrupts: list[Message] = []
        sent, free = self._sent, self._free
        ready = self.state is READY
        for message in self._decoder.feed(data):
            if type(message) is tuple and len(message) == 5 and ready and message[0] == REPLY:
                kind, slot, seq, status, value = message
                if int is type(kind) is type(slot) is type(seq) is type(status):
                    call = sent.get(slot)
                    if call is not None and call[0] == seq:
                        areas = call[3]
                        if areas and status == 0:
                            is_inline = type(value) is bytes and type(areas[0]) is int and len(value) <= areas[0]
                            if not is_inline and not _possible(value, areas):
                                self.broken = ProtocolViolation("an answer that does not fit the room there was")
                                return answers, interrupts
                        answers.append((call[2], status, value))  # first: see `mend`
                        del sent[slot]
                        free.append(slot)
                        if self._lingering:
                            self._lingering.discard(slot)
                        continue
                self.broken = ProtocolViolation("an answer to no call")
                return answers, interrupts
            try:
                if type(message) is tuple and len(message) == 6 and ready and message[0] == REPLIES:
                    self._take(message, answers)
                    continue
                if self._other(message):
                    interrupts.append(message)  # type: ignore[arg-type]  # a tuple, as was just seen
            except ProtocolViolation as violation:
                self.broken = violation
                return answers, interrupts
            ready = self.state is READY
        self.broken = self._decoder.broken
        if self.queued:
            answers += self.pack()
        return answers, interrupts

    def _take(self, message: tuple[Any, ...], answers: list[tuple[W, int, Any]]) -> None:
        """Take REPLIES.  Raises ProtocolViolation."""
        kind, slot, seq, first, statuses, values = message
        entry = self._bundles.get(slot) if int is type(kind) is type(slot) is type(seq) else None
        if entry is None or entry[0] != seq:
            raise ProtocolViolation("an answer to no call")
        bundle = entry[2]
        is_usual = statuses == 0 and first == 0 and type(statuses) is type(first) is int and type(values) is tuple
        if is_usual and bundle.take_all(values, answers):
            del self._bundles[slot]
            self._free.append(slot)
            return
        not_made = bundle.take(first, statuses, values, answers)  # first: see `mend`
        if not_made:
            self._alone.add(bundle.number)
            self.queued.extendleft(not_made[::-1])
        if bundle.forget(first, len(values)):
            del self._bundles[slot]
            self._free.append(slot)

    def _other(self, message: object) -> bool:
        """Take a message that is no REPLY; whether it is an IRQ.  Raises ProtocolViolation."""
        if type(message) is not tuple or not message or type(message[0]) is not int or message[0] not in _EVENTS:
            raise ProtocolViolation("a message of no known kind")
        event = _EVENTS[message[0]]
        state = self.after(event)
        if event is Event.WELCOME:
            self._welcome(Welcome.check(message))
        elif event is Event.END:
            self.last = End.check(message)
        elif event is Event.REPLY or len(message) != 4 or {*map(type, message)} != {int}:
            raise ProtocolViolation("a message of the wrong shape")
        self.state = state
        return event is Event.IRQ

    def _welcome(self, welcome: Welcome) -> None:
        if self._new:
            self._slots = welcome.slots
            self._free[:] = range(welcome.slots)[::-1]  # slot 0 is used first, the latest freed one next
            self._new = False
        elif not welcome.resumed:
            raise ProtocolViolation("the host no longer knows this session")
        else:
            self.moved = welcome.epoch != self._epoch
        if self._bundles and not welcome.features & BUNDLES:
            raise ProtocolViolation("the host no longer takes what it has confirmed")
        self._epoch, self.features = welcome.epoch, welcome.features
        self.out += [call[1] for call in self._unanswered()]
