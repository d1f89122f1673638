"""Time as an object that is handed in: nothing above this file asks the system, or an event loop, for time.

Whoever waits says by which clock: `async with timeout(clock, 5)`, `await sleep(clock, 1)`.  So a host whose clock is
turned by hand gives up, sweeps and ticks when that clock says so.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio


class Timer(Protocol):
    """What `call_later` returns."""

    def cancel(self) -> None:
        """Do not call; nothing happens if it was called already."""


class Clock(Protocol):
    """What hosts and guests know of time."""

    def time(self) -> float:
        """Seconds, never backwards, from no particular moment."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        """Call *callback* in *delay* seconds."""


class LoopClock:
    """The system's time, for what runs in an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Its callbacks are made by *loop*, the running one if not given."""
        import asyncio  # here: a blocking guest never does, which saves 40 ms

        self._loop = loop or asyncio.get_running_loop()
        self.time = time.monotonic  # not the loop's time, which stands still in a callback of uvloop's

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        """Call *callback* in *delay* seconds; 0: in the next round of the loop, where a timer of uvloop takes 1 ms."""
        return self._loop.call_at(time.monotonic() + delay, callback) if delay > 0 else self._loop.call_soon(callback)


class SystemClock:
    """The system's time, for what has no event loop and may block."""

    def time(self) -> float:
        """Seconds."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Do nothing for so long."""
        time.sleep(seconds)


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


async def sleep(clock: Clock, seconds: float) -> None:
    """Return when *seconds* have passed on *clock*."""
    import asyncio

    woken = asyncio.Event()
    timer = clock.call_later(seconds, woken.set)
    try:
        await woken.wait()
    finally:
        timer.cancel()


@contextlib.asynccontextmanager
async def timeout(clock: Clock, seconds: float | None) -> AsyncIterator[None]:
    """What is awaited in here has *seconds* on *clock*; None is no bound.

    Raises TimeoutError, as asyncio.timeout does: what is under way is cancelled, and has ended by then.
    """
    import asyncio

    async with asyncio.timeout(None) as bound:
        timer = clock.call_later(seconds, lambda: bound.reschedule(0.0)) if seconds is not None else None  # 0: at once
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
