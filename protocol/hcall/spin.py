"""When to look again for what comes next, instead of going to sleep at once.  Policy only: no I/O.

To be woken takes 20 to 50 us, often more than the peer takes for its answer.  So whoever something came to looks again
for up to 100 us, where that pays, which shows by itself:

- Nothing comes in time, as callers are sparse, or answers slow: a miss, unless much was found before.
- The core is shared: who looks keeps others from it, the peer perhaps, and whatever comes then seems to come in time.
  But the kernel takes the core away from it again and again: as often as three times in a millisecond is a miss.
- The machine has one processor: always a miss.

After a miss the next 2^k - 1 times are left out; a miss makes k larger by one, and who looks in peace smaller.  At rest
there is nothing: no timer, no callback.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

SECONDS: Final = 0.0001  # that are spent looking, after something came; 50 us do as well
LOOKS: Final = 500  # in that time at most, with a clock that is turned by hand, say; one takes 0.6 us or more
CHECK_SECONDS: Final = 0.001  # from one look at who has the core to the next: it takes 1 us
_ENOUGH: Final = 4  # times that something was found make up for once that nothing was: to be woken takes less than that
_MANY: Final = 3  # times in CHECK_SECONDS that the core was taken away
_MOST_MISSES: Final = 10  # that count


class Spin:
    """Whether one thread looks again."""

    __slots__ = ("_checked", "_due", "_found", "_looking", "_looks", "_misses", "_processors", "_skip", "_switched",
                 "_switches", "_time", "_until")  # fmt: skip

    def __init__(self, time: Callable[[], float], switches: Callable[[], int], processors: Callable[[], int]) -> None:
        """*time* is a clock's.

        *switches* tells how often the thread lost its core before it would wait; *processors*, how many there are.
        """
        self._time, self._switches, self._processors = time, switches, processors
        self._looking = False
        self._found = 0  # times that something came, and was looked for
        self._misses = self._skip = 0
        self._until, self._looks = 0.0, 0
        self._checked = self._due = 0.0  # when the core was looked at, and will be
        self._switched = 0  # what `switches` said then

    def came(self) -> bool:
        """Something came, and was answered: whether to look for what comes next, as long as `again` says so."""
        if self._looking:
            if self._looks < LOOKS:
                self._found += 1
            now = self._time()
            if now >= self._due:
                if self._is_shared(now):
                    self._miss()
                    return False
                if self._found >= _ENOUGH:
                    self._forgive()
                self._check(now)
        elif self._skip:
            self._skip -= 1
            return False
        elif self._processors() < 2:
            self._miss()
            return False
        else:
            self._looking, self._found = True, 0
            now = self._time()
            if now >= self._due:
                self._check(now)
        self._until, self._looks = now + SECONDS, LOOKS
        return True

    def again(self) -> bool:
        """Nothing has come yet: whether to look once more."""
        if not self._looking:
            return False
        self._looks -= 1
        now = self._time()
        if self._looks > 0 and now < self._until:
            return True
        if self._found >= _ENOUGH and not self._is_shared(now):
            self._forgive()
            self._looking = False
        else:
            self._miss()
        return False

    def rest(self) -> None:
        """Nothing will come: look no more until something does."""
        self._looking = False

    def _check(self, now: float) -> None:
        self._checked, self._switched = now, self._switches()
        self._due = now + CHECK_SECONDS / (1 + self._misses)  # who had to stop before is soon looked at

    def _is_shared(self, now: float) -> bool:
        """Whether others wanted the core too often since the last check."""
        lost = self._switches() - self._switched
        return lost > 0 and lost * CHECK_SECONDS >= _MANY * (now - self._checked)

    def _forgive(self) -> None:
        self._misses = max(self._misses - 1, 0)

    def _miss(self) -> None:
        self._looking = False
        self._misses = min(self._misses + 1, _MOST_MISSES)
        self._skip = (1 << self._misses) - 1


class Awake:
    """Keeps an event loop from going to sleep while its spin goes on: a loop that has a callback to make only looks."""

    __slots__ = ("_call_soon", "_called", "_spin")

    def __init__(self, spin: Spin, call_soon: Callable[[Callable[[], None]], object]) -> None:
        """*call_soon* is the loop's."""
        self._spin, self._call_soon = spin, call_soon
        self._called = False

    def came(self) -> None:
        """Something came, and was answered."""
        if self._spin.came() and not self._called:
            self._called = True
            self._call_soon(self._look)

    def rest(self) -> None:
        """Nothing will come: the loop may sleep."""
        self._spin.rest()

    def _look(self) -> None:
        self._called = self._spin.again()
        if self._called:
            self._call_soon(self._look)
