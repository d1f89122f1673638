"""A disk in memory as a plugin of nbdkit in Python, as its manual would have one: what a device in Python is beside.

Requests come in threads, several at once; nbdkit calls what it finds here by its name.
"""

from __future__ import annotations

import os
from typing import Final

import nbdkit  # type: ignore[import-not-found]  # there is one inside nbdkit only

API_VERSION: Final = 2
_DATA: Final = memoryview(bytearray(os.urandom(1 << 20)) * 64)  # as large as DISK_BYTES


def thread_model() -> int:
    """Any number of requests at once."""
    return int(nbdkit.THREAD_MODEL_PARALLEL)


def open(readonly: bool) -> int:  # noqa: A001 - nbdkit's name
    """A handle, for who connects."""
    return 1


def get_size(handle: int) -> int:
    """Bytes of the disk."""
    return len(_DATA)


def pread(handle: int, buffer: bytearray, offset: int, flags: int) -> None:
    """Fill *buffer* from *offset* on."""
    buffer[:] = _DATA[offset : offset + len(buffer)]
