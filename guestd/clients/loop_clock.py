"""Time for drivers in an event loop, on a clock that is handed in."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from hcall.clock import Clock


class LoopClock:
    """Time for drivers, on a clock that is handed in."""

    def __init__(self, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._clock, self._loop = clock, loop
        self.time = clock.time

    async def sleep(self, seconds: float) -> None:
        woken = self._loop.create_future()
        timer = self._clock.call_later(seconds, partial(_wake, woken))
        try:
            await woken
        finally:
            timer.cancel()


def _wake(woken: asyncio.Future[Any]) -> None:
    if not woken.done():  # a task that is cancelled cancels it at once, and its timer may be due already
        woken.set_result(None)
