"""The time in which a host looked after its guests: what a guest is held to is counted by it.

A host may stand still: it was stopped (SIGSTOP, a debugger, a machine that slept), or a call of a model took long.
What its guests sent meanwhile lies in their sockets, and timers come before these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from hcall.clock import Clock, Timer

_BEAT: Final = 0.25  # seconds
_MOST: Final = 0.3  # that go by until the next beat, however late it comes
_ROUNDS: Final = 8  # of the loop, before something is over: what lies in the sockets has its turn
_EXACT: Final = 1e-6  # seconds: sums of times are not


class Attended:
    """A clock that goes while the host does: time in which that stood still counts for 0.3 s at most.

    What is called later comes when the guests' input of then was looked at.
    """

    def __init__(self, clock: Clock) -> None:
        """It is *clock*, less what the host stood still for."""
        self.clock = clock
        self._beaten = self._told = clock.time()
        self._beat: Timer = clock.call_later(_BEAT, self._on)

    def time(self) -> float:
        """Seconds."""
        return self._told + min(self.clock.time() - self._beaten, _MOST)

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        """Call *callback* in *delay* seconds, when the input that came until then was looked at."""
        return _Timer(self, self.time() + delay, callback)

    def close(self) -> None:
        """Go no more."""
        self._beat.cancel()

    def _on(self) -> None:
        self._told, self._beaten = self.time(), self.clock.time()
        self._beat = self.clock.call_later(_BEAT, self._on)


class _Timer:
    def __init__(self, attended: Attended, due: float, callback: Callable[[], object]) -> None:
        self._attended, self._due, self._callback = attended, due, callback
        self._rounds = _ROUNDS
        self._look()

    def cancel(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        left = self._due - self._attended.time()
        if left <= _EXACT:
            left, self._rounds = 0.0, self._rounds - 1
        if self._rounds < 0:
            self._callback()
        else:
            self._timer = self._attended.clock.call_later(left, self._look)
