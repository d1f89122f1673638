"""How many files this process may open, and those that it starts: what is raised for a daemon is not meant for them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from typing import Final

_ROOM: Final = 1 << 16  # descriptors: half a MiB of the kernel's memory
_raised_from: list[int] = []


def raise_limit() -> None:
    """This process may open as many as it can have at all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    _raised_from[:] = _raised_from or [soft]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    _make_room(min(hard, _ROOM))


def _make_room(count: int) -> None:
    """Let the kernel have a table for so many now.

    It would double it whenever it is full, and where there are threads whoever opens a file then waits until no
    processor looks at the old one any more (expand_fdtable in fs/file.c): 5 to 15 ms, in which a loop stands still.
    """
    read, write = os.pipe()
    with contextlib.suppress(OSError):
        os.close(fcntl.fcntl(read, fcntl.F_DUPFD_CLOEXEC, count - 1))
    os.close(read)
    os.close(write)


def given_limit() -> int:
    """The soft limit that this process was started with, which is a child's."""
    return _raised_from[0] if _raised_from else resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def give_limit() -> None:
    """In a child that has not begun yet: it is as this process was started."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (given_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
