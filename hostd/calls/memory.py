"""Guest-physical memory, and the scatter lists that calls see of it.  The only bounds check there is."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import mmap
import operator
import os
from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias, cast

from hcall.errors import BadArea, BadArgument, Busy, HcallError, Reset
from hcall.kernel import memfd
from hcall.kernel.memfd import PAGE
from hcall.messages import Areas, Direction
from hcall.wire import MAX_INLINE

from ..model.areas import Data, InlineRoom, Room, Scattered
from .limits import Limits
from .shares import DESCRIPTORS, LENT, UNFILLED, Purse

TO_DEVICE: Final = int(Direction.TO_DEVICE)  # as they come from the wire: plain numbers, which are compared faster
TO_GUEST: Final = int(Direction.TO_GUEST)
_PIECES: Final = os.sysconf("SC_IOV_MAX")  # of one call: what preadv(2) takes
_BLOCK: Final = 512  # bytes; of stat(2)
_SLICE: Final = 16 << 20  # bytes of memory that are freed at once: about a millisecond
#: (address, size, offset, device, inode) of a region.
Identity: TypeAlias = tuple[int, int, int, int, int]


class Mapping(mmap.mmap):
    """The bytes of a region: `obj` of each piece of it."""

    __slots__ = ("identity",)
    identity: Identity


class Region:
    """A sealed memfd, or a part of one, mapped at a guest-physical address."""

    __slots__ = ("_fd", "_map", "_views", "end", "identity", "missing", "start")

    def __init__(self, start: int, size: int, fd: int, offset: int | None = None) -> None:
        """Map *fd*, all of it, or *size* bytes from *offset* on; it is this one's then.

        Raises BadArea for anything but a memfd that cannot shrink.  It may wait: seals and maps for whoever is at the
        file; a descriptor that is no memfd is not asked for anything.
        """
        at = offset or 0
        if (start | size | at) % PAGE or not 0 < size <= (1 << 64) - start or start < 0:
            raise BadArea(f"a region starts and ends at a page boundary, within 64 bits: {start:#x}+{size:#x}")
        try:
            fcntl.fcntl(fd, memfd.F_GET_SEALS)  # first: a file of somebody else's may never answer the rest
            info = os.fstat(fd)
            fits = info.st_size == size if offset is None else 0 <= at <= info.st_size - size
            if not fits or info.st_blksize != PAGE:
                raise OSError  # another size, huge pages
            memfd.seal(fd)
            self._map = Mapping(fd, size, offset=at)
        except (OSError, ValueError):
            which = f"of {size} bytes" if offset is None else f"that has {size} bytes at {offset:#x}"
            raise BadArea(f"the region at {start:#x} must be a writable memfd {which}, sealed "
                          "against shrinking") from None  # fmt: skip
        self.start, self.end = start, start + size
        self.identity = self._map.identity = (start, size, at, info.st_dev, info.st_ino)
        self._views: tuple[memoryview, ...] = ()
        self._fd = fd
        self.missing = 0  # bytes of the whole file, the most of all times that it was looked at
        self.look()
        if self.missing >= size:  # all of them may be: there is nothing to look for
            os.close(fd)
            self._fd = -1

    @property
    def views(self) -> tuple[memoryview, ...]:
        """All of it, by Direction: made when they are used first, as they take 0.5 KiB."""
        if not self._views:
            view = memoryview(self._map)
            self._views = view.toreadonly(), view
        return self._views

    @property
    def is_watched(self) -> bool:
        """Whether pages are there that the guest may take away again."""
        return self._fd >= 0

    def look(self) -> None:
        """How many bytes have no page, or had none: if they have one now, it may be the host who pays for it.

        Nobody waits for that, but it is the thread's that unmaps.
        """
        if self._fd >= 0:
            info = os.fstat(self._fd)
            self.missing = max(self.missing, info.st_size - info.st_blocks * _BLOCK)

    def unmap(self) -> bool:
        """Free it, which takes long if it is large; False if a call under way looks at it still: try again.

        In slices: for most of the time that a mapping takes to go nobody else in the process can map anything.
        """
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        for view in self._views:
            with contextlib.suppress(BufferError):
                view.release()
        size = self.end - self.start
        for at in range(0, size, _SLICE):
            self._map.madvise(mmap.MADV_DONTNEED, at, min(_SLICE, size - at))
            os.sched_yield()  # and let other threads of Python go on
        try:
            self._map.close()
        except BufferError:
            return False
        return True


def lend(start: int, size: int, fd: int, offset: int | None = None) -> Lent:
    """The region that *fd* is, whose it is then, or what is wrong with it: for `Memory.add`.  In a thread."""
    try:
        return Region(start, size, fd, offset)
    except BadArea as error:
        return error


#: A region, or why there is none.
Lent: TypeAlias = Region | BadArea
#: Takes one; BadArgument: there is no descriptor.
Lending: TypeAlias = Callable[[Lent | BadArgument], None]


class ReadyAreas(NamedTuple):
    """Areas of one call that were checked when a lane took them; it gives what the call takes, as `Memory` does."""

    into: Scattered | None
    out: Scattered | None

    def room(self, areas: object) -> Room:
        """The one Room that they are.  Raises BadArea."""
        if self.into is None or self.out is not None:
            raise BadArea("this call takes room, and nothing else")
        return cast(Room, self.into)

    def data(self, areas: object) -> Data:
        """The one Data that they are.  Raises BadArea."""
        if self.out is None or self.into is not None:
            raise BadArea("this call takes data, and nothing else")
        return cast(Data, self.out)

    def both(self, areas: object) -> tuple[Room, Data]:
        """The Room and the Data that they are.  Raises BadArea."""
        if self.into is None or self.out is None:
            raise BadArea("this call takes room and data")
        return cast(Room, self.into), cast(Data, self.out)

    def kept(self) -> ReadyAreas:
        """The same for any number of calls, for a lane that keeps it: good as long as `Memory.version` is what it was.

        No call releases it: a model that keeps a piece of it is not told.
        """
        return ReadyAreas(*(each and each.kept() for each in self))


def _at_once(region: Region, then: Callable[[], None]) -> None:
    region.unmap()
    then()


class Memory:
    """The regions of one guest."""

    __slots__ = ("_free", "_leaving", "_limits", "_purse", "_then", "_unfilled", "regions", "version")

    def __init__(
        self, limits: Limits, purse: Purse, free: Callable[[Region, Callable[[], None]], None] = _at_once
    ) -> None:  # fmt: skip
        """*purse* pays for what is taken; *free* unmaps a region, and says when it did."""
        self.regions: list[Region] = []
        self.version = 0  # another one each time that a region came or went: areas that a lane keeps are of one
        self._limits, self._purse, self._free = limits, purse, free
        self._leaving = 0  # bytes that are not unmapped yet
        self._unfilled = 0  # bytes that are paid for
        self._then: Callable[[], None] | None = None  # it is closed

    def add(self, start: int, size: int, lent: Lent) -> None:
        """Take *lent*, which would be *size* bytes at *start*, or free it.  Raises what it is, BadArea, or Busy."""
        try:
            if self._then is not None:
                raise Reset("the guest is gone")
            if len(self.regions) == self._limits.regions:
                raise Busy(f"a guest has at most {self._limits.regions} memory regions")
            if size + sum(region.end - region.start for region in self.regions) > self._limits.memory:
                raise Busy(f"a guest has at most {self._limits.memory} bytes of memory")
            if any(region.start < start + size and start < region.end for region in self.regions):
                raise BadArea(f"a region at {start:#x} overlaps one that is there")
            if isinstance(lent, BadArea):
                raise lent
            self._pay(lent, size)
        except HcallError:
            self.refuse(lent)
            raise
        self.regions.append(lent)
        self.version += 1

    def _pay(self, region: Region, size: int) -> None:
        """Raises Busy."""
        self._purse.take(LENT, size)
        try:
            self._purse.take(DESCRIPTORS, 1 + region.is_watched)
            try:
                self._fill([*self.regions, region])
            except Busy:
                self._purse.give(DESCRIPTORS, 1 + region.is_watched)
                raise
        except Busy:
            self._purse.give(LENT, size)
            raise

    def look(self) -> None:
        """Pages went, perhaps, since the regions were looked at last.  Raises Busy if too many did."""
        self._fill(self.regions)

    def _fill(self, regions: list[Region]) -> None:
        """Pay for the pages that *regions* do not have: whoever touches one first, pays the system.  Raises Busy."""
        files: dict[tuple[int, int], int] = {}
        missing = 0
        for region in regions:  # parts of one file may miss the same pages
            file, size = region.identity[3:], region.end - region.start
            before = files.get(file, 0)
            files[file] = max(before, min(before + size, region.missing))
            missing += files[file] - before
        if missing > self._limits.sparse:
            raise Busy(f"{missing} bytes of this guest's memory have no pages, {self._limits.sparse} may have none: "
                       "allocate them, as by posix_fallocate")  # fmt: skip
        if missing > self._unfilled:
            self._purse.take(UNFILLED, missing - self._unfilled)
        elif missing < self._unfilled:
            self._purse.give(UNFILLED, self._unfilled - missing)
        self._unfilled = missing

    def refuse(self, lent: Lent) -> None:
        """It is not taken."""
        if isinstance(lent, Region):
            self._free(lent, lambda: None)

    def remove(self, start: int) -> None:
        """Take the region at *start* away; calls under way keep what they have.  Raises BadArea."""
        for region in self.regions:
            if region.start == start:
                self._let_go(region)
                return
        raise BadArea(f"no region starts at {start:#x}")

    def close(self, then: Callable[[], None] = lambda: None) -> None:
        """The guest is gone: free all of it; *then* follows, and until then it is to be paid for."""
        self._then = then
        for region in list(self.regions):
            self._let_go(region)
        if not self._leaving:
            then()

    def _let_go(self, region: Region) -> None:
        size, descriptors = region.end - region.start, 1 + region.is_watched
        self.regions.remove(region)
        self.version += 1
        self._leaving += size

        def gone() -> None:
            self._leaving -= size
            if self._then is not None:
                if not self._leaving:
                    self._then()
            else:
                self._purse.give(LENT, size)
                self._purse.give(DESCRIPTORS, descriptors)
                with contextlib.suppress(Busy):  # more are missing elsewhere: `look` tells
                    self._fill(self.regions)

        self._free(region, gone)

    @property
    def watched(self) -> list[Region]:
        """Those whose pages the guest may take away."""
        return [region for region in self.regions if region.is_watched]

    @property
    def identity(self) -> tuple[Identity, ...]:
        """What a guest must bring, in any order, to be taken for this one."""
        return tuple(region.identity for region in self.regions)

    def room(self, areas: Areas) -> Room:
        """The one Room that *areas* are.  Raises BadArea."""
        if len(areas) == 1:
            room = areas[0]
            if type(room) is int:
                if 0 <= room <= MAX_INLINE:
                    return InlineRoom(room)
                raise BadArea(f"a reply has room for {MAX_INLINE} bytes, not {room}")
        return cast(Room, self._scattered(areas, TO_GUEST))

    def data(self, areas: Areas) -> Data:
        """The one Data that *areas* are.  Raises BadArea."""
        return cast(Data, self._scattered(areas, TO_DEVICE))

    def both(self, areas: Areas) -> tuple[Room, Data]:
        """The Room and the Data that *areas* are, each in its order.  Raises BadArea."""
        into, rest = _by_direction(areas)
        return self.room(into), self.data(rest)

    def ready(self, areas: Areas) -> ReadyAreas:
        """*areas*, of guest memory, for a lane that looks at them once.  Raises BadArea."""
        into, rest = _by_direction(areas)
        return ReadyAreas(
            self._scattered(into, TO_GUEST) if into else None, self._scattered(rest, TO_DEVICE) if rest else None
        )

    def _scattered(self, areas: Areas, direction: int) -> Scattered:
        scattered = Scattered()
        total = 0
        for area in areas:
            if type(area) is tuple and len(area) == 3:
                address, length, way = area
                if not int is type(address) is type(length) is type(way) or way != direction:
                    raise BadArea(f"an area of this call is (address, length, {direction})")
                for region in self.regions:
                    if region.start <= address and 0 <= length <= region.end - address:
                        at = address - region.start
                        scattered.append((region._views or region.views)[way][at : at + length])
                        total += length
                        break
                else:
                    scattered += self._split(address, length, way)
                    total += length
                    if len(scattered) > _PIECES:
                        raise BadArea(f"a call takes guest memory of {_PIECES} regions at most, not {len(scattered)}")
            elif type(area) is bytes and direction == TO_DEVICE:
                scattered.append(memoryview(area))
                total += len(area)
            else:
                raise BadArea("an area that this call cannot use")
        scattered.nbytes = total
        return scattered

    def _split(self, address: int, length: int, direction: int) -> list[memoryview]:
        """The pieces of an area that no region has alone, each of the one that goes on where the last one ended."""
        pieces: list[memoryview] = []
        at, end = address, address + length
        while at < end or not pieces:
            region = next((region for region in self.regions if region.start <= at < region.end), None)
            if region is None or length <= 0:
                raise BadArea(f"no guest memory at {address:#x}+{length:#x}")
            pieces.append(region.views[direction][at - region.start : end - region.start])
            at = region.end
        return pieces


def _by_direction(areas: Areas) -> tuple[Areas, Areas]:
    """Those that the device fills, and the others."""
    into = [type(area) is tuple and area[2:] == (TO_GUEST,) for area in areas]
    return tuple(itertools.compress(areas, into)), tuple(itertools.compress(areas, map(operator.not_, into)))
