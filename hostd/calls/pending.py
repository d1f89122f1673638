"""A call that is answered later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from hcall.wire import MAX_MESSAGE

from ..model.areas import InlineRoom
from ..model.blame import Misbehaved
from ..model.later import Later
from ..tree.outcome import Caller, failed, finished
from ..tree.plugged import Plugged

NUMBER: Final = 16  # bytes of a message that a number and a status take
_NUMBERS: Final = (int, float, bool, type(None), None)


class Waiter(Protocol):
    """The hold that a call belongs to."""

    plugged: Plugged
    pending: dict[Any, None]

    def settled(self, pending: Pending) -> None:
        """*pending* was answered."""


class Pending:
    """Keeps the areas of a call until its answer."""

    __slots__ = ("_answer", "_caller", "_data", "_expected", "_hold", "_number", "_room", "later", "since",
                 "waits")  # fmt: skip

    def __init__(
        self,
        caller: Caller,
        number: int,
        later: Later[Any],
        room: Any,
        data: Any,
        expected: Any,
        hold: Waiter | None = None,
    ) -> None:
        """*hold* is None for a call of the core, which no reset ends; *expected* is the answer's type.

        Raises Misbehaved for a Later that another call waits for.
        """
        if later.taken:
            raise Misbehaved("the device model returned the Later of another call")
        self._caller, self._number, self._hold = caller, number, hold
        self.later, self._room, self._data, self._expected = later, room, data, expected
        self.waits = hold is not None and number in hold.plugged.waits
        if hold is not None:
            self.since = hold.plugged.clock.time()
            hold.pending[self] = None

    @property
    def size(self) -> int:
        """See `Deferred`."""
        if self._room is not None:
            return self._room.nbytes if type(self._room) is InlineRoom else NUMBER
        is_number = self._expected in _NUMBERS
        return NUMBER if is_number else MAX_MESSAGE

    def then(self, answer: Callable[[int, object], None]) -> None:
        """Give (status, value) to *answer*: now, or when there is one.  Called once."""
        self._answer = answer
        self.later.then(self._settle)

    def _settle(self, outcome: object) -> None:
        answer: tuple[int, object]
        if isinstance(outcome, BaseException):  # to raise it here would make a circle, with all areas in it
            answer = failed(outcome, self._room, self._data, self._caller, self._number)
        else:
            try:
                answer = finished(outcome, self._room, self._data, self._expected)
            except BaseException as error:  # an Overrun, if the model is what gives the answer
                answer = failed(error, self._room, self._data, self._caller, self._number)
        self._answer(*answer)
        if self._hold is not None:
            self._hold.settled(self)
