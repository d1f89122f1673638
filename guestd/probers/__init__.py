"""Ways to find devices.  Each yields `Found`s, and knows nothing of how they are driven."""

from __future__ import annotations

from typing import NamedTuple


class Found(NamedTuple):
    """A device, or a node without one, as a prober found it."""

    node: int  # its handle
    path: str
    name: str
    compatible: tuple[str, ...]  # most specific first; none: there is no device
    ids: tuple[int, int]  # 16-bit vendor and device, (0, 0) = none


def absolute(path: str) -> str:
    """*path* from the root on, a `/` in front or not."""
    if not isinstance(path, str):
        raise TypeError(f"the path of a device is text, not {path!r}")
    return "/" + path.strip("/")
