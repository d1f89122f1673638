"""The guest's end of a session."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

from ..errors import BadArgument, ProtocolViolation, Status
from ..messages import ACK, CALL, END, IRQ, REPLY, WELCOME, Areas, Args, Direction, End, Hello, Welcome
from ..wire import MAX_MESSAGE, PLAIN, SMALL, encode, encode_plain, fits
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


class GuestSession(Session, Generic[W]):
    """The guest's end: puts calls into slots and keeps each, with its waiter, until it is answered."""

    __slots__ = ("_answers", "_backlog", "_epoch", "_free", "_given_up", "_lingering", "_new", "_sent", "_seq",
                 "_slots", "features", "last", "moved")  # fmt: skip
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
        self._backlog: deque[tuple[int, int, Args, Areas, W]] = deque()
        self._answers: list[tuple[W, int, Any]] = []  # those of the last `receive`
        self._lingering: set[int] = set()  # slots of calls that wait for the world outside

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

    def mend(self) -> list[tuple[W, int, Any]]:
        """Make good what an exception in the midst of `call` or `receive` left half done: a signal handler's, say.

        The link has to be cut then.  What is unanswered is sent again on the next one, and has its effect once, so
        nothing is lost wherever it was.  Given are the answers that `receive` had taken, some perhaps once more.
        """
        self._seq = max([self._seq, *(call[0] for call in self._sent.values())])
        self._free = [slot for slot in range(self._slots)[::-1] if slot not in self._sent]
        self._lingering &= self._sent.keys()
        if self._backlog and any(call[2] is self._backlog[0][4] for call in self._sent.values()):
            self._backlog.popleft()
        return self._answers

    def end(self) -> list[W]:
        """Nothing more will be answered: the waiters of all calls."""
        if self.state is not State.ENDED:
            self.move(Event.END)
        waiters = [call[2] for call in self._sent.values()] + [entry[4] for entry in self._backlog]
        self._sent.clear()
        self._lingering.clear()
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

    @property
    def may_linger(self) -> bool:
        """Whether a call may wait for the world outside: half of the slots are for others, which go on meanwhile."""
        return bool(self._free) and 2 * len(self._lingering) + 2 <= self._slots

    def linger(self) -> None:
        """The call that was made last is one that waits."""
        self._lingering.add(next(reversed(self._sent)))

    def withdraw(self, waiter: W) -> bool:
        """Do not make the call of *waiter* if it still waits for a slot; whether no answer will come."""
        for n, queued in enumerate(self._backlog):
            if queued[4] is waiter:
                del self._backlog[n]
                break
        return all(call[2] is not waiter for call in self._sent.values())

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
                if self._other(message):
                    interrupts.append(message)  # type: ignore[arg-type]  # a tuple, as was just seen
            except ProtocolViolation as violation:
                self.broken = violation
                return answers, interrupts
            ready = self.state is READY
        self.broken = self._decoder.broken
        while self._backlog and free:
            queued = self._backlog[0]
            try:
                if not self._given_up(queued[4]):
                    self.call(*queued)
            except BadArgument as error:
                answers.append((queued[4], Status.BAD_ARGUMENT, str(error)))
            self._backlog.popleft()  # last: see `mend`
        return answers, interrupts

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
        self._epoch, self.features = welcome.epoch, welcome.features
        self.out += [call[1] for call in self._sent.values()]
