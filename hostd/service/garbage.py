"""When the garbage of a daemon is collected: when nobody waits for it.

To go through all objects takes 20 ms as a daemon starts, and 10 to 60 ms more with a thousand guests; Python does so
whenever there are a quarter more of them, which is ten times while so many come.  All guests would wait meanwhile.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

from hcall.clock import Timer

from ..machine.host import Host

SECONDS: Final = 10.0  # from one look to the next
MOST_SECONDS: Final = 60.0  # that a host which is never idle goes without
_NEVER: Final = 1 << 30  # collections of the younger ones, which take microseconds and go on


@contextlib.contextmanager
def collected_when_idle(host: Host) -> Iterator[None]:
    """What is there now stays; what comes is gone through when no user waits for a turn, and once in 60 s at least.

    It is the process's: for one that is a host's, and nothing else.
    """
    clock, turns = host.clock, host.guests.turns
    gc.collect()
    gc.freeze()
    last, timers = clock.time(), list[Timer]()

    def look() -> None:
        nonlocal last
        if not turns.waiting or clock.time() - last >= MOST_SECONDS:
            gc.collect()
            last = clock.time()
        timers[:] = [clock.call_later(SECONDS, look)]

    timers.append(clock.call_later(SECONDS, look))
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)
    try:
        yield
    finally:
        timers[0].cancel()
        gc.set_threshold(young, middle, old)
        gc.unfreeze()
