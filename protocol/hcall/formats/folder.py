"""A shared folder on the wire: what a file is, how it is opened, names, and a folder's entries, packed.

A name is any bytes but NUL and `/`, 1 to 255 of them, and neither `.` nor `..`; a path is names with `/` between them.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

ROOT: Final = 0  # the node of the folder itself
MAX_NAME: Final = 255  # bytes: NAME_MAX of linux/limits.h, and what one byte counts
MAX_PATH: Final = 4095  # bytes: PATH_MAX of linux/limits.h, without its NUL
MAX_ENTRY: Final = 18 + MAX_NAME  # bytes
_SHOWN: Final = 80  # characters
_HEAD: Final = struct.Struct("<qQBB")  # cookie, id, kind, length of the name


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
        if at > len(data) or kind not in Kind._value2member_map_:
            raise ValueError("an entry is cut off, or of no known kind")
        check_name(name)
        yield Entry(cookie, number, kind, name)
