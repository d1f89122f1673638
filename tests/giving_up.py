"""Work that is cancelled at a chosen moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
STEPS = range(1, 15)  # of the loop, of which the first begins; a round trip takes fewer, host and all


async def given_up(work: Coroutine[Any, Any, T], steps: int) -> T | None:
    """What it gives within so many *steps* of the loop; else it is cancelled, or ends at that very moment."""
    task = asyncio.ensure_future(work)
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    try:
        return await task
    except asyncio.CancelledError:
        return None


async def done(work: Awaitable[object]) -> bool:
    """That it came to its end."""
    await work
    return True
