"""Which filesystem a file is on: on some nothing waits for a disk, of others nobody knows how long they take."""

from __future__ import annotations

import ctypes
from typing import Final

TMPFS: Final = 0x01021994  # linux/magic.h, as the others
LOCAL: Final = {
    TMPFS,
    0xEF53,  # ext2, ext3, ext4
    0x58465342,  # xfs
    0x9123683E,  # btrfs
    0xF2F52010,  # f2fs
    0x794C7630,  # overlayfs
}
_libc = ctypes.CDLL(None)


def filesystem(fd: int) -> int:
    """The magic number of the filesystem that *fd* is on; 0: not known."""
    info = ctypes.create_string_buffer(256)  # struct statfs, statfs(2), whose first field is f_type
    return 0 if _libc.fstatfs(fd, info) else ctypes.c_long.from_buffer(info).value
