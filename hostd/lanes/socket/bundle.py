"""A bundle: calls of one number and handle that came as one message, made in their guest's turns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from operator import length_hint
from typing import Any, Protocol, cast

from hcall.errors import Status
from hcall.messages import Areas, Args
from hcall.session.host import HostSession
from hcall.session.states import Message, State
from hcall.wire import MAX_MESSAGE, NUMBERS

from ...calls.dispatch import Deferred, Dispatch, WireOrReady
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
                 "_slot")  # fmt: skip

    def __init__(self, lane: Bundling, guest: Carried, message: Message) -> None:
        self._args: tuple[Args, ...]
        self._areas: tuple[Areas, ...]
        _, self._slot, self._seq, self._number, self._handle, self._args, self._areas = message
        self._lane, self._guest = lane, guest
        self._is_again = self._seq in lane.session.begun
        self._places = iter(lane.session.unanswered(self._slot, len(self._args)))  # of the calls to be made
        self._room = MAX_MESSAGE  # for answers

    def work(self, now: float, until: float, time: Callable[[], float], dispatch: Dispatch) -> tuple[bool, float]:
        """Make calls as long as there is time, and one at least; whether some are left, and what time it is."""
        lane, number, handle, args, areas = self._lane, self._number, self._handle, self._args, self._areas
        if self._is_again and not self._guest.may_repeat(number, handle):
            dispatch = _refuse
        first, room = 0, self._room
        statuses: list[int | None] = []  # of the calls from *first* on
        values: list[Any] = []
        for at in self._places:
            if not values:
                first = at
            if room <= 0:
                statuses.append(None)
                values.append(None)
                continue
            answer = dispatch(number, handle, args[at], areas[at])
            if isinstance(answer, tuple):
                status, value = cast(tuple[int, Any], answer)
                statuses.append(status)
                values.append(value)
                kind = type(value)
                if kind is bytes or kind is str:
                    room -= len(value)
                elif kind not in NUMBERS:
                    room -= self._tell(first, statuses, values)
                if self._is_again:  # the next one may not be the one behind
                    self._tell(first, statuses, values)
            else:
                self._tell(first, statuses, values)
                room -= answer.size
                lane.defer(answer, partial(self._settle, at))
            before, now = now, time()
            if now - before > TURN_SECONDS:
                self._guest.overran(number, handle, now - before)
            if now > until or lane.lends:
                break
        self._tell(first, statuses, values)
        self._room = room
        return length_hint(self._places) > 0, now

    def drop(self) -> None:
        """The rest is not wanted any more."""
        for _ in self._places:
            pass

    def _tell(self, first: int, statuses: list[int | None], values: list[Any]) -> int:
        """Give the answers from *first* on, which are taken out of the lists; the bytes that takes."""
        session = self._lane.session
        if not values or session.state is State.ENDED:
            return 0
        size, misfits = session.reply_some(self._slot, self._seq, len(self._args), first, statuses, values)
        for at in misfits:
            self._guest.misfit(self._number, self._handle, values[at - first])
        statuses.clear()
        values.clear()
        return size

    def _settle(self, at: int, status: int, value: object) -> None:
        self._tell(at, [status], [value])
        self._lane.said()


def _refuse(number: int, handle: int, args: Args, areas: WireOrReady, /) -> tuple[int, object]:
    """In the place of a dispatch."""
    return Status.IO_ERROR, REPLACED
