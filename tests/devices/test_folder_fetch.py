"""A folder that is fetched: entries with what is known of them and the bytes of small files, as far as at hand."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from moving import Hand, until
from sharing import ROOM, Ticking, fetched, serving, shared
from slow_files import LOOKUP, OPEN, READ, SlowFiles, slow_files

import guestd
from guestd.commands.trees import copy_out
from guestd.drivers.folder import FolderDriver
from hcall.errors import BadArgument, Reset
from hcall.formats.folder import MAX_FETCHED, ROOT, Fetched, Flag, Kind, unpack_fetched
from hostd.device import Later
from hostd.devices.folder import Folder
from hostd.model.areas import InlineRoom

STAT, DATA, LAST = Flag.STAT, Flag.DATA, Flag.LAST
SMALL = 64 * 1024


def said_of(path: Path, flags: Flag) -> tuple[int, ...]:
    """Id, size, time and permissions of what is there, and the flags."""
    info = path.lstat()
    return info.st_ino, info.st_size, info.st_mtime_ns, stat.S_IMODE(info.st_mode), flags


@pytest.mark.spec("FLD-11")
async def test_an_entry_has_what_stat_tells_and_that_of_a_small_file_its_bytes(folder: Path) -> None:
    share = folder / "share"
    share.mkdir()
    for name, size in (("small", 100), ("largest", SMALL), ("large", SMALL + 1), ("empty", 0), (".hidden", 1)):
        (share / name).write_bytes(os.urandom(size))
    (share / "small").chmod(0o4751)
    os.utime(share / "small", ns=(0, -1_000_000_001))
    (share / os.fsdecode(b"\xff\n")).write_bytes(b"odd")
    (share / "link").symlink_to("small")
    (share / "folder").mkdir(0o700)
    os.mkfifo(share / "pipe")
    flags = {"large": STAT, "link": STAT, "folder": STAT, "pipe": STAT}
    kinds = {"link": Kind.LINK, "folder": Kind.FOLDER, "pipe": Kind.OTHER}
    async with shared(folder) as files:
        found = await fetched(files)
    assert found.keys() == set(os.listdir(bytes(share)))  # noqa: PTH208  # as bytes
    *_, last = found.values()
    assert [entry.flags & LAST for entry in found.values()] == [0] * (len(found) - 1) + [LAST]
    for name, entry in found.items():
        path = share / os.fsdecode(name)
        expected = flags.get(path.name, STAT | DATA) | (LAST if entry is last else 0)
        assert (entry.id, entry.size, entry.mtime, entry.mode, entry.flags) == said_of(path, expected)
        assert entry.kind == kinds.get(path.name, Kind.FILE)
        assert entry.data == (path.read_bytes() if entry.flags & DATA else b"")


@pytest.mark.spec("FLD-10")
@pytest.mark.parametrize("room", [MAX_FETCHED, 700, 4096, SMALL, 100_000, 8 << 20])
async def test_entries_come_whole_and_each_once_however_much_room_there_is(folder: Path, room: int) -> None:
    share = folder / "share"
    share.mkdir()
    for n in range(100):
        (share / f"{n}-{'x' * (n * 2)}").write_bytes(bytes([n]) * (n * 40))
    async with shared(folder) as files:
        listing = await files.open_dir()
        seen: list[Fetched] = []
        with files.dev.ram.alloc(room) as buffer:
            while count := await files._fetch_dir(buffer, listing.number, seen[-1].cookie if seen else 0):
                assert count <= min(room, ROOM)
                entries = list(unpack_fetched(bytes(buffer.view[:count])))
                seen += entries
                assert bool(entries[-1].flags & LAST) == (len(seen) == 100)
        assert {os.fsdecode(entry.name) for entry in seen} == {path.name for path in share.iterdir()} and len(
            seen
        ) == 100
        for entry in seen:
            content = (share / os.fsdecode(entry.name)).read_bytes()
            fits = MAX_FETCHED - 255 + len(entry.name) + entry.size <= room
            assert bool(entry.flags & DATA) == fits and entry.data == (content if fits else b"")
        with pytest.raises(BadArgument, match="292 bytes"):
            await files.dev.call(files.number("fetch_dir"), (listing.number, 0), (MAX_FETCHED - 1,))
        assert await fetched(files, room=ROOM) == {entry.name: entry for entry in await whole(files, listing.number)}


async def whole(files: FolderDriver, number: int) -> list[Fetched]:
    """From the first entry on, in two pieces of memory side by side."""
    with files.dev.ram.alloc(ROOM) as buffer:
        seen: list[Fetched] = []
        (area,) = buffer.room
        pieces = ((area[0], 1000, area[2]), (area[0] + 1000, area[1] - 1000, area[2]))
        while not seen or not seen[-1].flags & LAST:
            cookie = seen[-1].cookie if seen else 0
            count = await files.dev.call(files.number("fetch_dir"), (number, cookie), pieces)
            seen += unpack_fetched(bytes(buffer.view[:count]))
        return seen


@pytest.mark.spec("FLD-10")
async def test_what_is_there_throughout_comes_once_whatever_comes_and_goes(folder: Path) -> None:
    share = folder / "share"
    share.mkdir()
    stays = {f"stays-{n}".encode() for n in range(400)}
    for n, name in enumerate(sorted(stays)):
        (share / os.fsdecode(name)).write_bytes(name)
        (share / f"goes-{n}").touch()
    async with shared(folder) as files:
        listing = await files.open_dir()
        seen: list[bytes] = []
        turn = 0
        with files.dev.ram.alloc(4096) as buffer:
            while entries := await listing.fetch(buffer):
                seen += [entry.name for entry in entries]
                assert all(bytes(entry.data) == entry.name for entry in entries if entry.name in stays)
                for n in range(turn * 20, turn * 20 + 20):
                    (share / f"goes-{n}").unlink(missing_ok=True)
                    (share / f"comes-{n}").touch()
                turn += 1
        assert turn > 5
        there = [name for name in seen if name in stays]
        assert len(there) == len(stays) == len(set(there))


@pytest.mark.spec("FLD-10")
async def test_nothing_is_an_end_too(folder: Path) -> None:
    async with shared(folder) as files:
        assert await fetched(files) == {}


# On time.


@pytest.fixture
def clock() -> Ticking:
    return Ticking()


@pytest.fixture
def hand(memory: Path, clock: Ticking) -> Iterator[Hand]:
    """Of a folder in memory with 100 files."""
    for n in range(100):
        (memory / f"{n}").write_bytes(b"content")
    hand = Hand(lambda: Folder(path=memory), clock)
    yield hand
    hand.stop()


def fetch(hand: Hand) -> tuple[InlineRoom, Any, list[object]]:
    """The first entries: the room for them, the answer, and what comes of it."""
    room, outcome = InlineRoom(ROOM), list[object]()
    answer = hand.call("fetch_dir", room, hand.call("open_dir", ROOT, b""), 0)
    answer.then(outcome.append) if isinstance(answer, Later) else outcome.append(answer)
    return room, answer, outcome


def entries_of(room: InlineRoom, count: object) -> list[Fetched]:
    return list(unpack_fetched(room.filled(count)))


async def test_what_is_at_hand_is_answered_at_once(hand: Hand) -> None:
    room, count, _ = fetch(hand)
    assert len(entries_of(room, count)) == 100


async def test_what_takes_longer_than_a_turn_goes_on_in_the_next_ones_and_ends_in_time(
    hand: Hand, clock: Ticking
) -> None:
    def other() -> None:
        others.append(hand.call("stat", ROOT, b"1")[0])
        if not outcome:
            clock.call_later(0, other)

    for tick, least, most in ((0.0002, 10, 60), (1.0, 1, 1)):  # two looks for each entry
        clock.tick, others = tick, list[int]()
        room, _, outcome = fetch(hand)
        clock.call_later(0, other)
        clock.turn(0)
        seen = entries_of(room, outcome[0])
        assert least <= len(others) and least <= len(seen) <= most and not seen[-1].flags & LAST


async def test_a_reset_ends_it_and_leaves_nothing_open(hand: Hand, clock: Ticking) -> None:
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    clock.tick = 0.0002
    _, answer, outcome = fetch(hand)
    answer.abandon()
    hand.reset()
    clock.turn(1)
    assert isinstance(outcome[0], Reset) and set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# What is not at hand.


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowFiles]:
    with slow_files(tmp_path) as files:
        yield files


async def test_a_folder_that_answers_late_holds_up_nobody(slow: SlowFiles) -> None:
    await asyncio.to_thread((slow.folder / "file").write_bytes, b"late")
    async with serving(slow.folder.parent, path="slow") as host, guestd.attach(host.socket) as guest:
        files = await guest.bind("files")
        assert isinstance(files, FolderDriver)
        slow.hold(READ)
        fetching = asyncio.ensure_future(fetched(files))
        await until(lambda: slow.waits(READ))
        await guest.nop()
        assert not fetching.done()
        slow.release()
        assert (await fetching)[b"file"].data == b"late"


@pytest.mark.spec("FLD-11")
@pytest.mark.parametrize(
    ("op", "number", "flags"), [(READ, errno.EIO, STAT), (OPEN, errno.EACCES, STAT), (LOOKUP, errno.ESTALE, Flag(0))]
)
async def test_what_cannot_be_read_comes_without(slow: SlowFiles, op: int, number: int, flags: Flag) -> None:
    slow._add(1, b"bad", stat.S_IFREG | 0o640)
    slow._add(1, b"folder", stat.S_IFDIR | 0o755)
    slow._nodes[2].data += b"content"
    async with shared(slow.folder.parent, path="slow") as files:
        slow.fail(op, number)
        found = await fetched(files)
        slow.fail(op, 0)
        assert (found[b"bad"].flags, found[b"bad"].kind, found[b"bad"].data) == (flags, Kind.FILE, b"")
        if not flags:
            assert found[b"bad"][2:5] == (0, 0, 0) and found[b"folder"].kind == Kind.FOLDER
        assert (await fetched(files))[b"bad"].data == b"content"


@pytest.mark.spec("FLD-11")
@pytest.mark.parametrize("now", [b"", b"shor", b"longer"])
async def test_a_file_that_shrinks_or_grows_while_it_is_read_comes_without(slow: SlowFiles, now: bytes) -> None:
    slow._add(1, b"file", stat.S_IFREG | 0o640)
    data = slow._nodes[2].data
    data += b"short"
    async with shared(slow.folder.parent, path="slow") as files:
        slow.hold(READ)
        copying = asyncio.ensure_future(copy_out(files, "", slow.folder.parent / "out"))
        fetching = asyncio.ensure_future(fetched(files))
        await until(lambda: len(slow._waiting) == 2)
        data[:] = now
        slow.release()
        entry = (await fetching)[b"file"]
        assert (entry.size, entry.flags & ~LAST, entry.data) == (5, STAT, b"")
        await copying
    assert await asyncio.to_thread((slow.folder.parent / "out/file").read_bytes) == now


async def test_a_file_that_is_cut_and_written_all_the_time_never_comes_torn(memory: Path) -> None:
    (memory / "share").mkdir()
    path, over = memory / "share/file", threading.Event()
    path.write_bytes(b"x" * 5000)

    def rewrite() -> None:
        while not over.is_set():
            path.write_bytes(b"x" * 5000)

    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        async with shared(memory) as files:
            for _ in range(300):
                entry = (await fetched(files))[b"file"]
                assert len(entry.data) == (entry.size if entry.flags & DATA else 0) and not entry.data.strip(b"x")
    finally:
        over.set()
        thread.join()
