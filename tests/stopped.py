"""A clock that goes on while the host stands still."""

from __future__ import annotations

from hcall.clock import ManualClock


class Stopped(ManualClock):
    """Time that goes by while nothing runs: what fell due is made when it is over."""

    def stand_still(self, seconds: float) -> None:
        now = self._now = self._now + seconds
        self._timers = sorted((max(at, now), order, timer) for at, order, timer in self._timers)
        self.turn(0)
