"""A bundle: calls of one number and handle that came as one message, made in their guest's turns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from operator import length_hint
from typing import Any, Final, Protocol, cast

from hcall.errors import Status
from hcall.messages import Areas, Args
from hcall.session.host import HostSession
from hcall.session.states import Message, State
from hcall.wire import MAX_MESSAGE, NUMBERS, PLAIN

from ...calls.dispatch import Deferred, Dispatch, WireOrReady
from ...tree.long_calls import TURN_SECONDS
from ..lane import REPLACED, Carried

_NOT_MADE: Final = (None, None)
_NO_TYPES: Final[frozenset[type]] = frozenset()


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
                 "_short", "_slot")  # fmt: skip

    def __init__(self, lane: Bundling, guest: Carried, message: Message) -> None:
        self._args: tuple[Args, ...]
        self._areas: tuple[Areas, ...]
        _, self._slot, self._seq, self._number, self._handle, self._args, self._areas = message
        self._lane, self._guest = lane, guest
        self._is_again = self._seq in lane.session.begun
        self._places = iter(lane.session.unanswered(self._slot, len(self._args)))  # of the calls to be made
        self._room = MAX_MESSAGE  # for answers
        #: Answers of these types need no look: they are short, or all of them fit; the next place is the one behind.
        self._short = _NO_TYPES if self._is_again else PLAIN if _are_short(self._areas) else NUMBERS

    def work(self, now: float, until: float, time: Callable[[], float], dispatch: Dispatch) -> tuple[bool, float]:
        """Make calls as long as there is time, and one at least; whether some are left, and what time it is."""
        lane, number, handle, args, areas = self._lane, self._number, self._handle, self._args, self._areas
        if self._is_again and not self._guest.may_repeat(number, handle):
            dispatch = _refuse
        short = self._short
        answers: list[tuple[int | None, Any]] = []  # of the calls up to *at*
        at = 0
        for at in self._places:
            if self._room <= 0:
                answers.append(_NOT_MADE)
                continue
            answer = dispatch(number, handle, args[at], areas[at])
            if type(answer) is tuple:
                answers.append(answer)
                if type(answer[1]) not in short:
                    self._look(at, answers)
            else:
                self._tell(at - len(answers), answers)
                self._defer(at, cast(Deferred, answer))
                if lane.lends:
                    break
            before, now = now, time()
            if now > until:
                if now - before > TURN_SECONDS:
                    self._guest.overran(number, handle, now - before)
                break
        self._tell(at + 1 - len(answers), answers)
        return length_hint(self._places) > 0, now

    def _look(self, at: int, answers: list[tuple[int | None, Any]]) -> None:
        """The last of *answers*, of the call at *at*, may be long, or the next one may be of another place."""
        value = answers[-1][1]
        if type(value) is bytes or type(value) is str:
            self._room -= len(value)
        elif type(value) not in NUMBERS:
            self._room -= self._tell(at + 1 - len(answers), answers)
        if self._is_again:
            self._tell(at + 1 - len(answers), answers)

    def _defer(self, at: int, answer: Deferred) -> None:
        self._room -= answer.size
        self._lane.defer(answer, partial(self._settle, at))

    def drop(self) -> None:
        """The rest is not wanted any more."""
        for _ in self._places:
            pass

    def _tell(self, first: int, answers: list[tuple[int | None, Any]]) -> int:
        """Give the answers from *first* on, which are taken out of the list; the bytes that takes."""
        session = self._lane.session
        if not answers or session.state is State.ENDED:
            return 0
        statuses, values = zip(*answers, strict=True)
        answers.clear()
        size, misfits = session.reply_some(self._slot, self._seq, len(self._args), first, statuses, values)
        for at in misfits:
            self._guest.misfit(self._number, self._handle, values[at - first])
        return size

    def _settle(self, at: int, status: int, value: object) -> None:
        self._tell(at, [(status, value)])
        self._lane.said()


def _are_short(areas: tuple[Areas, ...]) -> bool:
    """Whether calls with these *areas* are answered by bytes, and all of these fit a message."""
    rooms: list[Any] = [*chain.from_iterable(areas)]
    return {*map(type, rooms)} == {int} and len(rooms) == len(areas) and min(rooms) >= 0 and sum(rooms) <= MAX_MESSAGE


def _refuse(number: int, handle: int, args: Args, areas: WireOrReady, /) -> tuple[int, object]:
    """In the place of a dispatch."""
    return Status.IO_ERROR, REPLACED
