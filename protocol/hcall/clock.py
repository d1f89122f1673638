"""Time as an object that is handed in: nothing here or above reads the wall clock by itself."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """What `call_later` returns."""

    def cancel(self) -> None:
        """Do not call; nothing happens if it was called already."""


class Clock(Protocol):
    """What hosts and guests know of time.  An event loop has both methods."""

    def time(self) -> float:
        """Seconds, never backwards, from no particular moment."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        """Call *callback* in *delay* seconds."""


class ManualClock:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self._now = 0.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _ManualTimer]] = []

    def time(self) -> float:
        """Seconds since the start."""
        return self._now

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        """Call *callback* once the clock has been turned by *delay* seconds."""
        timer = _ManualTimer(callback)
        heapq.heappush(self._timers, (self._now + max(delay, 0.0), next(self._order), timer))
        return timer

    def turn(self, seconds: float) -> None:
        """Let *seconds* pass, and make the calls that fall due, in their order."""
        until = self._now + seconds
        while self._timers and self._timers[0][0] <= until:
            self._now, _, timer = heapq.heappop(self._timers)
            if timer.callback is not None:
                timer.callback()
        self._now = until


class _ManualTimer:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None
