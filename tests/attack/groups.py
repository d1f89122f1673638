"""A control group with a bound of memory for a daemon, where one can be made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_GROUPS: Final = Path("/sys/fs/cgroup")


def make(size: int) -> Path | None:
    """A group in which processes have *size* bytes in all, the caller's to remove; None: there can be none.

    It is below the group of this process, or as near as those can be that bound memory.
    """
    for root, name in _own():
        group = root / name.lstrip("/")
        for above in (group, *group.parents):
            made = above / f"hostd-attack-{os.getpid()}"
            with contextlib.suppress(OSError):
                made.mkdir()
                for limit in ("memory.max", "memory.limit_in_bytes"):
                    if (made / limit).exists():
                        (made / limit).write_text(str(size))
                        return made
            with contextlib.suppress(OSError):
                made.rmdir()
            if above == root:
                break
    return None


def _own() -> Iterator[tuple[Path, str]]:
    """Where the groups of memory are, and which of them this process is in."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, name = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield _GROUPS / "memory", name
        elif not controllers:
            yield _GROUPS, name


def can_be() -> bool:
    """Whether there can be any."""
    made = make(1 << 30)
    if made is not None:
        made.rmdir()
    return made is not None
