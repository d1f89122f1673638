"""A shared folder on the wire: what a file is, how it is opened, names, and a folder's entries, packed.

A name is any bytes but NUL and `/`, 1 to 255 of them, and neither `.` nor `..`; a path is names with `/` between them.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

ROOT: Final = 0  # the node of the folder itself
MAX_NAME: Final = 255  # bytes: NAME_MAX of linux/limits.h, and what one byte counts
MAX_PATH: Final = 4095  # bytes: PATH_MAX of linux/limits.h, without its NUL
MAX_ENTRY: Final = 18 + MAX_NAME  # bytes
FETCHED: Final = 37  # bytes of a fetched entry, without its name and those of the file
MAX_FETCHED: Final = FETCHED + MAX_NAME
STORED: Final = 7  # bytes of a file to be stored, without its name and its own
_STORED: Final = struct.Struct("<HIB")  # permissions, size, length of the name
_is_name: Final = re.compile(rb"(?!\.\.?\Z)[^/\0]{1,255}").fullmatch  # what `check_name` tells, in a third of the time
_SHOWN: Final = 80  # characters
_HEAD: Final = struct.Struct("<qQBB")  # cookie, id, kind, length of the name
_FETCHED: Final = struct.Struct("<qQQqHBBB")  # cookie, id, size, mtime, mode, kind, flags, length of the name


class Kind(enum.IntEnum):
    """What a name stands for."""

    FILE = 0
    FOLDER = 1
    LINK = 2  # a symbolic link, which nobody follows
    OTHER = 3  # a pipe, a socket or a device: there to be seen, and no more


class Access(enum.IntFlag):
    """How a file is opened."""

    READ = 1
    WRITE = 2
    CREATE = 4  # if it is missing
    EXCLUSIVE = 8  # with CREATE: it has to be missing
    TRUNCATE = 16  # with WRITE: what was in it is forgotten


class Stat(NamedTuple):
    """What is known about a file, in the order of the wire."""

    kind: int
    id: int  # of the file, whatever names it has: the host's inode number
    size: int  # bytes
    mode: int  # permission bits
    mtime: int  # nanoseconds since 1970


class Entry(NamedTuple):
    """A line of a folder."""

    cookie: int  # where to go on after it
    id: int
    kind: int
    name: bytes


_KINDS: Final = frozenset(map(int, Kind))


class Flag(enum.IntFlag):
    """What a fetched entry has."""

    STAT = 1  # what `stat` would tell; else it was not at hand
    DATA = 2  # with STAT: all bytes of the file, behind the name
    LAST = 4  # no entry behind it


_STAT, _DATA, _LAST = map(int, Flag)  # to combine flags takes 10 times as long
_FLAGS: Final = {0, _STAT, _STAT | _DATA, _LAST, _LAST | _STAT, _LAST | _STAT | _DATA}
_FILE: Final = int(Kind.FILE)


class Fetched(NamedTuple):
    """A line of a folder with what is known of it."""

    cookie: int  # where to go on after it
    id: int
    size: int  # bytes
    mtime: int  # nanoseconds since 1970
    mode: int  # permission bits
    kind: int
    flags: int
    name: bytes
    data: bytes | memoryview = b""  # of the file, with DATA


class Stored(NamedTuple):
    """A file to be made in a folder, or written anew."""

    mode: int  # permission bits
    name: bytes
    data: bytes | memoryview


def check_name(name: bytes) -> None:
    """Raises ValueError for what is no name."""
    if not 0 < len(name) <= MAX_NAME or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise ValueError(f"{shown(name)} is no name: 1 to {MAX_NAME} bytes without / and NUL, and neither . nor ..")


def check_path(path: bytes) -> None:
    """Raises ValueError for what is no path; none at all is one, the node itself."""
    if len(path) > MAX_PATH:
        raise ValueError(f"a path has {MAX_PATH} bytes at most, not {len(path)}")
    for name in path.split(b"/") if path else ():
        check_name(name)


def shown(path: bytes) -> str:
    """For people, and so not all of a long one."""
    text = path.decode(errors="backslashreplace")
    return repr(text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}...{text[-_SHOWN // 2 :]}")


def pack(entries: Iterable[Entry]) -> bytes:
    """As `read_dir` gives them."""
    return b"".join(_HEAD.pack(*entry[:3], len(entry.name)) + entry.name for entry in entries)


def unpack(data: bytes) -> Iterator[Entry]:
    """The entries of *data*.  Raises ValueError for anything else."""
    at = 0
    while at < len(data):
        if len(data) - at < _HEAD.size:
            raise ValueError(f"{len(data) - at} bytes are no entry")
        cookie, number, kind, length = _HEAD.unpack_from(data, at)
        at += _HEAD.size + length
        name = data[at - length : at]
        if at > len(data) or kind not in _KINDS:
            raise ValueError("an entry is cut off, or of no known kind")
        check_name(name)
        yield Entry(cookie, number, kind, name)


def put_fetched(into: memoryview, at: int, name: bytes, *numbers: int) -> None:
    """Put an entry at *at*, where there is room: all that comes before its name, in this order, and the name."""
    start = at + FETCHED
    _FETCHED.pack_into(into, at, *numbers, len(name))
    into[start : start + len(name)] = name


def put_flags(into: memoryview, at: int, flags: int) -> None:
    """Put *flags* into the entry at *at*."""
    into[at + FETCHED - 2] = flags


def pack_fetched(entries: Iterable[Fetched]) -> bytes:
    """As `fetch_dir` gives them."""
    return b"".join(_FETCHED.pack(*entry[:7], len(entry.name)) + entry.name + entry.data for entry in entries)


def unpack_fetched(data: bytes | memoryview) -> Iterator[Fetched]:
    """The entries of *data*, with parts of it.  Raises ValueError for anything else.

    Others may change *data* meanwhile: each number is read once, and a name is a copy.
    """
    at, end, last = 0, len(data), False
    while at < end:
        if end - at < FETCHED or last:
            raise ValueError(f"{end - at} bytes are no entry")
        cookie, number, size, mtime, mode, kind, flags, length = _FETCHED.unpack_from(data, at)
        start = at + FETCHED + length
        at = start + size if flags & _DATA else start
        if at > end or kind not in _KINDS or flags not in _FLAGS or (flags & _DATA and kind != _FILE):
            raise ValueError("an entry is cut off, or of no known kind, or no file and has bytes")
        last = bool(flags & _LAST)
        name = bytes(data[start - length : start])
        if not _is_name(name):
            check_name(name)
        yield Fetched(cookie, number, size, mtime, mode, kind, flags, name, data[start:at])


def put_stored(into: memoryview, at: int, mode: int, name: bytes, size: int) -> int:
    """Put what stands before the *size* bytes of a file at *at*, where there is room; where they begin."""
    start = at + STORED + len(name)
    _STORED.pack_into(into, at, mode, size, len(name))
    into[start - len(name) : start] = name
    return start


def pack_stored(files: Iterable[Stored]) -> bytes:
    """As `store_dir` takes them."""
    return b"".join(_STORED.pack(mode, len(data), len(name)) + name + data for mode, name, data in files)


def stored_at(data: bytes | memoryview, at: int) -> tuple[Stored, int]:
    """The file at *at*, with its part of *data*, and where it ends.  Raises ValueError for what is none.

    Others may change *data* meanwhile, as for `unpack_fetched`.
    """
    if len(data) - at < STORED:
        raise ValueError(f"{len(data) - at} bytes are no file to be stored")
    mode, size, length = _STORED.unpack_from(data, at)
    start = at + STORED + length
    if mode > 0o777:
        raise ValueError(f"permissions are 0 to 0o777, not {mode:#o}")
    if start + size > len(data):
        raise ValueError(f"of a file to be stored {start + size - len(data)} bytes are missing")
    name = bytes(data[start - length : start])
    if not _is_name(name):
        check_name(name)
    return Stored(mode, name, data[start : start + size]), start + size


def unpack_stored(data: bytes | memoryview) -> Iterator[Stored]:
    """All files in *data*.  Raises ValueError for anything else."""
    at = 0
    while at < len(data):
        file, at = stored_at(data, at)
        yield file
