"""Bundles: calls of one number and handle that share a message, a slot, and what is kept of them; the guest's part.

What is looked at for each call is looked at for all of them at once, where C does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, repeat
from operator import le
from typing import Any, Final, Generic, TypeVar, cast

from ..errors import ProtocolViolation
from ..messages import CALLS, Areas, Args, Direction
from ..text import MAX_TEXT
from ..wire import MAX_INLINE, MAX_ITEMS, MAX_MESSAGE, NUMBERS, encode_plain

W = TypeVar("W")
_TO_GUEST, _TO_DEVICE = int(Direction.TO_GUEST), int(Direction.TO_DEVICE)
_STATUS: Final = 16  # bytes: of an answer, beside its value
_OK: Final = repeat(0)
_BYTES: Final = frozenset((bytes,))
_SHORT: Final = MAX_TEXT // 4  # letters, or bytes, of an argument that need no closer look


class Bundle(Generic[W]):
    """Calls of one number and handle, in the order in which they were made, each until it is answered."""

    __slots__ = ("_counts", "_rooms", "_waiters", "calls", "handle", "has_waited", "is_alone", "number")

    def __init__(
        self, handle: int, number: int, calls: list[tuple[Args, Areas, W] | None], *, is_alone: bool = False
    ) -> None:
        """*is_alone*: no other is to join these *calls*."""
        self.handle, self.number, self.is_alone = handle, number, is_alone
        self.calls = calls  # None: it is answered
        self.has_waited = False  # there was no slot for it: its calls may be given up by now
        self._waiters: tuple[W, ...] | None = None  # of the message, as long as none is answered
        # The most that each may be answered, if all are answered bytes, or all a count.
        self._rooms: list[int] | None = None
        self._counts: tuple[int, ...] | None = None

    @property
    def left(self) -> list[tuple[Args, Areas, W]]:
        """Those that are not answered."""
        return [call for call in self.calls if call is not None]

    def keep(self, wanted: Callable[[W], bool]) -> None:
        """Forget the calls that nobody has *wanted*; none is sent yet."""
        self.calls = [call for call in self.left if wanted(call[2])]

    def halves(self) -> Iterator[Bundle[W]]:
        """The same calls in two bundles, since they cannot go in one."""
        half = len(self.calls) // 2
        for part in self.calls[:half], self.calls[half:]:
            yield Bundle(self.handle, self.number, part)

    def encode(self, slot: int, seq: int) -> bytes | None:
        """The message of all calls.  None: they, or their answers, are too long, or not plain enough to be sure."""
        all_args, all_areas, self._waiters = zip(*self.calls)  # noqa: B905  # none is answered
        args, areas = [*chain.from_iterable(all_args)], [*chain.from_iterable(all_areas)]
        if len(self.calls) > MAX_ITEMS or not (NUMBERS.issuperset(map(type, args)) or all(map(_is_short, args))):
            return None
        try:
            if areas:
                if len(areas) != len(all_areas):
                    return None
                if type(areas[0]) is int:
                    self._rooms = areas
                    if sum(areas) + _STATUS * len(areas) > MAX_MESSAGE:
                        return None
                elif not self._are_alike(areas):
                    return None
            data = encode_plain((CALLS, slot, seq, self.number, self.handle, all_args, all_areas))
        except (TypeError, ValueError, OverflowError):
            return None
        return data if len(data) <= MAX_MESSAGE else None

    def _are_alike(self, areas: list[Any]) -> bool:
        """Whether *areas*, one for each call, are all of guest memory, in one direction, or all data.

        Raises TypeError or ValueError for what no area is.  What is none otherwise, the host answers so.
        """
        if type(areas[0]) is tuple:
            addresses, sizes, ways = zip(*areas, strict=True)
            sum(addresses, sum(sizes))  # raises for what is no number
            if ways.count(_TO_GUEST) == len(ways):
                self._counts = sizes
            return self._counts is not None or ways.count(_TO_DEVICE) == len(ways)
        return {*map(type, areas)} == {bytes} and max(map(len, areas)) <= MAX_INLINE

    def take_all(self, values: tuple[Any, ...], answers: list[tuple[W, int, Any]]) -> bool:
        """Add *values*, which are those of all calls, to *answers*; no: something is special about them."""
        waiters, rooms = self._waiters, self._rooms
        if waiters is None or len(values) != len(waiters):
            return False
        if rooms is not None:
            if {*map(type, values)} != _BYTES or not all(map(le, map(len, values), rooms)):
                return False
        elif not self._possible(values, 0):
            return False
        answers += zip(waiters, _OK, values)  # noqa: B905
        return True

    def _possible(self, values: tuple[Any, ...], first: int) -> bool:
        """Whether the device can have filled the areas of the calls from *first* on with what it claims."""
        try:
            if self._rooms is not None:
                rooms = self._rooms[first : first + len(values)]
                return {*map(type, values)} == _BYTES and all(map(le, map(len, values), rooms))
            if self._counts is not None:
                counts = self._counts[first : first + len(values)]
                return {*map(type, values)} == {int} and min(values) >= 0 and all(map(le, values, counts))
        except TypeError:  # an area was none
            return False
        return True

    def take(
        self, first: object, statuses: object, values: object, answers: list[tuple[W, int, Any]]
    ) -> list[Bundle[W]]:
        """Add what REPLIES says to *answers*, unless that came before; the calls that were not made.

        Raises ProtocolViolation for what is no answer to these.
        """
        calls = self.calls
        if type(first) is not int or type(values) is not tuple or not 0 <= first < first + len(values) <= len(calls):
            raise ProtocolViolation("an answer to no call")
        if type(statuses) is int and statuses == 0:  # most often
            if not self._possible(values, first):
                raise ProtocolViolation("an answer that does not fit the room there was")
            told = zip(calls[first : first + len(values)], values, strict=True)
            answers += [(call[2], 0, value) for call, value in told if call is not None]
            return []
        if type(statuses) is not tuple or len(statuses) != len(values):
            raise ProtocolViolation("REPLIES is [8, slot, seq, first, statuses, values]")
        not_made: list[Bundle[W]] = []
        for at, (status, value) in enumerate(zip(statuses, values, strict=True), first):
            call = calls[at]
            if status is None:
                if call is not None:
                    not_made.append(Bundle(self.handle, self.number, [call], is_alone=True))
            elif type(status) is not int or (status == 0 and not self._possible((value,), at)):
                raise ProtocolViolation("an answer that does not fit the room there was")
            elif call is not None:
                answers.append((call[2], status, value))
        return not_made

    def forget(self, first: int, count: int) -> bool:
        """So many from *first* on are answered; whether all are."""
        if count == len(self.calls):
            return True
        self._waiters = None
        self.calls[first : first + count] = [None] * count
        return not self.left


def _is_short(arg: object) -> bool:
    return type(arg) in NUMBERS or (type(arg) in (str, bytes) and len(cast(str, arg)) <= _SHORT)
