"""What is kept of something that runs, so that it can go on in another process: maps of plain data, with a version.

`save` gives such a map, `restore` goes on from it.  msgpack can carry it: str keys; None, bool, int, float, str, bytes,
and lists and maps of those.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Saved: TypeAlias = dict[str, Any]


def check(saved: Saved, version: int) -> None:
    """Raises ValueError if *saved* is not of this *version*: better no state than a wrong one."""
    if saved.get("version") != version:
        raise ValueError(f"this was saved by another version: {saved.get('version')!r}, not {version}")
