"""Memory that two processes share: memfds that nobody can shrink any more.

A file that its owner can shrink kills whoever maps it, by SIGBUS.  linux/memfd.h, memfd_create(2), fcntl(2).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from typing import Final

# linux/fcntl.h; the names come to Python's fcntl in 3.13.
F_ADD_SEALS, F_GET_SEALS = 1033, 1034
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1, 2, 4
SEALS: Final = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW
PAGE: Final = mmap.PAGESIZE
SPARSE: Final = 64 << 20  # bytes of a guest's memory that every host takes without pages, if it takes so much at all


def create(size: int, filled: bool = False) -> int:
    """A sealed memfd of *size* bytes, the caller's to close; *filled*: all its pages are there.  Raises OSError."""
    fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        if filled:
            os.posix_fallocate(fd, 0, size)
        seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def seal(fd: int) -> None:
    """Seal *fd*, unless its seals are final.  Raises OSError for what cannot be sealed, or can still shrink."""
    if not fcntl.fcntl(fd, F_GET_SEALS) & F_SEAL_SEAL:
        fcntl.fcntl(fd, F_ADD_SEALS, SEALS)  # refused on plain tmpfs files and read-only descriptors
    if not fcntl.fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK:
        raise PermissionError(errno.EPERM, "this memfd can be shrunk for good")
