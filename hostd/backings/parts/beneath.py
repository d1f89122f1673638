"""Names to descriptors below a folder that nobody gets out of, by the kernel's own rules (openat2, Linux 5.6).

Nothing here follows a symbolic link, enters another mount or goes up, whoever renames what meanwhile.  A descriptor of
`reach` opens nothing: no device is touched, no pipe waited for.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import stat
import struct
from collections.abc import Iterator
from typing import Final

from hcall.errors import Busy
from hcall.formats.folder import Entry, Kind, shown

CACHED: Final = 32  # linux/openat2.h, as the next: raise BlockingIOError if it takes the disk
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 1, 2, 4, 8
_OPENAT2: Final = 437  # its system call, on every machine but alpha
_HOW: Final = struct.Struct("QQQ")  # flags, mode, resolve: struct open_how, openat2(2)
_DIRENT: Final = struct.Struct("=QqHB")  # struct linux_dirent64, getdents64(2); the name and a NUL follow
_libc = ctypes.CDLL(None, use_errno=True)
_syscall: Final = _libc.syscall
_syscall.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
_syscall.restype = ctypes.c_long
_libc.getdents64.restype = ctypes.c_ssize_t
_KINDS: Final = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.FOLDER, stat.S_IFLNK: Kind.LINK}
_WRONG: Final[dict[int, int]] = {
    Kind.FILE: errno.ENOTDIR, Kind.FOLDER: errno.EISDIR, Kind.LINK: errno.ELOOP, Kind.OTHER: errno.ENXIO,
}  # fmt: skip


def _how(flags: int, mode: int, cached: int) -> bytes:
    return _HOW.pack(flags | os.O_CLOEXEC, mode, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS | _NO_XDEV | cached)


_REACH: Final = {cached: _how(os.O_PATH | os.O_NOFOLLOW, 0, cached) for cached in (0, CACHED)}  # of each small file


def openat2(parent: int, path: bytes, flags: int, mode: int, cached: int) -> int:
    """A descriptor of *path*, which stays below *parent* and on its filesystem.  Raises OSError."""
    return _checked(_syscall(_OPENAT2, parent, path, _how(flags, mode, cached), _HOW.size))


def reach(base: int, path: bytes, cached: int = 0) -> int:
    """A descriptor of what is at *path* below *base*, of a link itself, too; it reads and writes nothing."""
    fd = _syscall(_OPENAT2, base, path, _REACH[cached], _HOW.size)
    return fd if fd >= 0 else _checked(fd)


def reopen(node: int, path: bytes, flags: int) -> int:
    """A descriptor of the very file that *node* is, opened: what has its name, *path*, by now does not matter.

    Raises OSError, Busy.
    """
    check_kind(node, Kind.FILE)
    try:
        return os.open(itself(node), flags | os.O_CLOEXEC | os.O_NONBLOCK)
    except BlockingIOError:  # F_SETLEASE, fcntl(2), which was asked for it now
        raise Busy(f"{shown(path)} is leased to a program on the host") from None


def knows_cached(fd: int) -> bool:
    """Whether CACHED can be asked for where *fd* is: it takes Linux 5.12."""
    try:
        os.close(reach(fd, b".", CACHED))
    except OSError as error:
        return error.errno == errno.EAGAIN
    return True


def sync(fd: int) -> None:
    """Until everything that was written to the filesystem of *fd* is stable.  Raises OSError."""
    _checked(_libc.syncfs(fd))


def listing(fd: int, cookie: int, size: int) -> Iterator[Entry]:
    """Entries of the folder *fd* behind *cookie*, of *size* bytes packed at most; none at the end.  Raises OSError.

    They are read from the folder now, and looked at one by one.
    """
    os.lseek(fd, cookie, os.SEEK_SET)
    buffer = ctypes.create_string_buffer(size)
    while end := _checked(_libc.getdents64(fd, buffer, ctypes.c_size_t(size))):
        entries = _entries(fd, buffer.raw[:end])
        for first in entries:  # . and .. may be all that comes at first
            return itertools.chain((first,), entries)
    return iter(())


def _entries(fd: int, data: bytes) -> Iterator[Entry]:
    """What getdents64 gave; packed it is shorter."""
    at = 0
    while at < len(data):
        number, cookie, length, sort = _DIRENT.unpack_from(data, at)
        name = data[at + _DIRENT.size : at + length].partition(b"\0")[0]
        at += length
        if name in (b".", b".."):
            continue
        mode = sort << 12  # IFTODT of dirent.h
        if not mode:  # a filesystem that does not know
            with contextlib.suppress(FileNotFoundError):
                mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        yield Entry(cookie, number, _KINDS.get(stat.S_IFMT(mode), Kind.OTHER), name)


def _checked(result: int) -> int:
    """What a call of the C library returned.  Raises OSError."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def itself(fd: int) -> str:
    """A path that is what *fd* is, whatever its name is now."""
    return f"/proc/self/fd/{fd}"


def kind_of(info: os.stat_result) -> int:
    """What the guest is told that it is, see `Kind`."""
    return int(_KINDS.get(stat.S_IFMT(info.st_mode), Kind.OTHER))


def check_kind(fd: int, wanted: Kind | None = None) -> None:
    """That *fd* is a file or a folder, or of the *wanted* kind.  Raises OSError, as opening it would."""
    kind = kind_of(os.fstat(fd))
    if kind != wanted and (wanted is not None or kind in (Kind.LINK, Kind.OTHER)):
        raise OSError(_WRONG[kind], os.strerror(_WRONG[kind]))
