"""A bundle: calls of one number and handle that came as one message, made in their guest's turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from operator import length_hint
from typing import Any, Protocol, cast

from hcall.errors import Status
from hcall.messages import Areas, Args
from hcall.session.host import HostSession
from hcall.session.states import Message, State
from hcall.wire import MAX_MESSAGE, NUMBERS, encode

from ...calls.dispatch import Answer, Deferred
from ...tree.long_calls import TURN_SECONDS
from ..lane import REPLACED, Carried


class Bundling(Protocol):
    """The lane of a bundle."""

    session: HostSession
    lends: bool

    def defer(self, answer: Deferred, give: Callable[[int, object], None]) -> None:
        """*answer* comes later: *give* it then."""

    def said(self) -> None:
        """Something was given: it goes out, at once unless more follows."""


class Bundle:
    """Those calls that are not made yet.

    A late answer holds up no other.  What is kept of the answers is bounded: when they are about as long as a message
    may be, the calls behind are not made, and the guest is told so.
    """

    __slots__ = ("_areas", "_args", "_guest", "_handle", "_is_again", "_lane", "_number", "_places", "_room", "_seq",
                 "_slot", "_unanswered")  # fmt: skip

    def __init__(self, lane: Bundling, guest: Carried, message: Message) -> None:
        self._args: tuple[Args, ...]
        self._areas: tuple[Areas, ...]
        _, self._slot, self._seq, self._number, self._handle, self._args, self._areas = message
        self._lane, self._guest = lane, guest
        self._is_again = self._seq in lane.session.begun
        self._unanswered = lane.session.unanswered(self._slot, len(self._args))
        self._places = iter(self._unanswered)  # of the calls to be made
        self._room = MAX_MESSAGE  # for answers

    def work(self, now: float, until: float, time: Callable[[], float]) -> tuple[bool, float]:
        """Make calls as long as there is time, and one at least; whether some are left, and what time it is."""
        statuses: list[int | None] = []  # those of the calls up to *at*, and their values
        values: list[Any] = []
        room, at = self._room, 0
        for answer, at in zip(self._answers(), self._places, strict=False):
            if type(answer) is tuple:
                status, value = answer
                statuses.append(status)
                values.append(value)
                if type(value) is bytes:  # most often
                    room -= len(value)
                elif type(value) is not int:
                    room -= _size(value)
                if self._is_again:  # the next one may be at any place
                    self._tell(at, statuses, values)
            else:
                self._tell(at - len(values), statuses, values)
                room -= answer.size  # type: ignore[union-attr]
                self._lane.defer(cast(Deferred, answer), partial(self._settle, at))
                if self._lane.lends:
                    break
            if room <= 0:
                break
            before, now = now, time()
            if now > until:
                if now - before > TURN_SECONDS:
                    self._guest.overran(self._number, self._handle, now - before)
                break
        self._room = room
        self._tell(at + 1 - len(values), statuses, values)
        if room <= 0:
            for at in self._places:
                self._tell(at, [None], [None])
        return length_hint(self._places) > 0, now

    def _answers(self) -> Iterator[Answer]:
        """Those of the calls to be made, each of which is made when it is asked for."""
        if self._is_again and not self._guest.may_repeat(self._number, self._handle):
            return repeat((Status.IO_ERROR, REPLACED))
        places = self._unanswered[len(self._unanswered) - length_hint(self._places) :]
        if len(places) == len(self._args):
            bodies = zip(self._args, self._areas, strict=False)
        else:
            bodies = zip([self._args[at] for at in places], [self._areas[at] for at in places], strict=False)
        return self._guest.each(self._number, self._handle, bodies)

    def drop(self) -> None:
        """The rest is not wanted any more."""
        for _ in self._places:
            pass

    def _tell(self, first: int, statuses: list[int | None], values: list[Any]) -> None:
        """Give the answers from *first* on, which are taken out of the lists."""
        session = self._lane.session
        if values and session.state is not State.ENDED:
            misfits = session.reply_some(self._slot, self._seq, len(self._args), first, statuses, values)
            for at in misfits:
                self._guest.misfit(self._number, self._handle, values[at - first])
        statuses.clear()
        values.clear()

    def _settle(self, at: int, status: int, value: object) -> None:
        self._tell(at, [status], [value])
        self._lane.said()


def _size(value: object) -> int:
    """Bytes of a message that it takes, about."""
    if type(value) is str:
        return len(value)
    try:
        return 0 if type(value) in NUMBERS else len(encode(value))
    except (TypeError, ValueError, OverflowError):  # its guest is told in its place
        return 0
