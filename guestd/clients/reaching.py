"""How long a guest tries to reach its host, and to leave it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Final

WELCOME_SECONDS: Final = 5.0
DETACH_SECONDS: Final = 5.0  # for the host to take leave, before a guest goes without it
_LONGEST_PAUSE: Final = 0.05  # seconds
PATIENCE_SECONDS: Final = 2.0  # for a host that does not answer before the session is given up


def pauses() -> Iterator[float]:
    """Seconds from one attempt to reach the host to the next: it may be there again at once, or take its time."""
    seconds = 0.001
    while True:
        yield seconds
        seconds = min(2 * seconds, _LONGEST_PAUSE)


def silent(path: Path) -> TimeoutError:
    """What to raise when the host at *path* does not say WELCOME."""
    return TimeoutError(errno.ETIMEDOUT, f"the host at {path} did not answer within {WELCOME_SECONDS:.0f} s")
