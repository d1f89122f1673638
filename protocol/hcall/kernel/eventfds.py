"""Eventfds that somebody else sent: what they are, without asking whoever is behind them.  eventfd(2), proc(5)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_LINK: Final = "anon_inode:[eventfd]"  # no path is like that: those begin with /


def is_eventfd(fd: int) -> bool:
    """Whether *fd* is one: the kernel's own word, for which no filesystem is asked."""
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink()) == _LINK
    except OSError:
        return False
