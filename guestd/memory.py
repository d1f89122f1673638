"""Guest RAM: sealed memfds at guest-physical addresses, and a first-fit allocator of whole pages."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable
from typing import Final

from hcall.errors import BadArgument
from hcall.kernel import memfd
from hcall.kernel.memfd import PAGE
from hcall.messages import Areas, Direction

START: Final = 0x4000_0000  # where the first region lies; nothing depends on it


class Buffer:
    """Some guest memory.  *view* is its bytes, *room* and *data* are what calls take; `with` gives it back."""

    __slots__ = ("_ram", "address", "data", "room", "size", "view")

    def __init__(self, ram: Ram, address: int, size: int, view: memoryview) -> None:
        self._ram, self.address, self.size, self.view = ram, address, size, view
        self.room: Areas = ((address, size, Direction.TO_GUEST),)
        self.data: Areas = ((address, size, Direction.TO_DEVICE),)

    def part(self, start: int, size: int) -> Buffer:
        """*size* bytes of it, from *start* on; not to be freed by itself."""
        if start < 0 or not 0 <= size <= self.size - start:
            raise BadArgument(f"a buffer of {self.size} bytes has no part {start}+{size}")
        return Buffer(self._ram, self.address + start, size, self.view[start : start + size])

    def free(self) -> None:
        """Give it back.  Its pages are not used again before every call that has them is answered."""
        self._ram.free(self)

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()


class Region:
    """One memfd, and which of its pages are free."""

    def __init__(self, start: int, size: int) -> None:
        self.start, self.size = start, size
        self.fd = memfd.create(size)
        try:
            self.map = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise
        self.view = memoryview(self.map)
        self.free = [(0, size)]  # (offset, bytes), in order

    def close(self) -> None:
        """Let go of it."""
        self.view.release()
        os.close(self.fd)
        with contextlib.suppress(BufferError):  # somebody still looks at a buffer, which keeps its pages
            self.map.close()
        del self.map

    def take(self, size: int) -> int | None:
        for n, (at, room) in enumerate(self.free):
            if room >= size:
                self.free[n : n + 1] = [(at + size, room - size)] if room > size else []
                return at
        return None

    def give(self, at: int, size: int) -> None:
        spans = sorted([*self.free, (at, size)])
        self.free = spans[:1]
        for start, room in spans[1:]:
            last, before = self.free[-1]
            if last + before == start:
                self.free[-1] = (last, before + room)
            else:
                self.free.append((start, room))


class Ram:
    """All memory of a guest.  Pages cost nothing until they are touched."""

    def __init__(self, size: int, in_use: Callable[[int, int], bool] = lambda address, size: False) -> None:
        """*size* is in bytes, rounded up to whole pages; *in_use*(address, bytes): the host may still touch them."""
        self._in_use = in_use
        self._given_back: list[tuple[int, int]] = []  # (address, bytes), freed while in use
        self.first = Region(START, _pages(size))  # the one that HELLO brings
        self._regions = [self.first]
        self._end = START + self.first.size

    def region(self, size: int) -> Region:
        """Another region, for `add` once the host knows of it."""
        region = Region(self._end, _pages(size))
        self._end += region.size
        return region

    def add(self, region: Region) -> None:
        """Allocate from *region*, too."""
        self._regions.append(region)

    def alloc(self, size: int) -> Buffer:
        """A buffer of *size* bytes, not cleared.  Raises MemoryError: free some, or add memory."""
        if size < 0:
            raise BadArgument(f"a buffer has no {size} bytes")
        if self._given_back:
            self._reclaim()
        for region in self._regions:
            at = region.take(_pages(size))
            if at is not None:
                return Buffer(self, region.start + at, size, region.view[at : at + size])
        raise MemoryError(f"no {size} bytes of guest memory are free in one piece")

    def free(self, buffer: Buffer) -> None:
        """Give *buffer* back; twice is harmless."""
        if buffer.size < 0:
            return
        buffer.view.release()  # raises BufferError, and keeps it, while somebody looks
        self._given_back.append((buffer.address, buffer.size))
        buffer.size = -1
        self._reclaim()

    def _reclaim(self) -> None:
        """Take back what was freed, but for what the host may still touch."""
        kept = []
        for address, size in self._given_back:
            if self._in_use(address, size):
                kept.append((address, size))
                continue
            for region in self._regions:
                if region.start <= address < region.start + region.size:
                    region.give(address - region.start, _pages(size))
        self._given_back = kept

    def close(self) -> None:
        """Let go of all of it; views of buffers that were not freed keep their pages."""
        for region in self._regions:
            region.close()
        self._regions.clear()


def _pages(size: int) -> int:
    return max(1, -(-size // PAGE)) * PAGE
