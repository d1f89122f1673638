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
_SHORT: Final = MAX_TEXT // 4  # letters, or bytes, of an argument that need no closer look


class Bundle(Generic[W]):
    """Calls of one number and handle, in the order in which they were made, each until it is answered."""

    __slots__ = ("_counts", "_rooms", "areas", "args", "handle", "has_waited", "is_alone", "number", "waiters")

    def __init__(
        self, handle: int, number: int, args: Args, areas: Areas, waiter: W, *, is_alone: bool = False
    ) -> None:
        """*is_alone*: no other is to join this call."""
        self.handle, self.number, self.is_alone = handle, number, is_alone
        self.args, self.areas = [args], [areas]
        self.waiters: list[W | None] = [waiter]  # None: it is answered
        self.has_waited = False  # there was no slot for it: its calls may be given up by now
        # The most that each may be answered, if all are answered bytes, or all a count.
        self._rooms: list[int] | None = None
        self._counts: tuple[int, ...] | None = None

    def mend(self) -> None:
        """Make good a call that was left half added."""
        del self.args[len(self.waiters) :], self.areas[len(self.waiters) :]

    @property
    def left(self) -> bool:
        """Whether one is not answered."""
        return any(waiter is not None for waiter in self.waiters)

    def keep(self, wanted: Callable[[W], bool]) -> None:
        """Forget the calls that nobody has *wanted*; none is sent yet."""
        calls = zip(self.args, self.areas, self.waiters, strict=True)
        kept = [call for call in calls if wanted(cast(W, call[2]))]
        self.args, self.areas = [call[0] for call in kept], [call[1] for call in kept]
        self.waiters = [call[2] for call in kept]

    def halves(self) -> Iterator[Bundle[W]]:
        """The same calls in two bundles, since they cannot go in one."""
        half = len(self.waiters) // 2
        for part in slice(half), slice(half, None):
            bundle: Bundle[W] = Bundle(self.handle, self.number, (), (), cast(W, None))
            bundle.args, bundle.areas, bundle.waiters = self.args[part], self.areas[part], self.waiters[part]
            yield bundle

    def encode(self, slot: int, seq: int) -> bytes | None:
        """The message of all calls.  None: they, or their answers, are too long, or not plain enough to be sure."""
        args, areas = [*chain.from_iterable(self.args)], [*chain.from_iterable(self.areas)]
        if len(self.waiters) > MAX_ITEMS or not (NUMBERS.issuperset(map(type, args)) or all(map(_is_short, args))):
            return None
        if areas and ({*map(len, self.areas)} != {1} or not self._has_bounds(areas)):
            return None
        try:
            data = encode_plain((CALLS, slot, seq, self.number, self.handle, self.args, self.areas))
        except (ValueError, OverflowError):
            return None
        return data if len(data) <= MAX_MESSAGE else None

    def _has_bounds(self, areas: list[Any]) -> bool:
        """Note how much each of the calls may be answered, by its area; whether they are alike."""
        kinds = {*map(type, areas)}
        if kinds == {int}:
            self._rooms = areas
            answers = sum(areas) + _STATUS * len(areas)
            return bool(min(areas) >= 0 and max(areas) <= MAX_INLINE and answers <= MAX_MESSAGE)
        if kinds == {tuple}:
            if {*map(len, areas)} != {3}:
                return False
            addresses, sizes, ways = zip(*areas, strict=True)
            if ways.count(_TO_GUEST) == len(ways):
                self._counts = sizes
            elif ways.count(_TO_DEVICE) < len(ways):
                return False
            return {*map(type, addresses), *map(type, sizes), *map(type, ways)} == {int}
        return kinds == {bytes} and all(len(area) <= MAX_INLINE for area in areas)

    def _possible(self, values: tuple[Any, ...], first: int) -> bool:
        """Whether the device can have filled the areas of the calls from *first* on with what it claims."""
        if self._rooms is not None:
            rooms = self._rooms[first : first + len(values)]
            return {*map(type, values)} == {bytes} and all(map(le, map(len, values), rooms))
        if self._counts is not None:
            counts = self._counts[first : first + len(values)]
            return {*map(type, values)} == {int} and min(values) >= 0 and all(map(le, values, counts))
        return True

    def take(
        self, first: object, statuses: object, values: object, answers: list[tuple[W, int, Any]]
    ) -> list[Bundle[W]]:
        """Add what REPLIES says to *answers*, unless that came before; the calls that were not made.

        Raises ProtocolViolation for what is no answer to these.
        """
        waiters = self.waiters
        if type(first) is not int or type(values) is not tuple or not 0 <= first < first + len(values) <= len(waiters):
            raise ProtocolViolation("an answer to no call")
        if type(statuses) is int and statuses == 0:  # most often
            if not self._possible(values, first):
                raise ProtocolViolation("an answer that does not fit the room there was")
            told = zip(cast(list[W], waiters[first : first + len(values)]), repeat(0), values, strict=False)
            answers += told if None not in waiters else [each for each in told if each[0] is not None]
            return []
        if type(statuses) is not tuple or len(statuses) != len(values):
            raise ProtocolViolation("REPLIES is [8, slot, seq, first, statuses, values]")
        not_made: list[Bundle[W]] = []
        for at, (status, value) in enumerate(zip(statuses, values, strict=True), first):
            waiter = waiters[at]
            if status is None:
                if waiter is not None:
                    alone = Bundle(self.handle, self.number, self.args[at], self.areas[at], waiter, is_alone=True)
                    not_made.append(alone)
            elif type(status) is not int or (status == 0 and not self._possible((value,), at)):
                raise ProtocolViolation("an answer that does not fit the room there was")
            elif waiter is not None:
                answers.append((waiter, status, value))
        return not_made

    def forget(self, first: int, count: int) -> bool:
        """So many from *first* on are answered; whether all are."""
        if count == len(self.waiters):
            return True
        self.waiters[first : first + count] = [None] * count
        return not self.left


def _is_short(arg: object) -> bool:
    return type(arg) in NUMBERS or (type(arg) in (str, bytes) and len(cast(str, arg)) <= _SHORT)
