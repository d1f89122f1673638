"""Eventfds that somebody else sent: what they are, and how they are read and written by who must not wait.

Whoever else has one can fill it, and make it blocking, at any moment, so that write(2) waits for as long as he likes;
nothing says otherwise for one write.  What the kernel itself adds, as asynchronous I/O ends, never waits: eventfd(2),
io_submit(2) with IOCB_FLAG_RESFD.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct
from pathlib import Path
from typing import Final

_LINK: Final = "anon_inode:[eventfd]"  # no path is like that: those begin with /
_NUMBERS: Final = {"x86_64": (206, 207, 209), "aarch64": (0, 1, 2), "riscv64": (0, 1, 2)}  # io_setup, destroy, submit
_IOCB: Final = struct.Struct("<QIIHhIQQqQII")  # linux/aio_abi.h
_READ, _WITH_EVENTFD = 0, 1
_BYTES: Final = 8


def is_eventfd(fd: int) -> bool:
    """Whether *fd* is one: the kernel's own word, for which no filesystem is asked."""
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink()) == _LINK
    except OSError:
        return False


def drain(fd: int, buffer: bytearray) -> None:
    """Read the eventfd *fd* into *buffer*, of 8 bytes, unless somebody else has.  Raises OSError where it may wait."""
    with contextlib.suppress(BlockingIOError):
        os.preadv(fd, [buffer], -1, os.RWF_NOWAIT)


class Teller:
    """Adds 1 to any eventfd, without waiting."""

    def __init__(self) -> None:
        """Raises OSError where that cannot be done."""
        numbers = _NUMBERS.get(platform.machine())
        if numbers is None:
            raise OSError("the numbers of system calls are not known for this machine")
        setup, self._destroy, submit = map(ctypes.c_long, numbers)
        self._call = ctypes.PyDLL(None, use_errno=True).syscall
        self._context = ctypes.c_ulong(0)
        if self._call(setup, ctypes.c_long(1), ctypes.byref(self._context)):
            raise OSError(ctypes.get_errno(), "io_setup")
        self._file = os.memfd_create("nothing", os.MFD_CLOEXEC)  # reading nothing of it ends at once
        self._room = ctypes.create_string_buffer(1)
        self._block = ctypes.create_string_buffer(_IOCB.size)
        blocks = (ctypes.c_void_p * 1)(ctypes.addressof(self._block))
        self._arguments = submit, self._context, ctypes.c_long(1), blocks
        self._ends = (ctypes.c_uint32 * 4).from_address(self._context.value)  # id, how many, head, tail: fs/aio.c

    def tell(self, fd: int) -> None:
        """Add 1 to the eventfd *fd*, or leave it as full as it is."""
        _IOCB.pack_into(
            self._block, 0, 0, 0, 0, _READ, 0, self._file, ctypes.addressof(self._room), 1, 0, 0, _WITH_EVENTFD, fd
        )
        self._ends[2] = self._ends[3]  # what has ended is of no interest
        self._call(*self._arguments)

    def close(self) -> None:
        """It tells nothing more."""
        self._call(self._destroy, self._context)
        os.close(self._file)
