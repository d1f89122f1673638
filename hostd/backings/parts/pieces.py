"""Some of the pieces of an area: what one call of the kernel takes, and a worker does before it looks up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Final

PART: Final = 1 << 20  # bytes: 0.1 ms from the page cache
MOST: Final = os.sysconf("SC_IOV_MAX")  # pieces: what preadv(2) takes


@contextlib.contextmanager
def part(pieces: Sequence[memoryview], done: int = 0) -> Iterator[list[memoryview]]:
    """What follows the first *done* bytes, up to PART of them, released at the end."""
    found: list[memoryview] = []
    skip, room = done, PART
    for piece in pieces:
        if skip < len(piece) and room and len(found) < MOST:
            found.append(piece[skip : skip + room])
            room -= len(found[-1])
        skip = max(0, skip - len(piece))
    try:
        yield found
    finally:
        for each in found:
            each.release()
