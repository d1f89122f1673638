"""Guest RAM: the allocator against a model of which pages are whose, and what happens at its edges."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestd.memory import Buffer, Ram
from hcall.errors import BadArgument
from hcall.messages import Direction

PAGE = mmap.PAGESIZE
PAGES = 16


@pytest.fixture
def ram() -> Iterator[Ram]:
    ram = Ram(PAGES * PAGE)
    yield ram
    ram.close()


def pages(buffer: Buffer) -> set[int]:
    """The addresses of the pages it lies on: at least one."""
    return set(range(buffer.address, buffer.address + max(1, buffer.size), PAGE))


USES: list[Callable[[Buffer], object]] = [
    lambda buffer: buffer.room,
    lambda buffer: buffer.data,
    lambda buffer: buffer.part(0, 1),
    lambda buffer: bytes(buffer.view),
    lambda buffer: buffer.view.__setitem__(0, 1),
]
SIZES = st.one_of(st.integers(0, PAGES * PAGE), st.sampled_from([0, 1, PAGE - 1, PAGE, PAGE + 1, PAGES * PAGE]))


@given(st.lists(st.one_of(SIZES, st.integers(-50, -1)), max_size=60))
def test_buffers_never_overlap_and_all_that_is_freed_is_one_piece_again(steps: list[int]) -> None:
    ram = Ram(PAGES * PAGE)
    start, size = ram.first.start, ram.first.size
    held: list[tuple[Buffer, int]] = []
    parts: list[Buffer] = []
    for n, step in enumerate(steps):  # a size to allocate, or a negative index to free
        taken = {page for buffer, _ in held for page in pages(buffer)}
        if step < 0:
            if held:
                buffer, mark = held.pop(step % len(held))
                assert bytes(buffer.view) == bytes([mark]) * buffer.size, "somebody else wrote into it"
                buffer.free()
            if parts and step % 2:
                parts.pop(step % len(parts)).free()
            continue
        free = [page not in taken for page in range(start, start + size, PAGE)]
        longest = max(map(len, "".join(" x"[page] for page in free).split()), default=0)
        try:
            buffer = ram.alloc(step)
        except MemoryError:
            assert longest * PAGE < max(1, step), f"{step} bytes were free"
            continue
        assert buffer.address % PAGE == 0 and buffer.size == len(buffer.view) == step
        assert start <= buffer.address and buffer.address + step <= start + size
        assert not pages(buffer) & taken
        buffer.view[:] = bytes([n]) * step
        held.append((buffer, n))
        parts.append(buffer.part(step // 3, step // 2))
    for buffer, _ in held:
        buffer.free()
    with ram.alloc(size) as everything:
        assert everything.address == start
    ram.close()


def test_too_much_is_a_memory_error_that_costs_nothing(ram: Ram) -> None:
    with ram.alloc((PAGES - 1) * PAGE):
        with pytest.raises(MemoryError, match="free"):
            ram.alloc(PAGE + 1)
        ram.alloc(PAGE).free()
    ram.alloc(PAGES * PAGE).free()


@pytest.mark.parametrize("size", [-1, -(1 << 70), 1 << 70, 1.0, 1.5, "x", None])
def test_what_is_no_size_is_refused_and_costs_nothing(ram: Ram, size: Any) -> None:
    for take in (ram.alloc, ram.region, Ram):
        with pytest.raises((BadArgument, TypeError), match=r"memory has no|integer"):
            take(size)
    with pytest.raises(BadArgument):
        ram.region(0)
    with ram.alloc(PAGES * PAGE) as everything:
        assert everything.address == ram.first.start and type(everything.address) is int
    region = ram.region(1)
    region.close()
    assert region.start == ram.first.start + PAGES * PAGE


def test_freeing_twice_is_harmless(ram: Ram) -> None:
    first = ram.alloc(PAGE)
    first.free()
    second = ram.alloc(PAGE)
    assert second.address == first.address
    first.free()
    third = ram.alloc(PAGE)
    assert third.address != second.address


@pytest.mark.parametrize(
    "look",
    [
        lambda buffer: struct.iter_unpack("B", buffer.view),
        lambda buffer: buffer.view[5:10],
        lambda buffer: buffer.part(5, 10).view.cast("H").toreadonly(),
        lambda buffer: memoryview(buffer.view),
    ],
    ids=["an export", "a slice", "a cast", "a copy of a view"],
)
def test_what_somebody_still_looks_at_is_nobody_elses(ram: Ram, look: Callable[[Buffer], object]) -> None:
    buffer = ram.alloc(PAGE)
    address = buffer.address
    looking = look(buffer)
    buffer.free()
    with ram.alloc(PAGE) as other:
        assert other.address != address
    with pytest.raises(MemoryError):
        ram.alloc(PAGES * PAGE)
    del looking
    ram.alloc(PAGES * PAGE).free()


def test_a_view_that_only_a_circle_holds_does_not_use_up_the_memory(ram: Ram) -> None:
    buffer = ram.alloc(PAGES * PAGE)
    circle: list[object] = [buffer.view[1:2]]
    circle.append(circle)
    buffer.free()
    del circle
    ram.alloc(PAGES * PAGE).free()


@pytest.mark.parametrize("end", [lambda part: part.free(), lambda part: part.__exit__()], ids=["free", "with"])
def test_a_part_that_is_given_back_is_no_more_and_the_whole_goes_on(ram: Ram, end: Callable[[Buffer], None]) -> None:
    whole = ram.alloc(2 * PAGE)
    part, other = whole.part(0, PAGE), whole.part(0, 10)
    inner = part.part(1, 2)
    end(part)
    end(part)
    for use in USES:
        with pytest.raises((BadArgument, ValueError)):
            use(part)
        use(inner)
        use(other)
        use(whole)
    with ram.alloc(PAGE) as more:
        assert not pages(more) & pages(whole)


def test_with_the_whole_its_parts_end_and_theirs(ram: Ram) -> None:
    whole = ram.alloc(2 * PAGE)
    part = whole.part(PAGE, PAGE)
    inner = part.part(1, 2)
    several = [whole.part(n, 1) for n in range(100)]
    whole.free()
    for buffer in (whole, part, inner, *several):
        for use in USES:
            with pytest.raises((BadArgument, ValueError)):
                use(buffer)
    with ram.alloc(PAGES * PAGE) as everything:
        everything.view[:] = bytes([7]) * PAGES * PAGE
        for buffer in (inner, part, whole, *several):
            buffer.free()  # of one that is gone
        with pytest.raises(MemoryError):
            ram.alloc(1)
        assert bytes(everything.view) == bytes([7]) * PAGES * PAGE


def test_parts_that_nobody_has_any_more_cost_nothing(ram: Ram) -> None:
    def grown() -> int:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(10_000):
            whole.part(0, 10)
        return tracemalloc.get_traced_memory()[0] - before

    whole = ram.alloc(PAGE)
    tracemalloc.start()
    try:
        grown()
        assert grown() < 10_000  # less than a byte for each
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("part", [False, True])
def test_what_a_call_under_way_has_is_nobody_elses_before_its_answer(part: bool) -> None:
    under_way: set[tuple[int, int]] = set()
    ram = Ram(PAGES * PAGE, lambda address, size: any(address <= at < address + size for at, _ in under_way))
    buffer = ram.alloc(2 * PAGE)
    lent = buffer.part(PAGE, 10) if part else buffer
    ((address, size, _),) = lent.room
    under_way.add((address, size))
    buffer.free()
    lent.free()
    with ram.alloc(PAGE) as other:
        assert not pages(other) & set(range(buffer.address, buffer.address + 2 * PAGE, PAGE))
    under_way.clear()
    ram.alloc(PAGES * PAGE).free()
    ram.close()


def test_a_buffer_is_an_area_either_way_and_so_is_a_part_of_it(ram: Ram) -> None:
    with ram.alloc(PAGE + 10) as buffer:
        assert buffer.room == ((buffer.address, PAGE + 10, Direction.TO_GUEST),)
        assert buffer.data == ((buffer.address, PAGE + 10, Direction.TO_DEVICE),)
        part = buffer.part(4, 3)
        assert part.room == ((buffer.address + 4, 3, Direction.TO_GUEST),) and len(part.view) == 3
        part.view[:] = b"abc"
        assert bytes(buffer.view[4:7]) == b"abc"
        assert buffer.part(PAGE + 10, 0).size == 0
        for start, size in ((-1, 1), (0, -1), (0, PAGE + 11), (PAGE, 11), (PAGE + 11, 0)):
            with pytest.raises(BadArgument):
                buffer.part(start, size)
        part.view.release()


def test_what_is_written_is_in_the_memfd_that_the_host_gets(ram: Ram) -> None:
    start, size, fd = ram.first.start, ram.first.size, ram.first.fd
    with ram.alloc(PAGE), ram.alloc(PAGE) as buffer:
        buffer.view[:5] = b"hello"
        assert os.pread(fd, 5, buffer.address - start) == b"hello"
    assert os.fstat(fd).st_size == size == PAGES * PAGE
    assert fcntl.fcntl(fd, 1034) & 7 == 7  # F_GET_SEALS: sealed, cannot shrink, cannot grow
    with pytest.raises(PermissionError):
        os.ftruncate(fd, PAGE)


def test_it_grows_by_regions_that_do_not_overlap(ram: Ram) -> None:
    start, size = ram.first.start, ram.first.size
    everything = ram.alloc(size)
    region, another = ram.region(5), ram.region(PAGE)
    assert (region.size, region.start % PAGE) == (PAGE, 0) and region.start >= start + size
    assert another.start >= region.start + PAGE
    with pytest.raises(MemoryError):
        ram.alloc(1)  # the host does not know of them yet
    ram.add(region)
    ram.add(another)
    with ram.alloc(PAGE) as buffer:
        assert buffer.address == region.start
        buffer.view[:1] = b"x"
        assert os.pread(region.fd, 1, 0) == b"x"
    everything.free()
    with pytest.raises(MemoryError):
        ram.alloc(size + PAGE)  # no buffer lies in two regions


def test_closing_under_a_view_leaves_the_view_its_pages_and_no_longer() -> None:
    ram = Ram(PAGES * PAGE)
    buffer = ram.alloc(PAGE)
    buffer.view[:] = b"x" * PAGE
    fd = ram.first.fd
    ram.close()
    with pytest.raises(OSError):
        os.fstat(fd)
    assert bytes(buffer.view) == b"x" * PAGE
    buffer.free()
    ram.close()
    assert Path("/proc/self/maps").read_text().count("memfd:guest") == 0
