"""Guest-physical memory, and the scatter lists that calls see of it.  The only bounds check there is.

Everything here may be changed by the guest at any time: decide on a call's arguments, which are copies, never on the
bytes of an Area.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final, TypeAlias, cast, overload

from .errors import BadArea, Busy
from .messages import Areas
from .wire import MAX_INLINE

TO_DEVICE, TO_GUEST = 0, 1  # the direction of an area: who may read it, who fills it

# linux/fcntl.h; the names come to Python's fcntl in 3.13.
F_ADD_SEALS, F_GET_SEALS = 1033, 1034
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1, 2, 4
SEALS: Final = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW
PAGE: Final = mmap.PAGESIZE


class Area(Sequence[memoryview]):
    """Some bytes of one call, in one or more pieces; `os.preadv` and `os.pwritev` take it as it is.

    Dispatch made it, checked it, and releases it when the call is answered: keep no piece of it longer.
    """

    __slots__ = ()
    nbytes: int


class Room(Area):
    """Room that the device fills."""

    __slots__ = ()

    def put(self, data: bytes) -> int:
        """Copy in as much of *data* as fits, from the start; the bytes copied."""
        raise NotImplementedError


class Data(Area):
    """Bytes for the device to read."""

    __slots__ = ()

    def get(self) -> bytes:
        """A copy of all of it: decide on this, not on the Area, whose bytes may change."""
        raise NotImplementedError


class _Scattered(list[memoryview]):
    """Pieces of guest memory."""

    __slots__ = ("nbytes",)
    nbytes: int

    def put(self, data: bytes) -> int:
        if len(self) == 1 and len(data) <= self.nbytes:
            self[0][: len(data)] = data
            return len(data)
        at = 0
        for view in self:
            part = data[at : at + len(view)]
            view[: len(part)] = part
            at += len(part)
        return at

    def get(self) -> bytes:
        return b"".join(self)

    def release(self) -> None:
        for view in self:
            view.release()


Room.register(_Scattered)
Data.register(_Scattered)


class InlineRoom(Room):
    """Room in the reply.  Bytes given to `put` are kept as they are; a buffer exists only if a view is asked for."""

    __slots__ = ("_data", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._data: bytes | bytearray | None = None

    def put(self, data: bytes) -> int:
        if len(data) > self.nbytes:
            data = data[: self.nbytes]
        if self._data is None:
            self._data = data
        else:
            self[0][: len(data)] = data
        return len(data)

    def __len__(self) -> int:
        return 1

    @overload
    def __getitem__(self, n: int) -> memoryview: ...
    @overload
    def __getitem__(self, n: slice) -> Sequence[memoryview]: ...
    def __getitem__(self, n: int | slice) -> memoryview | Sequence[memoryview]:
        if not isinstance(self._data, bytearray):
            kept = self._data or b""
            self._data = bytearray(self.nbytes)
            self._data[: len(kept)] = kept
        return [memoryview(self._data)][n]

    def __iter__(self) -> Iterator[memoryview]:
        yield self[0]

    def filled(self, count: object) -> bytes:
        """The first *count* bytes.  Raises TypeError for a count that cannot be."""
        data = self._data
        if type(data) is bytes and len(data) == count:
            return data
        if type(count) is not int or not 0 <= count <= self.nbytes:
            raise TypeError(f"a handler with a Room returns a count up to {self.nbytes}, not {count!r}")
        return bytes((data or b"")[:count]).ljust(count, b"\0")


AnyArea: TypeAlias = InlineRoom | _Scattered


class Region:
    """One sealed memfd, mapped at a guest-physical address."""

    __slots__ = ("end", "identity", "start", "views")

    def __init__(self, start: int, size: int, fd: int) -> None:
        """Map *fd*, which stays the caller's.  Raises BadArea for anything but a memfd that cannot shrink."""
        if start % PAGE or size % PAGE or not 0 < size <= (1 << 64) - start or start < 0:
            raise BadArea(f"a region starts and ends at a page boundary, within 64 bits: {start:#x}+{size:#x}")
        info = os.fstat(fd)
        try:
            if not stat.S_ISREG(info.st_mode) or info.st_size != size or info.st_blksize != PAGE:
                raise OSError  # a pipe, a device, another size, huge pages
            if not fcntl.fcntl(fd, F_GET_SEALS) & F_SEAL_SEAL:
                fcntl.fcntl(fd, F_ADD_SEALS, SEALS)  # refused on plain tmpfs files and read-only descriptors
            # A file that its owner can shrink kills whoever maps it, by SIGBUS.
            if not fcntl.fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK:
                raise OSError
            view = memoryview(mmap.mmap(fd, size))
        except (OSError, ValueError):
            raise BadArea(f"the region at {start:#x} must be a writable memfd of {size} bytes, sealed "
                          "against shrinking") from None  # fmt: skip
        self.start, self.end = start, start + size
        self.identity = (start, size, info.st_dev, info.st_ino)
        self.views = (view.toreadonly(), view)  # by direction


class Memory:
    """The regions of one guest."""

    __slots__ = ("_limit", "_max_regions", "regions")

    def __init__(self, max_regions: int = 16, limit: int = 4 << 30) -> None:
        """Takes at most *max_regions* regions, of *limit* bytes together."""
        self.regions: list[Region] = []
        self._max_regions, self._limit = max_regions, limit

    def add(self, start: int, size: int, fd: int) -> None:
        """Map *fd* at *start*.  Raises BadArea, or Busy at a limit."""
        if len(self.regions) == self._max_regions:
            raise Busy(f"a guest has at most {self._max_regions} memory regions")
        if size + sum(region.end - region.start for region in self.regions) > self._limit:
            raise Busy(f"a guest has at most {self._limit} bytes of memory")
        if any(region.start < start + size and start < region.end for region in self.regions):
            raise BadArea(f"a region at {start:#x} overlaps one that is there")
        self.regions.append(Region(start, size, fd))

    def remove(self, start: int) -> None:
        """Take the region at *start* away; calls under way keep what they have.  Raises BadArea."""
        kept = [region for region in self.regions if region.start != start]
        if len(kept) == len(self.regions):
            raise BadArea(f"no region starts at {start:#x}")
        self.regions = kept

    @property
    def identity(self) -> set[tuple[int, int, int, int]]:
        """What a guest must bring to be taken for this one: (address, size, device, inode) of each region."""
        return {region.identity for region in self.regions}

    def room(self, areas: Areas) -> Room:
        """The one Room that *areas* are.  Raises BadArea."""
        if len(areas) == 1 and type(areas[0]) is int:
            if 0 <= areas[0] <= MAX_INLINE:
                return InlineRoom(areas[0])
            raise BadArea(f"a reply has room for {MAX_INLINE} bytes, not {areas[0]}")
        return cast(Room, self._scattered(areas, TO_GUEST))

    def data(self, areas: Areas) -> Data:
        """The one Data that *areas* are.  Raises BadArea."""
        return cast(Data, self._scattered(areas, TO_DEVICE))

    def both(self, areas: Areas) -> tuple[Room, Data]:
        """The Room and the Data that *areas* are, each in its order.  Raises BadArea."""
        into = tuple(area for area in areas if type(area) is tuple and area[2:] == (TO_GUEST,))
        return self.room(into), self.data(tuple(area for area in areas if area not in into))

    def _scattered(self, areas: Areas, direction: int) -> _Scattered:
        scattered = _Scattered()
        total = 0
        for area in areas:
            if type(area) is tuple and len(area) == 3:
                address, length, way = area
                if not int is type(address) is type(length) is type(way) or way != direction:
                    raise BadArea(f"an area of this call is (address, length, {direction})")
                for region in self.regions:
                    if region.start <= address and 0 <= length <= region.end - address:
                        at = address - region.start
                        scattered.append(region.views[direction][at : at + length])
                        total += length
                        break
                else:
                    raise BadArea(f"no guest memory at {address:#x}+{length:#x}")
            elif type(area) is bytes and direction == TO_DEVICE:
                scattered.append(memoryview(area))
                total += len(area)
            else:
                raise BadArea("an area that this call cannot use")
        scattered.nbytes = total
        return scattered
