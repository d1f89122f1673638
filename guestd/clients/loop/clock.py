"""Time for drivers in an event loop, on a clock that is handed in."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager

from hcall import clock as clocks
from hcall.clock import Clock


class DriverClock:
    """The `Sleeper` of the asyncio client."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.time = clock.time

    async def sleep(self, seconds: float) -> None:
        """As in the protocol; no time at all lets the others go on once, even if the clock stands still."""
        await (clocks.sleep(self._clock, seconds) if seconds > 0 else asyncio.sleep(0))

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        """As in the protocol."""
        if seconds is not None and seconds <= 0:
            return asyncio.timeout(0)  # at the first wait, even if the clock stands still
        return clocks.timeout(self._clock, seconds)
