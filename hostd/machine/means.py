"""What this process may have of its machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

_GROUPS: Final = Path("/sys/fs/cgroup")


def memory(groups: Path = _GROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes of memory: the machine's, or what a control group allows, or one above it (`MemoryMax=`)."""
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                root, name = groups, "memory.max"
            elif "memory" in controllers.split(","):
                root, name = groups / "memory", "memory.limit_in_bytes"
            else:
                continue
            group = root / path.lstrip("/")
            for each in (group, *group.parents):
                with contextlib.suppress(OSError, ValueError):  # it has none, or "max"
                    most = min(most, int((each / name).read_text()))
                if each == root:
                    break
    return most
