"""How many files this process may open, and those that it starts: what is raised for a daemon is not meant for them."""

from __future__ import annotations

import resource

_raised_from: list[int] = []


def raise_limit() -> None:
    """This process may open as many as it can have at all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    _raised_from[:] = _raised_from or [soft]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def given_limit() -> int:
    """The soft limit that this process was started with, which is a child's."""
    return _raised_from[0] if _raised_from else resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def give_limit() -> None:
    """In a child that has not begun yet: it is as this process was started."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (given_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
