"""What becomes guest memory: a memfd that nobody can shrink any more, of the size and at the place announced."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guest_files import Files, add
from raw import memory_of

from hcall.errors import BadArea, Busy
from hcall.kernel.memfd import F_GET_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, PAGE, SEALS
from hostd.calls.limits import Limits
from hostd.calls.memory import Memory
from hostd.calls.shares import DESCRIPTORS, LENT, UNFILLED, Purse, Shares

F_SEAL_WRITE, F_SEAL_FUTURE_WRITE = 8, 16  # linux/fcntl.h
HUGE = 2 << 20


@pytest.fixture
def files() -> Iterator[Files]:
    files = Files()
    yield files
    for fd in files.open:
        os.close(fd)


@pytest.fixture
def memory() -> Iterator[Memory]:
    """Room for three regions, of eight pages together."""
    memory = memory_of(regions=3, memory=8 * PAGE)
    yield memory
    memory.close()


@pytest.mark.parametrize("seals", [0, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SHRINK | F_SEAL_SEAL, SEALS])
def test_a_memfd_is_mapped_and_can_be_truncated_no_more(files: Files, memory: Memory, seals: int) -> None:
    fd = files.memfd(PAGE, seals=seals)
    add(memory, 0, PAGE, fd)
    assert fcntl.fcntl(fd, F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_SEAL) == F_SEAL_SHRINK | F_SEAL_SEAL
    if not seals & F_SEAL_SEAL:
        assert fcntl.fcntl(fd, F_GET_SEALS) == SEALS
    with pytest.raises(PermissionError):
        os.truncate(fd, 0)
    room = memory.room(((PAGE - 4, 4, 1),))
    assert room.put(b"last") == 4 and os.pread(fd, 4, PAGE - 4) == b"last"


def test_the_descriptor_stays_the_callers(memory: Memory) -> None:
    fd = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, PAGE)
    os.pwrite(fd, b"bytes", 0)
    add(memory, 0, PAGE, fd)
    os.close(fd)
    assert memory.data(((0, 5, 0),)).get() == b"bytes"


def pipe(files: Files, tmp_path: Path) -> int:
    ends = os.pipe()
    files.open += ends
    return ends[0]


def plain_file(files: Files, tmp_path: Path) -> int:
    fd = files.keep(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT))
    os.truncate(fd, PAGE)
    return fd


def tmpfs_file(files: Files, tmp_path: Path) -> int:
    with tempfile.TemporaryFile(dir="/dev/shm") as file:
        fd = files.keep(os.dup(file.fileno()))
    os.truncate(fd, PAGE)
    return fd


def huge_pages(files: Files, tmp_path: Path) -> int:
    try:
        return files.memfd(HUGE, flags=os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
    except OSError as error:
        pytest.skip(f"this kernel has no huge pages: {errno.errorcode[error.errno or 0]}")


def read_only(seals: int) -> Callable[[Files, Path], int]:
    def make(files: Files, tmp_path: Path) -> int:
        return files.keep(os.open(f"/proc/self/fd/{files.memfd(PAGE, seals=seals)}", os.O_RDONLY | os.O_CLOEXEC))

    return make


def sealed(seals: int, flags: int = os.MFD_ALLOW_SEALING) -> Callable[[Files, Path], int]:
    return lambda files, tmp_path: files.memfd(PAGE, seals=seals, flags=flags)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (pipe, PAGE),
        (plain_file, PAGE),
        (tmpfs_file, PAGE),
        (lambda files, tmp_path: files.keep(os.open("/dev/zero", os.O_RDWR)), PAGE),
        (lambda files, tmp_path: files.keep(os.open(tmp_path, os.O_RDONLY)), PAGE),
        (huge_pages, HUGE),
        (read_only(0), PAGE),
        (read_only(SEALS), PAGE),
        (sealed(F_SEAL_WRITE), PAGE),
        (sealed(F_SEAL_FUTURE_WRITE), PAGE),
        (sealed(SEALS | F_SEAL_WRITE), PAGE),
        (sealed(F_SEAL_SEAL), PAGE),  # it can be shrunk, and that can no longer be forbidden
        (sealed(F_SEAL_SEAL | F_SEAL_GROW), PAGE),
        (sealed(0, flags=0), PAGE),
        (sealed(0), 2 * PAGE),
        (lambda files, tmp_path: files.memfd(2 * PAGE), PAGE),
        (lambda files, tmp_path: files.memfd(0), PAGE),
        (lambda files, tmp_path: files.memfd(PAGE + 1), PAGE),
    ],
    ids=["pipe", "file", "tmpfs", "device", "directory", "huge pages", "read-only", "sealed read-only", "write seal",
         "future write seal", "all seals", "no shrink seal", "only grow seal", "not sealable", "too small", "too large",
         "empty", "one byte more"],
)  # fmt: skip
def test_what_could_fail_under_the_mapping_is_refused(
    make: Callable[[Files, Path], int], size: int, files: Files, memory: Memory, tmp_path: Path
) -> None:
    large = memory_of()
    with pytest.raises(BadArea):
        add(large, 0, size, make(files, tmp_path))
    assert not large.regions and not large.identity


@pytest.mark.parametrize(
    ("start", "size", "error"),
    [
        (1, PAGE, BadArea), (PAGE - 1, PAGE, BadArea), (PAGE // 2, PAGE, BadArea), (-PAGE, PAGE, BadArea),
        (0, PAGE + 1, BadArea), (0, PAGE // 2, BadArea), (0, 0, BadArea), (0, -PAGE, BadArea),
        ((1 << 64) - PAGE, 2 * PAGE, BadArea), (1 << 64, PAGE, BadArea), (0, 1 << 64, Busy),
        (8 * PAGE, 2 * PAGE, BadArea), (8 * PAGE, PAGE, BadArea), (9 * PAGE, PAGE, BadArea),  # it is there
        (7 * PAGE, 2 * PAGE, BadArea), (9 * PAGE, 2 * PAGE, BadArea), (7 * PAGE, 4 * PAGE, BadArea),
        (20 * PAGE, 7 * PAGE, Busy),
    ],
)  # fmt: skip
def test_a_region_of_no_place_is_refused_and_nothing_is_changed(
    start: int, size: int, error: type[Exception], files: Files, memory: Memory
) -> None:
    add(memory, 8 * PAGE, 2 * PAGE, files.memfd(2 * PAGE))
    regions, identity = list(memory.regions), memory.identity
    fd = files.memfd(size if 0 < size < 1 << 40 else PAGE)
    with pytest.raises(error):
        add(memory, start, size, fd)
    assert memory.regions == regions and memory.identity == identity


@pytest.mark.parametrize("start", [6 * PAGE, 10 * PAGE, 0, (1 << 64) - 2 * PAGE])
def test_a_region_beside_another_or_at_an_end_is_taken(start: int, files: Files, memory: Memory) -> None:
    add(memory, 8 * PAGE, 2 * PAGE, files.memfd(2 * PAGE))
    add(memory, start, 2 * PAGE, files.memfd(2 * PAGE))
    assert memory.data(((start + 2 * PAGE - 1, 1, 0),)).nbytes == 1


def test_the_limits_of_count_and_size_are_exact_and_give_back_what_is_removed(files: Files, memory: Memory) -> None:
    fds = [files.memfd(2 * PAGE) for _ in range(4)]
    for n in range(3):
        add(memory, n * 2 * PAGE, 2 * PAGE, fds[n])
    with pytest.raises(Busy, match="3 memory regions"):
        add(memory, 6 * PAGE, 2 * PAGE, fds[3])
    memory.remove(2 * PAGE)
    with pytest.raises(Busy, match="bytes of memory"):
        add(memory, 6 * PAGE, 5 * PAGE, files.memfd(5 * PAGE))
    add(memory, 6 * PAGE, 4 * PAGE, files.memfd(4 * PAGE))
    assert [region.start for region in memory.regions] == [0, 4 * PAGE, 6 * PAGE]


def test_a_guest_is_known_by_place_size_and_file_of_its_memory(files: Files, memory: Memory) -> None:
    one, other = files.memfd(PAGE), files.memfd(2 * PAGE)
    add(memory, 0, PAGE, one)
    add(memory, 4 * PAGE, 2 * PAGE, other)
    stats = os.fstat(one), os.fstat(other)
    assert {*memory.identity} == {
        (0, PAGE, 0, stats[0].st_dev, stats[0].st_ino),
        (4 * PAGE, 2 * PAGE, 0, stats[1].st_dev, stats[1].st_ino),
    }


# Parts of a memfd.


@pytest.mark.spec("M-7")
def test_parts_of_one_memfd_lie_where_the_guest_wants_them(files: Files, memory: Memory) -> None:
    fd = files.memfd(6 * PAGE)
    for page in range(6):
        os.pwrite(fd, bytes([page]) * PAGE, page * PAGE)
    add(memory, 8 * PAGE, 2 * PAGE, fd, 3 * PAGE)
    add(memory, 4 * PAGE, PAGE, fd, 5 * PAGE)
    add(memory, 0, PAGE, fd, 0)
    for address, page in ((8, 3), (9, 4), (4, 5), (0, 0)):
        assert memory.data(((address * PAGE, PAGE, 0),)).get() == bytes([page]) * PAGE
    assert memory.room(((10 * PAGE - 2, 2, 1),)).put(b"ab") == 2 and os.pread(fd, 3, 5 * PAGE - 2) == b"ab\5"
    with pytest.raises(BadArea):
        memory.data(((9 * PAGE, PAGE + 1, 0),))
    with pytest.raises(PermissionError):
        os.truncate(fd, 5 * PAGE)


@pytest.mark.parametrize(
    ("size", "offset"),
    [(PAGE, 1), (PAGE, PAGE // 2), (PAGE, -PAGE), (PAGE, 3 * PAGE), (2 * PAGE, 2 * PAGE), (4 * PAGE, 0), (0, PAGE),
     (PAGE, 1 << 62), (PAGE, 1 << 63), (PAGE, 1 << 64), (PAGE, -(1 << 64)), (PAGE, (1 << 64) - PAGE)],
)  # fmt: skip
@pytest.mark.spec("M-7")
def test_a_part_that_is_not_within_its_memfd_is_refused(size: int, offset: int, files: Files, memory: Memory) -> None:
    fd = files.memfd(3 * PAGE)
    with pytest.raises(BadArea):
        add(memory, 0, size, fd, offset)
    assert not memory.regions
    add(memory, 0, PAGE, fd, 2 * PAGE)


def test_the_same_file_at_another_offset_is_another_memory(files: Files, memory: Memory) -> None:
    fd, identities = files.memfd(2 * PAGE), []
    info = os.fstat(fd)
    for offset in (0, PAGE):
        add(memory, 0, PAGE, fd, offset)
        identities.append(memory.identity)
        assert memory.identity == ((0, PAGE, offset, info.st_dev, info.st_ino),)
        memory.remove(0)
    assert identities[0] != identities[1]


# Pages that are not there.


def filled(files: Files, size: int) -> int:
    fd = files.memfd(size)
    os.posix_fallocate(fd, 0, size)
    return fd


@pytest.mark.spec("M-8")
def test_memory_without_pages_is_bounded(files: Files) -> None:
    memory = memory_of(sparse=4 * PAGE)
    with pytest.raises(Busy, match="posix_fallocate"):
        add(memory, 0, 5 * PAGE, files.memfd(5 * PAGE))
    add(memory, 0, 3 * PAGE, files.memfd(3 * PAGE))
    add(memory, 8 * PAGE, 32 * PAGE, filled(files, 32 * PAGE))
    with pytest.raises(Busy):
        add(memory, 64 * PAGE, 2 * PAGE, files.memfd(2 * PAGE))
    memory.remove(0)
    add(memory, 64 * PAGE, 2 * PAGE, files.memfd(2 * PAGE))
    memory.close()


@pytest.mark.spec("M-7", "M-8")
def test_parts_of_one_file_miss_the_same_pages_once(files: Files) -> None:
    memory, fd = memory_of(sparse=2 * PAGE), files.memfd(32 * PAGE)
    os.posix_fallocate(fd, 0, 30 * PAGE)
    for n in range(8):
        add(memory, n * 8 * PAGE, 4 * PAGE, fd, n * 4 * PAGE)
    assert len(memory.watched) == 8
    memory.close()


@pytest.mark.spec("M-8")
def test_users_share_what_may_be_without_pages(files: Files) -> None:
    limits = Limits(sparse=4 * PAGE, unfilled=6 * PAGE, share=100)
    shares = Shares(limits, 1024)
    guests = [Memory(limits, Purse(shares.of(n))) for n in range(2)]
    add(guests[0], 0, 4 * PAGE, files.memfd(4 * PAGE))
    with pytest.raises(Busy, match="unfilled"):
        add(guests[1], 0, 3 * PAGE, files.memfd(3 * PAGE))
    assert (shares.used[LENT], shares.used[DESCRIPTORS], shares.used[UNFILLED]) == (4 * PAGE, 1, 4 * PAGE)
    add(guests[1], 0, 2 * PAGE, files.memfd(2 * PAGE))
    for guest in guests:
        for region in list(guest.regions):
            guest.remove(region.start)
    assert not any(shares.used.values())


def punch(fd: int, at: int, size: int) -> None:
    """Take the pages away."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.fallocate(fd, 3, ctypes.c_long(at), ctypes.c_long(size)) == 0, os.strerror(ctypes.get_errno())


@pytest.mark.spec("M-8")
def test_pages_that_go_are_missed(files: Files) -> None:
    memory, fd = memory_of(sparse=2 * PAGE), filled(files, 8 * PAGE)
    add(memory, 0, 8 * PAGE, fd)
    for missing in (2, 3):
        punch(fd, 0, missing * PAGE)
        for region in memory.watched:
            region.look()
        if missing == 2:
            memory.look()
    with pytest.raises(Busy):
        memory.look()
    memory.close()


@pytest.mark.spec("M-8")
def test_pages_that_came_later_are_paid_for_as_long_as_they_are_lent(files: Files) -> None:
    limits = Limits(sparse=4 * PAGE)
    shares = Shares(limits, 1024)
    purse, fd = Purse(shares.of(0)), files.memfd(4 * PAGE)
    memory = Memory(limits, purse)
    os.pwrite(fd, b"x", 0)
    add(memory, 0, 4 * PAGE, fd)
    os.posix_fallocate(fd, 0, 4 * PAGE)  # the host may have filled them
    for region in memory.watched:
        region.look()
    memory.look()
    assert shares.used[UNFILLED] == 3 * PAGE
    add(memory, 4 * PAGE, 2 * PAGE, fd, 2 * PAGE)  # a part of the same file, which has all pages now
    assert shares.used[UNFILLED] == 3 * PAGE
    memory.close(purse.close)
    assert not any(shares.used.values())
