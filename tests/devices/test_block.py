"""The disk with its driver, on real files: every byte against a model, and every way in which an image can fail."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import itertools
import os
import resource
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

import guestd
import hostd
from guestd.drivers.block import BlockDriver
from hostd import Machine, MachineError
from hostd.devices.block import _whole
from protocol import hcall
from protocol.clock import Clock, ManualClock
from protocol.errors import BadArgument, IoError, NoSpace, NoSuchCall, ReadOnly

SIZE = 192 * 1024  # of the model's disk: reads and writes both sides of 64 KiB
Bound: TypeAlias = "tuple[hostd.Host, guestd.AsyncGuest, BlockDriver]"


@contextlib.asynccontextmanager
async def disk(folder: Path, clock: Clock | None = None, **config: object) -> AsyncIterator[Bound]:
    devices = {"disk": {"model": "block", "path": "disk.img", **config}}
    machine = Machine.from_tables({"devices": devices}, folder)
    async with hostd.serve(machine, folder / "run", clock) as host, guestd.attach(host.socket) as guest:
        driver = await guest.bind("disk")
        assert isinstance(driver, BlockDriver)
        yield host, guest, driver
    for thread in workers():  # an error that a thread has still in its hands keeps guest memory
        thread.join(5)


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("Block")]


def image(folder: Path, content: bytes) -> Path:
    path = folder / "disk.img"
    path.write_bytes(content)
    return path


def pattern(count: int, seed: int = 1) -> bytes:
    return bytes((n * 7 + (n >> 8) + seed) & 255 for n in range(count))


@pytest.fixture(params=["tmp_path", "/dev/shm"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """On a filesystem that reads without waiting, and on one that cannot (tmpfs)."""
    if request.param == "tmp_path":
        yield tmp_path
    else:
        with tempfile.TemporaryDirectory(dir=request.param) as name:
            yield Path(name)


# Any sequence of calls, against a bytearray.

EDGES = [0, 1, 511, 512, 513, 4095, 4096, 4097, 65536, 65537, SIZE - 513, SIZE - 1, SIZE, SIZE + 1]
PLACE = st.one_of(st.sampled_from([*EDGES, -1, -512, 1 << 40, (1 << 63) - 1, -(1 << 63)]), st.integers(0, SIZE))
LENGTH = st.one_of(st.sampled_from([0, *EDGES]), st.integers(0, 5000))
STEP = st.tuples(
    st.sampled_from(["read", "write", "discard", "write_zeroes", "sync"]),
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
            elif what == "write_zeroes":
                model[at : at + length] = bytes(length)
            elif what == "discard":  # zeroes, or what was there, where it cannot be done
                now = path.read_bytes()[at : at + length]
                assert now in (bytes(length), model[at : at + length])
                model[at : at + length] = now
            assert len(model) == SIZE
    assert path.read_bytes() == model


@pytest.mark.parametrize(("new_loop", "where"), [(uvloop.new_event_loop, None), (asyncio.new_event_loop, "/dev/shm")])
@settings(max_examples=25, deadline=None)
@given(steps=st.lists(STEP, max_size=12))
def test_any_sequence_of_calls_does_what_it_does_to_a_bytearray(
    new_loop: Callable[[], asyncio.AbstractEventLoop], where: str | None, steps: list[tuple[str, int, int, str, int]]
) -> None:
    with tempfile.TemporaryDirectory(dir=where) as name, asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(compare(Path(name), steps))


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.lists(st.integers(1, 12), min_size=60, max_size=60))
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
    assert _whole(read, -1, [memoryview(buffer) for buffer in buffers], 3) == sum(lengths)
    assert b"".join(buffers) == pattern(100)[3 : 3 + sum(lengths)]


# What goes where.


async def test_much_at_once_goes_through_a_worker_and_little_does_not(folder: Path) -> None:
    data = pattern(1 << 20)
    image(folder, bytes(2 << 20))
    async with disk(folder) as (_, _, driver):
        await driver.store(data[: 64 * 1024], 0)
        assert not workers()
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
async def test_a_negative_length_is_refused(tmp_path: Path, at: int) -> None:
    image(tmp_path, bytes(SIZE))
    async with disk(tmp_path) as (_, _, driver):
        for call in (driver.discard, driver.write_zeroes):
            with pytest.raises(BadArgument):
                await call(at, -1)


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
        assert (await guest.core(0, hcall.POLL, 0))[0][1][resized] == 1


@pytest.mark.parametrize("length", [8192, 2 << 20])
async def test_an_image_that_ends_under_a_read_is_an_error_and_not_zeroes(folder: Path, length: int) -> None:
    path = image(folder, pattern(2 << 20))
    async with disk(folder, ManualClock()) as (_, _, driver):
        os.truncate(path, 4096)
        with driver.dev.ram.alloc(length) as buffer, pytest.raises(IoError, match="ends at 4096"):
            await driver.read_into(buffer)
        assert await driver.load(4096) == pattern(4096)


# What fails.


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [(False, False, False), (True, False, False), (False, True, False), (True, True, True)],
)
async def test_an_image_has_one_writer_or_many_readers(tmp_path: Path, one: bool, other: bool, both: bool) -> None:
    path = image(tmp_path, bytes(SIZE))
    async with disk(tmp_path, read_only=one) as (host, guest, _):
        table = {"model": "block", "path": str(path), "read_only": other}
        if both:
            host.plug_table("second", table)
            assert await guest["second"].load(SIZE) == bytes(SIZE)
            return
        with pytest.raises(MachineError, match=f"{path}: in use by another device or process"):
            host.plug_table("second", table)
        await host.unplug("/disk", surprise=True)
        host.plug_table("second", table)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may open everything: be somebody else for a moment."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def no_permission(path: Path) -> None:
    path.touch(mode=0)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda path: None, "No such file or directory"),
        (Path.mkdir, "directory|neither a file nor a block device"),
        (lambda path: path.symlink_to("/dev/null"), "neither a file nor a block device"),
        (lambda path: path.symlink_to(path), "Too many levels"),
        (no_permission, "Permission denied"),
        (os.mkfifo, "neither a file nor a block device"),
    ],
    ids=["missing", "directory", "character device", "loop", "no permission", "pipe"],
)
async def test_what_cannot_be_a_disk_is_refused_in_one_line(
    tmp_path: Path, prepare: Callable[[Path], object], says: str, read_only: bool
) -> None:
    path = tmp_path / "disk.img"
    prepare(path)

    def too_long(*_: object) -> None:
        raise TimeoutError("the host waits for somebody to write into the pipe")

    before = signal.signal(signal.SIGALRM, too_long)
    async with hostd.serve(Machine(), tmp_path / "run") as host:
        signal.setitimer(signal.ITIMER_REAL, 1)
        try:
            user = as_nobody() if prepare is no_permission else contextlib.nullcontext()
            with user, pytest.raises(MachineError, match=says) as error:
                host.plug_table("disk", {"model": "block", "path": str(path), "read_only": read_only})
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert str(error.value).startswith(f"plug: devices.disk: {path}: ") and "\n" not in str(error.value)
        assert not host.tree.root.children


async def test_after_a_flush_that_failed_a_disk_stays_failed_and_another_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "hostd")  # pytest keeps the frames of a logged error, and their guest
    image(tmp_path, pattern(SIZE))
    image_of_other = tmp_path / "other.img"
    image_of_other.write_bytes(bytes(SIZE))
    async with disk(tmp_path) as (host, guest, driver):
        host.plug_table("other", {"model": "block", "path": str(image_of_other)})

        def fails(fd: int) -> None:
            raise OSError(errno.EIO, "the disk is broken")

        # No file at hand fails a flush: that takes a broken disk, or root and a device mapper.
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fails)
            with pytest.raises(IoError, match="broken"):
                await driver.sync()
        await guest.unbind("disk")
        again = await guest.bind("disk")  # a reset does not bring back what the kernel has dropped
        assert isinstance(again, BlockDriver)
        for call in (again.sync(), again.write(b"x"), again.store(b"x" * 100_000), again.discard(0, 512),
                     again.write_zeroes(0, 512)):  # fmt: skip
            with pytest.raises(IoError):
                await call
        assert await again.load(SIZE) == pattern(SIZE)
        await guest["other"].store(b"fine")
        await guest["other"].sync()
    assert image_of_other.read_bytes()[:4] == b"fine"


@pytest.mark.parametrize("length", [4096, 64 * 1024, 256 * 1024])
async def test_a_write_that_fails_half_way_is_an_error_and_the_disk_goes_on(
    tmp_path: Path, length: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("CRITICAL", "hostd")
    limit = 8 << 20
    path = tmp_path / "disk.img"
    async with disk(tmp_path, create="16M") as (_, _, driver):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # the kernel cuts a write there, and fails the next
        try:
            with pytest.raises(NoSpace):
                await driver.store(b"x" * length, limit - length // 2)
            await driver.store(b"before", 0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert await driver.load(length, limit - length // 2) == (b"x" * (length // 2)).ljust(length, b"\0")
        await driver.store(b"after", limit)
        await driver.sync()
    with path.open("rb") as file:
        assert file.read(6) == b"before"
        file.seek(limit)
        assert file.read(6) == b"after\0"


async def test_calls_at_once_on_one_disk_do_not_mix(tmp_path: Path) -> None:
    image(tmp_path, bytes(4 << 20))
    async with disk(tmp_path) as (_, guest, driver):
        blocks = [bytes([n]) * 100_000 for n in range(1, 31)]
        await asyncio.gather(*(driver.store(block, n * 100_000) for n, block in enumerate(blocks)))
        nothing: list[Any] = [driver.dev.property("capacity"), guest.nop()]
        loaded = await asyncio.gather(*(driver.load(100_000, n * 100_000) for n in range(30)), *nothing)
        assert loaded[:30] == blocks


async def test_stopping_lets_go_of_the_image(tmp_path: Path) -> None:
    path = image(tmp_path, bytes(SIZE))
    async with disk(tmp_path):
        with path.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
