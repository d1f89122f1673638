"""A disk in a real file, or on a real block device.

The image is never mapped: a hole in a mapped file on a full filesystem kills the process.  What the page cache has is
read at once, straight into guest memory; whatever may wait for the disk goes to a worker thread.
"""

import ctypes
import errno
import fcntl
import os
import re
import stat
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

from hcall.errors import BadArgument, IoError, ReadOnly
from hostd.backings.parts.filesystem import LOCAL, TMPFS, filesystem
from hostd.backings.parts.pieces import MOST, part
from hostd.device import Config, Data, Device, Feature, Irq, Later, Property, Room, Saved, State, Steps, call

_SECTOR = 512
_READ_NOW = 1 << 20  # bytes: copied in 85 us; more would hold up the other guests
_WRITE_NOW = 64 * 1024  # bytes: to write more may wait for the disk
_ZEROES = bytes(1 << 20)
_FALLOCATED = 1 << 30
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16  # linux/falloc.h
_MAX_SIZE = 1 << 62
_SIZE = re.compile(r"(\d+)([KMGT]?)")
_OPEN = os.O_CLOEXEC | os.O_NONBLOCK  # a pipe, which is refused, would wait for its other end
_libc = ctypes.CDLL(None, use_errno=True)


class Size(int):
    """A number of bytes."""

    @classmethod
    def parse(cls, text: str, folder: Path) -> "Size":
        """Such as 4096, 64K or 16M.  Raises ValueError."""
        match = _SIZE.fullmatch(text)
        size = int(match[1]) << 10 * " KMGT".index(match[2] or " ") if match else -1
        if size < 0 or size % _SECTOR or size > _MAX_SIZE:
            raise ValueError(f"{text!r} is no size: a multiple of {_SECTOR}, such as 4096, 64K, 16M or 1G")
        return cls(size)


class Block(Device):
    """Reads and writes take any byte range within the capacity; each is done whole, or fails."""

    compatible, ids = "hostd,block", (0x1AF4, 0x1042)
    class_code = 0x018000  # mass storage
    path = Config(Path, help="the image, or a block device")
    read_only = Config(bool, False)
    create = Config(Size, "0", help="size, such as 64M, of an empty image if there is none")
    capacity = Property(int)  # bytes
    sector_size = Property(int)
    RO, FLUSH, DISCARD, WRITE_ZEROES = Feature(5), Feature(9), Feature(13), Feature(14)  # virtio 1.2, 5.2.3
    resized = Irq()
    _failed = State(bool, kept=True)  # a flush
    _fd, _local = -1, True

    def start(self) -> None:
        if self.create and not self.path.exists():
            self._make()
        try:
            self._fd = os.open(self.path, (os.O_RDONLY if self.read_only else os.O_RDWR) | _OPEN)
        except FileNotFoundError as error:
            raise OSError(error.errno, f'{error.strerror}; create = "64M" would make it', str(self.path)) from None
        mode = os.fstat(self._fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise OSError(errno.EINVAL, "neither a file nor a block device", str(self.path))
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if self.read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(errno.EBUSY, "in use by another device or process", str(self.path)) from None
        self.sector_size = _SECTOR
        self.capacity = self._size()
        self._read_flags: int | None = os.RWF_NOWAIT  # of what is done at once; None: nothing is
        self._write_flags: int | None = os.RWF_NOWAIT
        self._local = filesystem(self._fd) in LOCAL
        self._looking = False
        self._flushing = threading.Lock()
        writing = self.FLUSH.mask | self.DISCARD.mask | self.WRITE_ZEROES.mask
        self.offered &= ~(writing if self.read_only else self.RO.mask)

    def _make(self) -> None:
        with self.path.open("xb") as image:
            try:
                image.truncate(self.create)
            except OSError as error:  # too much for the filesystem
                self.path.unlink()
                raise OSError(error.errno, error.strerror, str(self.path)) from None

    def stop(self) -> None:
        if self._fd >= 0:
            (os.close if self._local else partial(self.offload, os.close))(self._fd)
            self._fd = -1

    def save(self) -> Saved:
        return {**super().save(), "capacity": self.capacity}

    def load(self, saved: Saved) -> None:
        super().load(saved)
        self.capacity = saved["capacity"]  # as the guest knows it: what has changed meanwhile, `tick` tells

    def tick(self) -> None:
        """Whoever owns the image may make it longer or shorter."""
        if self._local:
            self._sized(self._size())
        elif not self._looking:
            self._looking = True
            self.offload(self._size).then(self._sized)

    def _sized(self, size: object) -> None:
        self._looking = False
        if isinstance(size, int) and size != self.capacity:
            self.capacity = size
            self.resized()

    @call(again=True)
    def read(self, into: Room, at: int) -> int | Later[int]:
        length = into.nbytes
        if not 0 <= at <= self.capacity - length:
            raise self._outside(at, length)
        while length <= _READ_NOW and len(into) <= MOST and self._read_flags is not None:
            try:
                if os.preadv(self._fd, into, at, self._read_flags) == length:
                    return length
            except BlockingIOError:
                pass  # not in the page cache
            except OSError as error:
                self._read_flags = self._other_flags(error)
                continue
            break
        return self.offload(_whole, os.preadv, self._fd, into, at)

    def write(self, data: Data, at: int) -> int | Later[int]:
        self._check_write(at, data.nbytes)
        length = data.nbytes
        while length <= _WRITE_NOW and len(data) <= MOST and self._write_flags is not None:
            try:
                if os.pwritev(self._fd, data, at, self._write_flags) == length:
                    return length
            except BlockingIOError:
                pass
            except OSError as error:
                self._write_flags = self._other_flags(error)
                continue
            break
        return self.offload(_whole, os.pwritev, self._fd, data, at)

    def _other_flags(self, error: OSError) -> int | None:
        """RWF_NOWAIT is not for such a file.  Raises *error* if it is another one."""
        if error.errno != errno.EOPNOTSUPP:
            raise error
        return 0 if filesystem(self._fd) == TMPFS else None  # such as NFS: who knows how long it takes

    def sync(self) -> Later[None]:
        return self.offload(self._sync)

    @call(needs=DISCARD)
    def discard(self, at: int, length: int) -> Later[None]:
        """Give the range back to the filesystem: it reads as zeroes, or as before where that cannot be done."""
        self._check_write(at, length)
        return self.offload(self._punch, at, length)

    @call(needs=WRITE_ZEROES)
    def write_zeroes(self, at: int, length: int) -> Later[None]:
        """Make the range zeroes, which may be a hole."""
        self._check_write(at, length)
        return self.offload(self._zero, at, length, _ZERO_RANGE, _PUNCH_HOLE)  # tmpfs has no other way than a hole

    @call(needs=WRITE_ZEROES)
    def allocate_zeroes(self, at: int, length: int) -> Later[None]:
        """Make the range zeroes, which take their place: to write there later takes no more of it."""
        self._check_write(at, length)
        return self.offload(self._zero, at, length, _ZERO_RANGE)

    def _size(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_END) // _SECTOR * _SECTOR

    def _outside(self, at: int, length: int) -> BadArgument:
        return BadArgument(f"{at}+{length} is outside the disk of {self.capacity} bytes")

    def _check_write(self, at: int, length: int) -> None:
        if self.read_only:
            raise ReadOnly("this disk is read-only")
        if length < 0 or not 0 <= at <= self.capacity - length:
            raise self._outside(at, length)
        if self._failed:
            raise IoError("a flush of this disk failed: what was written before may be lost")

    # The rest may run in a worker thread.

    def _sync(self) -> None:
        with self._flushing:  # the kernel tells a failure once: of two flushes at a time, one would hear nothing
            if self._failed:
                raise IoError("a flush of this disk failed before")
            try:
                os.fdatasync(self._fd)
            except OSError:
                self._failed = True  # the kernel has dropped the pages: a second flush would lie
                raise

    def _punch(self, at: int, length: int) -> Steps[None]:
        for start in range(at, at + length, _FALLOCATED):
            self._fallocate(_PUNCH_HOLE | _KEEP_SIZE, start, min(_FALLOCATED, at + length - start))
            yield

    def _zero(self, at: int, length: int, *modes: int) -> Steps[None]:
        end = at + length
        while at < end:
            size = min(_FALLOCATED, end - at)
            if any(self._fallocate(mode | _KEEP_SIZE, at, size) for mode in modes):
                at += size
            else:
                modes = ()
                at += os.pwrite(self._fd, _ZEROES[: end - at], at)
            yield

    def _fallocate(self, mode: int, at: int, length: int) -> bool:
        """Whether the filesystem can do it."""
        if not length:
            return True
        if _libc.fallocate(self._fd, mode, ctypes.c_int64(at), ctypes.c_int64(length)) == 0:
            return True
        number = ctypes.get_errno()
        if number not in (errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL):
            raise OSError(number, os.strerror(number))
        return False


_Transfer: TypeAlias = Callable[[int, Sequence[memoryview], int], int]


def _whole(transfer: _Transfer, fd: int, pieces: Sequence[memoryview], at: int) -> Steps[int]:
    """Part by part, until all is done.  Raises IoError where the image ends."""
    total = sum(map(len, pieces))
    done = 0
    while done < total:
        with part(pieces, done) as some:
            moved = transfer(fd, some, at + done)
        if not moved:
            raise IoError(f"the image ends at {at + done}")
        done += moved
        yield
    return total
