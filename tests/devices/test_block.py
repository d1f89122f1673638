"""The disk with its driver, on real files: every byte against a model."""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvloop
from disk_end import SIZE, disk, image, pattern, workers
from hypothesis import given, settings
from hypothesis import strategies as st

import guestd
import hostd
from guestd.drivers.block import BlockDriver
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import BadArgument, IoError, NoSuchCall, ReadOnly
from hostd.backings.parts.pieces import MOST, PART, part
from hostd.devices.block import _whole

# Any sequence of calls, against a bytearray.

EDGES = [0, 1, 511, 512, 513, 4095, 4096, 4097, 65536, 65537, SIZE - 513, SIZE - 1, SIZE, SIZE + 1]
PLACE = st.one_of(st.sampled_from([*EDGES, -1, -512, 1 << 40, (1 << 63) - 1, -(1 << 63)]), st.integers(0, SIZE))
LENGTH = st.one_of(st.sampled_from([0, *EDGES]), st.integers(0, 5000))
STEP = st.tuples(
    st.sampled_from(["read", "write", "discard", "write_zeroes", "allocate_zeroes", "sync"]),
    PLACE,
    LENGTH,
    st.sampled_from(["inline", "memory", "areas"]),
    st.integers(0, 255),
)


def pieces(length: int, seed: int) -> list[int]:
    """Lengths of areas that are *length* together, empty ones among them."""
    cuts = sorted({0, length, length * seed // 256, length // 3, min(length, seed)})
    return [0, *(end - start for start, end in itertools.pairwise(cuts)), 0]


async def make(driver: BlockDriver, step: tuple[str, int, int, str, int], data: bytes) -> bytes | None:
    """Make one call; what was read."""
    what, at, length, how, seed = step
    if what == "sync":
        await driver.sync()
    elif what == "discard":
        await driver.discard(at, length)
    elif what == "write_zeroes":
        await driver.write_zeroes(at, length)
    elif what == "allocate_zeroes":
        await driver.allocate_zeroes(at, length)
    elif how == "inline":
        if what == "read":
            return await driver.read(length, at)
        assert await driver.write(data, at) == length
    else:
        lengths = [length] if how == "memory" else pieces(length, seed)
        with driver.dev.ram.alloc(2 * length) as buffer:  # the areas lie apart, and in no order
            places = [sum(lengths[n + 1 :]) for n in range(len(lengths))]
            parts = [buffer.part(place, size) for place, size in zip(places, lengths, strict=True)]
            if what == "read":
                areas = tuple(area for part in parts for area in part.room)
                assert await driver.dev.call(driver.number("read"), (at,), areas) == length
                return b"".join(bytes(part.view) for part in parts)
            left = data
            for part in parts:
                part.view[:], left = left[: part.size], left[part.size :]
            areas = tuple(area for part in parts for area in part.data)
            assert await driver.dev.call(driver.number("write"), (at,), areas) == length
    return None


async def compare(folder: Path, steps: list[tuple[str, int, int, str, int]]) -> None:
    content = pattern(SIZE)
    path = image(folder, content)
    model = bytearray(content)
    async with disk(folder) as (_, _, driver):
        for what, at, given, how, seed in steps:
            length = min(given, 4096) if how == "inline" else given
            data = pattern(length, seed)
            step = (what, at, length, how, seed)
            if what != "sync" and not (at >= 0 and at + length <= SIZE):
                with pytest.raises(BadArgument):
                    await make(driver, step, data)
                continue
            seen = await make(driver, step, data)
            if what == "read":
                assert seen == bytes(model[at : at + length])
            elif what == "write":
                model[at : at + length] = data
            elif what in ("write_zeroes", "allocate_zeroes"):
                model[at : at + length] = bytes(length)
            elif what == "discard":  # zeroes, or what was there, where it cannot be done
                now = path.read_bytes()[at : at + length]
                assert now in (bytes(length), model[at : at + length])
                model[at : at + length] = now
            assert len(model) == SIZE
    assert path.read_bytes() == model


@pytest.mark.parametrize(("new_loop", "where"), [(uvloop.new_event_loop, None), (asyncio.new_event_loop, "/dev/shm")])
@settings(max_examples=25)
@given(steps=st.lists(STEP, max_size=12))
@pytest.mark.spec("BLK-1", "BLK-2")
def test_any_sequence_of_calls_does_what_it_does_to_a_bytearray(
    new_loop: Callable[[], asyncio.AbstractEventLoop], where: str | None, steps: list[tuple[str, int, int, str, int]]
) -> None:
    with tempfile.TemporaryDirectory(dir=where) as name, asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(compare(Path(name), steps))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.lists(st.integers(1, 12), min_size=60, max_size=60))
@pytest.mark.spec("BLK-2")
def test_a_transfer_goes_on_where_a_short_one_stopped(lengths: list[int], moves: list[int]) -> None:
    """Files are moved whole unless they are 2 GiB: so a kernel that moves little takes part here."""
    moved = iter(moves)

    def read(fd: int, into: Sequence[memoryview], at: int) -> int:
        left, start = next(moved), at
        for piece in into:
            part = pattern(100)[at : at + min(left, len(piece))]
            piece[: len(part)] = part
            at, left = at + len(part), left - len(part)
        return at - start

    buffers = [bytearray(length) for length in lengths]
    steps = _whole(read, -1, [memoryview(buffer) for buffer in buffers], 3)
    with pytest.raises(StopIteration) as ended:
        while True:
            next(steps)
    assert ended.value.value == sum(lengths)
    assert b"".join(buffers) == pattern(100)[3 : 3 + sum(lengths)]


def test_what_a_worker_does_before_it_looks_up_is_bounded_in_bytes_and_pieces() -> None:
    large = memoryview(bytes(PART))
    with part([large[:100], large, large], 50) as some:
        assert [len(each) for each in some] == [50, PART - 50]
    with part([large[:1]] * (MOST + 10)) as some:
        assert len(some) == MOST
    with part([large[:3]], 3) as none:
        assert not none


# What goes where.


async def test_much_at_once_goes_through_a_worker_and_little_does_not(folder: Path) -> None:
    data = pattern(1 << 20)
    image(folder, bytes(2 << 20))
    async with disk(folder) as (_, _, driver):
        await driver.store(data[: 64 * 1024], 0)
        assert not workers() or not folder.is_relative_to("/dev/shm")  # a disk may wait, whatever is written to it
        await driver.store(data, 12345)
        assert workers()
        assert await driver.load(1 << 20, 12345) == data
    async with disk(folder) as (_, _, driver):
        assert await driver.load(64 * 1024, 12345) == data[: 64 * 1024]
        assert not workers() or not folder.is_relative_to("/dev/shm")  # elsewhere a page may be on its way to the disk
        with driver.dev.ram.alloc(2 << 20) as buffer:  # so much at once would hold up the other guests
            assert await driver.read_into(buffer) == 2 << 20
            assert workers()
            assert bytes(buffer.view[12345 : 12345 + (1 << 20)]) == data
            assert bytes(buffer.view[12345 + (1 << 20) :]) == bytes((1 << 20) - 12345)


async def test_the_same_driver_on_the_blocking_client(host: hostd.Host) -> None:
    data = pattern(600_000)

    def blocking() -> bytes:
        with guestd.attach_blocking(host.socket) as guest:
            disk = guest["disk"]
            disk.store(data, 1000)
            disk.sync()
            return disk.load(len(data), 1000)  # type: ignore[no-any-return]

    assert await asyncio.to_thread(blocking) == data


@pytest.mark.spec("BLK-6")
async def test_what_is_discarded_is_given_back_to_the_filesystem(folder: Path) -> None:
    path = image(folder, pattern(1 << 20))
    async with disk(folder) as (_, _, driver):
        await driver.sync()
        before = path.stat().st_blocks
        await driver.discard(256 * 1024, 512 * 1024)
        assert path.stat().st_blocks <= before - 512 * 1024 // 512
    content = pattern(1 << 20)
    assert path.read_bytes() == content[: 256 * 1024] + bytes(512 * 1024) + content[768 * 1024 :]


async def test_zeroes_take_no_memory_on_a_filesystem_that_is_memory() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        path = image(Path(name), pattern(1 << 20))
        async with disk(Path(name)) as (_, _, driver):
            await driver.write_zeroes(0, 1 << 20)
            assert path.stat().st_blocks == 0
        assert path.read_bytes() == bytes(1 << 20)


@pytest.mark.spec("BLK-6")
@pytest.mark.parametrize("where", [None, "/dev/shm"])
@pytest.mark.parametrize("before", ["a hole", "bytes", "discarded"])
@pytest.mark.parametrize(("at", "length"), [(0, 1 << 20), (1234, 700_000), (4096, 8192), (5, 1), (9, 0)])
async def test_zeroes_that_take_their_place_have_it(
    folder: Path, where: str | None, before: str, at: int, length: int
) -> None:
    with tempfile.TemporaryDirectory(dir=where or folder) as name:
        content = bytes(1 << 20) if before == "a hole" else pattern(1 << 20)
        path = image(Path(name), content)
        if before == "a hole":
            os.truncate(path, 0)
            os.truncate(path, 1 << 20)
        async with disk(Path(name)) as (_, _, driver):
            if before == "discarded":
                await driver.discard(0, 1 << 20)
                content = bytes(1 << 20)
            await driver.allocate_zeroes(at, length)
            await driver.sync()
            taken = path.stat().st_blocks
            assert taken * 512 >= length
            if length:
                await driver.store(bytes(length), at)
            await driver.sync()
            assert path.stat().st_blocks == taken
        assert path.read_bytes() == content[:at] + bytes(length) + content[at + length :]


async def test_an_image_is_made_if_it_is_missing_and_kept_if_it_is_there(folder: Path) -> None:
    path = folder / "disk.img"
    async with disk(folder, create="1G") as (_, _, driver):
        assert driver.capacity == path.stat().st_size == 1 << 30 and path.stat().st_blocks < 100
        await driver.store(b"end", (1 << 30) - 3)
    async with disk(folder, create="4K") as (_, _, driver):
        assert driver.capacity == 1 << 30 and await driver.load(3, (1 << 30) - 3) == b"end"


@pytest.mark.parametrize(("size", "capacity"), [(0, 0), (511, 0), (512, 512), (1000, 512), (1024 + 511, 1024)])
async def test_a_disk_has_whole_sectors_and_the_rest_of_the_image_is_out_of_reach(
    tmp_path: Path, size: int, capacity: int
) -> None:
    path = image(tmp_path, pattern(size))
    async with disk(tmp_path) as (_, _, driver):
        assert driver.capacity == capacity and await driver.dev.property("sector-size") == 512
        assert await driver.read(capacity, 0) == pattern(size)[:capacity]
        for call in (driver.read(1, capacity), driver.write(b"x", capacity), driver.write_zeroes(capacity, 1)):
            with pytest.raises(BadArgument, match=f"outside the disk of {capacity} bytes"):
                await call
    assert path.read_bytes() == pattern(size)


@pytest.mark.parametrize("at", [-1, SIZE, 1 << 62])
@pytest.mark.spec("BLK-1")
async def test_a_negative_length_is_refused(tmp_path: Path, at: int) -> None:
    image(tmp_path, bytes(SIZE))
    async with disk(tmp_path) as (_, _, driver):
        for call in (driver.discard, driver.write_zeroes, driver.allocate_zeroes):
            with pytest.raises(BadArgument):
                await call(at, -1)


@pytest.mark.spec("BLK-5")
async def test_a_disk_that_is_read_only_says_so_and_stays_as_it_is(tmp_path: Path) -> None:
    path = image(tmp_path, pattern(SIZE))
    async with disk(tmp_path, read_only=True) as (_, _, driver):
        assert driver.read_only and driver.dev.features == {"RO"}
        assert await driver.load(SIZE) == pattern(SIZE)
        for write in (driver.write(b"x"), driver.store(b"x" * 100_000)):
            with pytest.raises(ReadOnly):
                await write
        for gone in (driver.discard(0, 512), driver.write_zeroes(0, 512)):
            with pytest.raises(NoSuchCall):
                await gone
        await driver.sync()
    assert path.read_bytes() == pattern(SIZE)
    async with disk(tmp_path) as (_, _, driver):
        assert not driver.read_only and driver.dev.features == {"FLUSH", "DISCARD", "WRITE_ZEROES"}


@pytest.mark.parametrize("size", [SIZE // 2, SIZE * 2, 0])
@pytest.mark.spec("BLK-7")
async def test_an_image_that_changes_its_size_is_told_and_the_new_size_holds(tmp_path: Path, size: int) -> None:
    clock = ManualClock()
    path = image(tmp_path, pattern(SIZE))
    async with disk(tmp_path, clock) as (_, guest, driver):
        resized = driver.dev.vectors["resized"]
        os.truncate(path, size + 100)
        clock.turn(1)
        await driver.resized.wait()
        assert await driver.look() == size == driver.capacity
        assert await driver.load(size) == pattern(SIZE)[:size].ljust(size, b"\0")
        with pytest.raises(BadArgument):
            await driver.read(1, size)
        os.truncate(path, size + 511)  # no sector more
        clock.turn(2)
        assert (await guest.core(0, numbers.POLL, 0))[0][1][resized] == 1


@pytest.mark.parametrize("length", [8192, 2 << 20])
async def test_an_image_that_ends_under_a_read_is_an_error_and_not_zeroes(folder: Path, length: int) -> None:
    path = image(folder, pattern(2 << 20))
    async with disk(folder, ManualClock()) as (_, _, driver):
        os.truncate(path, 4096)
        with driver.dev.ram.alloc(length) as buffer, pytest.raises(IoError, match="ends at 4096"):
            await driver.read_into(buffer)
        assert await driver.load(4096) == pattern(4096)


@pytest.mark.spec("BLK-8", "S-8")
async def test_calls_at_once_on_one_disk_do_not_mix(tmp_path: Path) -> None:
    image(tmp_path, bytes(4 << 20))
    async with disk(tmp_path) as (_, guest, driver):
        blocks = [bytes([n]) * 100_000 for n in range(1, 31)]
        await asyncio.gather(*(driver.store(block, n * 100_000) for n, block in enumerate(blocks)))
        nothing: list[Any] = [driver.dev.property("capacity"), guest.nop()]
        loaded = await asyncio.gather(*(driver.load(100_000, n * 100_000) for n in range(30)), *nothing)
        assert loaded[:30] == blocks
