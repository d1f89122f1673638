"""Guest memory in two processes: the same regions, mapped in both, and areas that are named alike.

Dispatch has checked an area before it comes here; a piece of it is in one region.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from ..calls.memory import TO_DEVICE, TO_GUEST, Mapping, Region
from ..device import Data, Room
from ..model.areas import InlineRoom, Scattered

#: (region, offset, length), or bytes that came with the call.
Piece: TypeAlias = bytes | tuple[int, int, int]
_SIMPLE: Final = 0  # PyBUF_SIMPLE


class _Buffer(ctypes.Structure):
    """Py_buffer, which the stable ABI of Python 3.11 has."""

    _fields_ = (
        ("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t), ("readonly", ctypes.c_int), ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p), ("internal", ctypes.c_void_p),
    )  # fmt: skip


_get, _release = ctypes.pythonapi.PyObject_GetBuffer, ctypes.pythonapi.PyBuffer_Release
_get.argtypes, _get.restype = (ctypes.py_object, ctypes.POINTER(_Buffer), ctypes.c_int), ctypes.c_int
_release.argtypes, _release.restype = (ctypes.POINTER(_Buffer),), None


def _address(buffer: object) -> int:
    """Where it is in this process; 0 for what has no bytes."""
    found = _Buffer()
    _get(buffer, ctypes.byref(found), _SIMPLE)
    address: int | None = found.buf
    _release(ctypes.byref(found))
    return address or 0


class Lent:
    """The daemon's side: which regions the other process has."""

    def __init__(
        self, lend: Callable[[int, int, int, int], None], drop: Callable[[int], None], soon: Callable[..., object]
    ) -> None:
        """*lend*(region, fd, size, offset) maps one there, *drop* unmaps it.

        *soon*(call, ...) makes a call in the loop, from any thread: a region may end in any.
        """
        self._lend, self._drop, self._soon = lend, drop, soon
        self._numbers: dict[int, tuple[int, int, weakref.ref[Mapping]]] = {}  # by id: number and address
        self._next = 0

    def named(self, area: Iterable[memoryview]) -> list[Piece]:
        """The pieces of *area* as both processes call them.  Raises OSError."""
        return [self._named(piece) for piece in area]

    def _named(self, piece: memoryview) -> Piece:
        mapping = piece.obj
        if not isinstance(mapping, Mapping):
            return bytes(piece)
        number, start, _ = self._numbers.get(id(mapping)) or self._lent(mapping)
        return number, _address(piece) - start, len(piece)

    def _lent(self, mapping: Mapping) -> tuple[int, int, weakref.ref[Mapping]]:
        number, key = self._next, id(mapping)
        self._next += 1
        fd = _descriptor(mapping)
        try:
            self._lend(number, fd, len(mapping), mapping.identity[2])
        finally:
            os.close(fd)

        def ended(_: object) -> None:
            if (known := self._numbers.get(key)) is not None and known[0] == number:
                del self._numbers[key]
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    self._soon(self._drop, number)

        self._numbers[key] = number, _address(mapping), weakref.ref(mapping, ended)
        return self._numbers[key]


def _descriptor(mapping: Mapping) -> int:
    """One of the memory, the caller's to close.  Raises OSError.

    mmap keeps one, and does not say which: to keep another for each region, in case that it comes here, would take as
    many more as there are guests.
    """
    *_, device, inode = mapping.identity
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if not _is(int(entry.name), device, inode):
                continue
            fd = os.dup(int(entry.name))
            if _is(fd, device, inode):  # still: another thread may have closed it
                return fd
            os.close(fd)
    raise OSError("the descriptor of a guest's memory is gone")


def _is(fd: int, device: int, inode: int) -> bool:
    """Whether *fd* is that file, to read and to write."""
    info = os.fstat(fd)
    is_it = info.st_ino == inode and info.st_dev == device
    return is_it and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR


class Borrowed:
    """The other side: the regions by number."""

    def __init__(self) -> None:
        self._regions: dict[int, Region] = {}

    def lend(self, number: int, fd: int, size: int, offset: int) -> None:
        """Map *fd*, which is this one's."""
        try:
            self._regions[number] = Region(0, size, fd, offset)
        finally:
            os.close(fd)

    def drop(self, number: int) -> None:
        """Unmap it, once no call has a piece of it."""
        del self._regions[number]

    def room(self, named: int | Sequence[Any]) -> Room:
        """The Room: so many bytes of the answer, or pieces."""
        return InlineRoom(named) if isinstance(named, int) else cast(Room, self._area(named, TO_GUEST))

    def data(self, named: Sequence[Any]) -> Data:
        """The Data."""
        return cast(Data, self._area(named, TO_DEVICE))

    def _area(self, named: Sequence[Any], direction: int) -> Scattered:
        area = Scattered()
        for piece in named:
            if isinstance(piece, bytes):
                area.append(memoryview(piece))
            else:
                number, at, length = piece
                area.append(self._regions[number].views[direction][at : at + length])
        area.nbytes = sum(map(len, area))
        return area
