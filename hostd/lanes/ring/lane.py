"""A ring of one device: takes chains from a guest's memory when it is the guest's turn, and puts answers there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Protocol, TypeAlias

from hcall.errors import BadArea, BadArgument, ProtocolViolation, Status
from hcall.formats.lanes import ring
from hcall.messages import Args
from hcall.numbers import CLASS_SHIFT

from ...calls.dispatch import Deferred, WireOrReady
from ...calls.memory import Lending
from ...tree.long_calls import TURN_SECONDS
from ..lane import Carried
from .queue import Known, Queue

_WIDEST: Final = 1 << 64
_MISFIT: Final = "the device's answer cannot be sent"


#: A call that was taken: its head and chain, by which its answer finds it; its number and arguments.
Taken: TypeAlias = tuple[int, Known, int, Args]


class Rung(Carried, Protocol):
    """The guest of a ring."""

    def broke(self, text: str) -> None:
        """It broke a rule: its session ends, soon."""

    def eventfd(self, number: int, then: Callable[[int | BadArea | BadArgument], None]) -> None:
        """Give *then* the eventfd that it sent with *number*, which is *then*'s to close.  Raises Busy."""


class RingLane:
    """Calls of one device, by a ring."""

    __slots__ = ("_ahead", "_batching", "_call", "_guest", "_left", "_over", "_queue", "_stopped", "_tell",
                 "_time", "_under_way", "_waiting", "ended", "handle", "hold")  # fmt: skip

    def __init__(
        self, handle: int, hold: int, guest: Rung, queue: Queue, time: Callable[[], float], tell: Callable[[], None]
    ) -> None:
        """*hold* is the handle of the device; *tell*, which never waits, says that there are answers."""
        self.handle, self.hold, self._guest, self._queue, self._time = handle, hold, guest, queue, time
        self._tell = tell
        self.ended = 0.0
        self._left = 0  # chains that are there, and not taken
        self._under_way = self._waiting = 0  # taken, and not given; of these, for the world outside
        self._call: Taken | None = None  # the one that is being made
        self._ahead: Taken | None = None  # taken, and to be made next
        self._batching = self._over = False
        self._stopped: Callable[[], None] | None = None

    def work(self, now: float, until: float) -> bool:
        """See `Lane`."""
        left = False
        if not self._over:
            self._batching = True
            try:
                left = self._work(now, until)
            except ProtocolViolation as violation:
                self._break(str(violation))
            finally:
                self._batching = False
            self._publish()
        self.ended = self._time()
        if self._stopped is not None and not left:
            self._drained()
        return left

    def _work(self, now: float, until: float) -> bool:
        time, guest, hold, give, put = self._time, self._guest, self.hold, self._queue.give, ring.ANSWER.pack_into
        while (call := self._ahead or self._next()) is not None:
            self._ahead = None
            number = call[2]
            for answer in guest.each(number, hold, self._bodies(call)):
                made = self._call
                if made is None or self._over:
                    continue
                self._call = None
                if type(answer) is tuple:
                    status, value = answer
                    if status == 0 and type(value) is int and 0 <= value < _WIDEST:  # most often; `_give` does the same
                        put(made[1].answer, 0, ring.OK, ring.VALUE, value)
                        self._under_way -= 1
                        give(made[0], ring.ANSWER_BYTES)
                    else:
                        self._give(made, status, value)
                else:
                    self._defer(made, answer)  # type: ignore[arg-type]
                before, now = now, time()
                if now > until:
                    if now - before > TURN_SECONDS:
                        guest.overran(number, hold, now - before)
                    return True
            if self._call is not None:  # it was taken for those, and they ended before it
                self._ahead, self._call = self._call, None
            if self._over:
                return False
        return False

    def _bodies(self, call: Taken) -> Iterator[tuple[Args, WireOrReady]]:
        """Of *call*, and of those behind it that are of the same number; each is taken when it is asked for."""
        number, following = call[2], call
        while True:
            self._call = following
            yield following[3], following[1].wire
            another = self._next()
            if another is None:
                return
            if another[2] != number:
                self._ahead = another
                return
            following = another

    def _defer(self, call: Taken, later: Deferred) -> None:
        waits = later.waits
        self._waiting += waits
        later.then(partial(self._late, call, waits))

    def _next(self) -> Taken | None:
        """The next call that may be made here, if there is one.  Raises ProtocolViolation."""
        queue = self._queue
        while not self._over and self._stopped is None:
            if not self._left:
                self._left = queue.look(self._under_way)
                if not self._left:
                    queue.rest()
                    self._left = queue.look(self._under_way)
                    if not self._left:
                        return None
            self._left -= 1
            head, known = queue.take()
            self._under_way += 1
            if known.is_usual:
                array, number, eight, handle, one, argument = ring.BODY.unpack(known.body)
                args: Args = (argument,)
                if (array, eight, one) != ring.BODY_MARKS:
                    number, handle, args = ring.unpack_body(ring.BODY.pack(array, number, eight, handle, one, argument))
            else:
                number, handle, args = ring.unpack_body(bytes(known.body))
            if handle == self.hold and number >> CLASS_SHIFT:
                return head, known, number, args
            self._give(
                (head, known, number, args),
                Status.NOT_ALLOWED,
                f"a ring of {self.hold:#x} carries calls of that device only",
            )
        return None

    def _give(self, call: Taken, status: int, value: object) -> None:
        """The answer of *call*."""
        head, known, number, _ = call
        answer = known.answer
        try:
            size = ring.put_answer(answer, status, value)
        except (TypeError, ValueError, OverflowError):
            self._guest.misfit(number, self.hold, value)
            size = ring.put_answer(answer, Status.INTERNAL, _MISFIT)
        self._under_way -= 1
        self._queue.give(head, size)

    def _late(self, call: Taken, waits: bool, status: int, value: object) -> None:
        if self._over:
            return
        self._waiting -= waits
        self._give(call, status, value)
        if not self._batching:
            self._publish()
        if self._stopped is not None:
            self._drained()

    def _publish(self) -> None:
        if not self._over and self._queue.publish():
            self._tell()

    def answer(self, ticket: Taken, status: int, value: object) -> None:
        """See `Lane`."""
        self._late(ticket, False, status, value)

    def hint(self, tag: int, vector: int, count: int) -> None:
        """See `Lane`: interrupts go by the socket."""
        raise NotImplementedError

    def lend(self, number: int, start: int, size: int, offset: int | None, then: Lending) -> None:
        """See `Lane`: descriptors come by the socket's."""
        raise NotImplementedError

    def kick(self) -> None:
        """There are calls."""
        if not self._over:
            self._guest.due(self)

    # Its end.

    def stop(self, then: Callable[[], None]) -> None:
        """See `Lane`; it is over then."""
        before = self._stopped

        def stopped() -> None:
            self.finish()
            if before is not None:
                before()
            then()

        self._stopped = stopped
        self._drained()

    def _drained(self) -> None:
        if self._stopped is not None and self._ahead is None and self._under_way <= self._waiting:
            then, self._stopped = self._stopped, None
            then()

    def finish(self) -> None:
        """It is over; what is not answered by now was not made, and the guest is told."""
        if not self._over:
            self._over = True
            self._queue.finish()
            self._tell()
            self._queue.close()

    def end(self, status: Status, text: str) -> None:
        """See `Lane`; the last word is the socket's."""
        self.finish()

    def _break(self, text: str) -> None:
        """The guest broke a rule."""
        self._over = True
        self._guest.broke(f"a ring that breaks its rules: {text}")
        self._queue.close()
