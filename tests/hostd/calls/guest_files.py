"""What the tests of guest memory share: descriptors as a guest makes them."""

from __future__ import annotations

import fcntl
import os

from hcall.kernel.memfd import F_ADD_SEALS
from hostd.calls.memory import Memory, Region, lend


def add(memory: Memory, start: int, size: int, fd: int, offset: int | None = None) -> None:
    """Lend *fd*, which stays the caller's.  Raises BadArea or Busy."""
    lent = lend(start, size, copy := os.dup(fd), offset)
    if not isinstance(lent, Region):
        os.close(copy)
    memory.add(start, size, lent)


class Files:
    """Memory of a guest, seen from the guest: descriptors that are closed after the test."""

    def __init__(self) -> None:
        self.open: list[int] = []

    def keep(self, fd: int) -> int:
        self.open.append(fd)
        return fd

    def memfd(self, size: int, *, seals: int = 0, flags: int = os.MFD_ALLOW_SEALING) -> int:
        fd = self.keep(os.memfd_create("guest", os.MFD_CLOEXEC | flags))
        os.truncate(fd, size)
        if seals:
            fcntl.fcntl(fd, F_ADD_SEALS, seals)
        return fd
