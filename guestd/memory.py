"""Guest RAM: sealed memfds at guest-physical addresses, and a first-fit allocator of whole pages."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import operator
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from typing import Final

from hcall.errors import BadArgument
from hcall.kernel import memfd
from hcall.kernel.memfd import PAGE
from hcall.messages import Areas, Direction

_TO_GUEST, _TO_DEVICE = int(Direction.TO_GUEST), int(Direction.TO_DEVICE)  # plain: see `GuestSession.call`
START: Final = 0x4000_0000  # where the first region lies; nothing depends on it


class _Span:
    """Some pages of a region that a buffer has, and all its parts."""

    __slots__ = ("_many", "_pages", "_parts", "address", "is_over", "size")

    def __init__(self, address: int, size: int, pages: ctypes.Array[ctypes.c_ubyte]) -> None:
        """*size* is in bytes; *pages* are where they are mapped, and live as long as anybody looks at them."""
        self.address, self.size, self._pages = address, size, weakref.ref(pages)
        self.is_over = False  # it was given back
        self._parts: list[weakref.ref[memoryview]] = []  # the views of them
        self._many = 16

    def add(self, view: memoryview) -> None:
        """*view* ends with the span."""
        parts = self._parts
        if len(parts) == self._many:
            parts[:] = [each for each in parts if each() is not None]
            self._many = 16 + 2 * len(parts)
        parts.append(weakref.ref(view))

    def end(self) -> bool:
        """Give it back, and all its parts with it; whether nobody looks at it any more.  Else ask again."""
        self.is_over = True
        for each in self._parts:
            _release(each())
        return self._pages() is None


class Buffer:
    """Some guest memory.  *view* is its bytes, *room* and *data* are what calls take; `with` gives it back."""

    __slots__ = ("_ram", "_span", "address", "size", "view")

    def __init__(self, ram: Ram, span: _Span, address: int, size: int, view: memoryview) -> None:
        span.add(view)
        self._ram, self._span, self.address, self.size, self.view = ram, span, address, size, view

    @property
    def room(self) -> Areas:
        """To be filled by a call.  Raises BadArgument once it was given back."""
        if self._span.is_over:
            raise _gone()
        return ((self.address, self.size, _TO_GUEST),)

    @property
    def data(self) -> Areas:
        """To be read by a call.  Raises BadArgument once it was given back."""
        if self._span.is_over:
            raise _gone()
        return ((self.address, self.size, _TO_DEVICE),)

    def part(self, start: int, size: int) -> Buffer:
        """*size* bytes of it, from *start* on, which end with it; to give them back by themselves frees nothing."""
        if self._span.is_over:
            raise _gone()
        if start < 0 or not 0 <= size <= self.size - start:
            raise BadArgument(f"a buffer of {self.size} bytes has no part {start}+{size}")
        return _Part(self._ram, self._span, self.address + start, size, self.view[start : start + size])

    def free(self) -> None:
        """Give it back, parts and all; twice is harmless.

        Its pages are used again when every call that has them is answered, and nobody has a view of them any more.
        """
        if not self._span.is_over:
            self._ram.free(self._span)

    def __enter__(self) -> Buffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()


class _Part(Buffer):
    __slots__ = ()

    def free(self) -> None:
        self._span = _OVER
        _release(self.view)


def _release(view: memoryview | None) -> None:
    if view is not None:
        with contextlib.suppress(BufferError):  # somebody has a view of it: see `_Span.end`
            view.release()


def _gone() -> BadArgument:
    return BadArgument("this buffer was given back")


class Region:
    """One memfd, and which of its pages are free."""

    def __init__(self, start: int, size: int, filled: bool) -> None:
        """*filled*: it has all its pages from the start."""
        self.start, self.size, self.sparse = start, size, 0 if filled else size
        self.fd = memfd.create(size, filled)
        try:
            self.map = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise
        self.free = [(0, size)]  # (offset, bytes), in order

    def close(self) -> None:
        """Let go of it."""
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

    def mapped(self, at: int, size: int) -> ctypes.Array[ctypes.c_ubyte]:
        """*size* bytes from *at* on, an object of their own: it lives as long as any view of it."""
        return (ctypes.c_ubyte * size).from_buffer(self.map, at)  # whole pages: each size makes a type that stays

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
    """All memory of a guest.  Pages cost nothing until they are touched, but for what is beyond `memfd.SPARSE`."""

    def __init__(self, size: int, in_use: Callable[[int, int], bool] = lambda address, size: False) -> None:
        """*size* is in bytes, rounded up to whole pages; *in_use*(address, bytes): the host may still touch them."""
        self.users = [in_use]  # of the same form: whoever keeps calls asks for more
        self._given_back: list[_Span] = []  # freed while in use
        self._regions: list[Region] = []
        self.first = self._region(START, size)  # the one that HELLO brings
        self._regions.append(self.first)
        self._end = START + self.first.size
        self._why_closed: Exception | None = None

    def region(self, size: int) -> Region:
        """Another region, for `add` once the host knows of it."""
        if size == 0:
            raise BadArgument("memory has more than no bytes")
        region = self._region(self._end, size)
        self._end += region.size
        return region

    def _region(self, start: int, size: int) -> Region:
        size = _pages(size)
        return Region(start, size, filled=size + sum(each.sparse for each in self._regions) > memfd.SPARSE)

    @property
    def added(self) -> Sequence[Region]:
        """What was lent after HELLO."""
        return self._regions[1:]

    def add(self, region: Region) -> None:
        """Allocate from *region*, too."""
        self._regions.append(region)

    def drop(self, region: Region) -> None:
        """Allocate from *region* no more, if it was added."""
        if region in self._regions:
            self._regions.remove(region)

    def alloc(self, size: int) -> Buffer:
        """A buffer of *size* bytes, not cleared.  Raises MemoryError: free some, or add memory; why it was closed."""
        if self._given_back:
            self._reclaim()
        buffer = self._alloc(size)
        if buffer is None and self._given_back:
            gc.collect()  # a view that is only part of a circle holds up what it looks at
            self._reclaim()
            buffer = self._alloc(size)
        if buffer is None:
            if self._why_closed is not None:
                raise self._why_closed
            raise MemoryError(f"no {size} bytes of guest memory are free in one piece")
        return buffer

    def _alloc(self, size: int) -> Buffer | None:
        room = _pages(size)
        for region in self._regions:
            at = region.take(room)
            if at is not None:
                pages = region.mapped(at, room)
                view = memoryview(pages).cast("B")[:size]
                return Buffer(self, _Span(region.start + at, room, pages), region.start + at, size, view)
        return None

    def free(self, span: _Span) -> None:
        """Take *span* back, as soon as nobody has it any more."""
        self._given_back.append(span)
        self._reclaim()

    def _reclaim(self) -> None:
        """Take back what was freed, but for what the host may still touch, or somebody looks at."""
        kept = []
        for span in self._given_back:
            if not span.end() or any(uses(span.address, span.size) for uses in self.users):
                kept.append(span)
                continue
            for region in self._regions:
                if region.start <= span.address < region.start + region.size:
                    region.give(span.address - region.start, span.size)
        self._given_back = kept

    def close(self, why: Exception | None = None) -> None:
        """Let go of all of it, and tell *why*; views of buffers that were not freed keep their pages."""
        self._why_closed = why
        for region in self._regions:
            region.close()
        self._regions.clear()


_OVER: Final = _Span(0, 0, (ctypes.c_ubyte * 0)())
_OVER.end()


def _pages(size: int) -> int:
    """*size* bytes in whole pages.  Raises TypeError, before anything is taken; BadArgument below 0."""
    if not 0 <= operator.index(size) <= sys.maxsize:
        raise BadArgument(f"memory has no {size} bytes")
    return max(1, -(-size // PAGE)) * PAGE
