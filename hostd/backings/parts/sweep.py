"""A folder in one sweep: what is known of each entry, and the bytes of small files with it; and many files into one.

Whatever is not at hand goes without, entry by entry: who wants it asks for it by itself, and is told what is wrong.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Final, TypeAlias

from hcall.errors import BadArgument, HcallError
from hcall.formats.folder import FETCHED, Entry, Flag, Kind, Stored, put_fetched, put_flags, stored_at

from .beneath import kind_of, openat2, reach, reopen
from .telling import told

#: As `listing`.
Listing: TypeAlias = Callable[[int, int, int], Iterator[Entry]]

_SMALL: Final = 64 * 1024  # bytes of a file that comes with its entry
_LISTED: Final = 4096  # bytes of a folder that are listed at a time: about as many entries as half a millisecond takes
_STAT, _DATA, _LAST = map(int, Flag)
_FILE: Final = int(Kind.FILE)
_FORMAT, _PERMISSIONS = 0o170000, 0o7777  # inode(7)
_REGULAR: Final = stat.S_IFREG
_MAKE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NONBLOCK
_OWN: Final = "/proc/self/fd"
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def sweep(
    folder: int, cookie: int, into: memoryview, cached: int, listed: Listing, time: Callable[[], float], until: float
) -> Generator[None, None, int]:
    """Fill *into*, of MAX_FETCHED bytes or more, with entries of *folder* behind *cookie*; how many bytes that are.

    *listed* is `listing`, for one at a time.  It ends at the *time* *until*, with an entry at least.  Where *cached* is
    CACHED, nothing waits for the disk.  Raises OSError.
    """
    at = flags = 0
    last = None
    own = told(partial(os.open, _OWN, os.O_PATH | os.O_CLOEXEC))  # in it a file is found in 3/4 of the time
    try:
        while cookie != last:
            last = cookie
            for entry in listed(folder, cookie, _LISTED):
                put = _put(folder, entry, into, at, cached, own)
                if put is None:
                    return at
                start, (at, flags), cookie = at, put, entry.cookie
                if time() > until:
                    return at
                yield
    finally:
        os.close(own)
    if at:
        put_flags(into, start, flags | _LAST)
    return at


def store(folder: int, data: memoryview, time: Callable[[], float], until: float) -> Generator[None, None, int]:
    """Make the files that *data* has in *folder*, or write them anew; how many bytes those are that are written.

    It ends at the *time* *until*, with a file at least, and before one that cannot be written.  Raises OSError or
    HcallError if that is the very first.
    """
    at = 0
    while at < len(data):
        try:
            file, end = _stored_at(data, at)
            told(partial(_write, folder, file), file.name)
        except (HcallError, OSError):
            if at:
                return at  # who comes with it again is told
            raise
        at = end
        if time() > until:
            return at
        yield
    return at


def _stored_at(data: memoryview, at: int) -> tuple[Stored, int]:
    try:
        return stored_at(data, at)
    except ValueError as error:
        raise BadArgument(str(error)) from None


def _write(folder: int, file: Stored) -> None:
    try:
        fd = openat2(folder, file.name, _MAKE, file.mode, 0)
    except FileExistsError:
        node = reach(folder, file.name)
        try:
            fd = reopen(node, file.name, os.O_WRONLY | os.O_TRUNC)
        finally:
            os.close(node)
    try:
        done = os.write(fd, file.data)
        while done < len(file.data):
            done += os.write(fd, file.data[done:])
    finally:
        os.close(fd)


def _put(folder: int, entry: Entry, into: memoryview, at: int, cached: int, own: int) -> tuple[int, int] | None:
    """Put *entry* at *at*: where it ends, and its flags; None if it has no room behind others."""
    cookie, number, kind, name = entry
    end = at + FETCHED + len(name)
    if end > len(into):
        return None
    try:
        node = reach(folder, name, cached)
    except OSError:  # it is gone, or of another mount, or changes just now
        put_fetched(into, at, name, cookie, number, 0, 0, 0, kind, 0)
        return end, 0
    try:
        info = os.fstat(node)
        size, mode, flags = info.st_size, info.st_mode, _STAT
        if mode & _FORMAT == _REGULAR:
            kind = _FILE
            if size <= _SMALL:
                if end + size <= len(into):
                    if not size or _is_read(node, into[end : end + size], own):
                        flags = _STAT | _DATA
                elif at:
                    return None
        else:
            kind = kind_of(info)
    finally:
        os.close(node)
    put_fetched(into, at, name, cookie, info.st_ino, size, info.st_mtime_ns, mode & _PERMISSIONS, kind, flags)
    return (end + size if flags & _DATA else end), flags


def _is_read(node: int, into: memoryview, own: int) -> bool:
    """Whether all of a file, which is as long as *into*, could be read: else it is another one now, or not for us."""
    try:
        file = os.open(str(node), _OPEN, dir_fd=own)
        try:
            return os.preadv(file, (into, bytearray(1)), 0) == len(into)  # one more: it may have grown
        finally:
            os.close(file)
    except OSError:
        return False
