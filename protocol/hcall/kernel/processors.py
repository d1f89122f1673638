"""What the kernel tells of processors."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from functools import cache

from ..spin import Spin


def switches() -> int:
    """How often this thread lost its processor before it would wait: others wanted it, too."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw


@cache
def count() -> int:
    """Of this machine.  A process that may use one of them only may have its peers on another, and gains most."""
    return os.cpu_count() or 1


def spin(time: Callable[[], float]) -> Spin:
    """Of this thread, by the *time* of a clock."""
    return Spin(time, switches, count)
