"""Many files that are stored in a folder at once."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from moving import Hand, until
from raw import memory_of
from sharing import Ticking, attached, open_files, serving, shared
from slow_files import CREATE, SlowFiles, slow_files

from guestd.commands.trees import copy_in, copy_out
from guestd.drivers.folder import FolderDriver
from hcall.errors import BadArgument, HcallError, NoSpace, NotAllowed, ReadOnly, StaleHandle
from hcall.formats.folder import ROOT, Stored, pack_stored
from hostd.devices.folder import Folder
from hostd.model.later import settled


async def stored(files: FolderDriver, number: int, packed: bytes) -> int:
    """How many bytes of *packed* the host takes."""
    with files.dev.ram.alloc(max(1, len(packed))) as buffer:
        buffer.view[:] = packed or b"\0"
        return await files.store_files(number, buffer.part(0, len(packed)))


async def in_pieces(files: FolderDriver, number: int, packed: bytes) -> int:
    """The same from two pieces of memory."""
    with files.dev.ram.alloc(len(packed)) as buffer:
        buffer.view[:] = packed
        count: int = await files.dev.call(
            files.number("store_dir"), (number,), buffer.part(0, 10).data + buffer.part(10, len(packed) - 10).data
        )
        return count


@pytest.mark.spec("FLD-12")
async def test_files_are_made_or_written_anew_with_the_permissions_of_new_ones(folder: Path) -> None:
    share = folder / "share"
    (share / "sub").mkdir(parents=True)
    (share / "sub/old").write_bytes(b"longer than the new one")
    (share / "sub/old").chmod(0o600)
    files_in = [
        Stored(0o755, b"run", os.urandom(100_000)), Stored(0o640, b"old", b"new"), Stored(0o644, b"\xff\n", b""),
        Stored(0o444, b".hidden", b"x"),
    ]  # fmt: skip
    async with shared(folder) as files:
        opened = await files.open_dir("sub")
        packed = pack_stored(files_in)
        done = 0
        while done < len(packed):
            done += await stored(files, opened.number, packed[done:])
        assert await in_pieces(files, opened.number, pack_stored([Stored(0o644, b"pieces", b"y" * 5000)])) == 5013
        assert await files.read_bytes("sub/pieces") == b"y" * 5000
        assert await stored(files, opened.number, b"") == 0
    for mode, name, data in files_in:
        path = share / "sub" / os.fsdecode(name)
        assert path.read_bytes() == data
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if name == b"old" else mode)


@pytest.mark.spec("FLD-12")
async def test_what_comes_before_an_error_is_made_and_the_error_is_told_of_the_first(folder: Path) -> None:
    share = folder / "share"
    share.mkdir()
    (share / "folder").mkdir()
    os.mkfifo(share / "pipe")
    pipe = os.open(share / "pipe", os.O_RDONLY | os.O_NONBLOCK)  # whoever writes need not wait for a reader
    (share / "link").symlink_to("../outside")
    good = pack_stored([Stored(0o644, b"good", b"content")])
    async with shared(folder) as files:
        opened = await files.open_dir()
        for name, error, why in [
            (b"folder", BadArgument, "'folder' is a folder"), (b"pipe", NotAllowed, "'pipe' is neither"),
            (b"link", NotAllowed, "'link' leads through"),
        ]:  # fmt: skip
            bad = pack_stored([Stored(0o644, name, b"x")])
            assert await stored(files, opened.number, good + bad + good) == len(good)
            with pytest.raises(error, match=why):
                await stored(files, opened.number, bad + good)
        for packed in (
            pack_stored([Stored(0o644, b"../evil", b"x")]), pack_stored([Stored(0o644, b"..", b"x")]), good[:-1], b"x",
            b"\xff\x0f" + good[2:],
        ):  # fmt: skip
            with pytest.raises(BadArgument):
                await stored(files, opened.number, packed)
            assert await stored(files, opened.number, good + packed) == len(good)
        file = await files.open("good")
        with pytest.raises(BadArgument):
            await stored(files, file.number, good)
    assert os.read(pipe, 1) == b""
    os.close(pipe)
    assert {path.name for path in share.iterdir()} == {"good", "folder", "pipe", "link"}
    assert not (folder / "evil").exists() and not (folder / "outside").exists()


@pytest.mark.spec("FLD-13")
async def test_a_folder_that_is_moved_away_is_out_of_reach_for_who_has_it_open(folder: Path) -> None:
    share = folder / "share"
    (share / "sub").mkdir(parents=True)
    (share / "sub/x").write_bytes(b"x")
    async with shared(folder) as files:
        opened = await files.open_dir("sub")
        await files.rename("sub", "other")
        assert await stored(files, opened.number, pack_stored([Stored(0o644, b"y", b"y")]))
        (share / "other").rename(folder / "away")
        with pytest.raises(StaleHandle, match="moved away"):
            await stored(files, opened.number, pack_stored([Stored(0o644, b"z", b"z")]))
        with files.dev.ram.alloc(4096) as buffer, pytest.raises(StaleHandle, match="moved away"):
            await opened.fetch(buffer)
    assert {path.name for path in (folder / "away").iterdir()} == {"x", "y"}


@pytest.mark.spec("FLD-8")
async def test_nothing_is_stored_where_nothing_may_change(folder: Path) -> None:
    async with shared(folder, read_only=True) as files:
        opened = await files.open_dir()
        with pytest.raises(ReadOnly):
            await stored(files, opened.number, pack_stored([Stored(0o644, b"x", b"x")]))
    assert not list((folder / "share").iterdir())


async def test_what_does_not_fit_is_told_and_what_came_before_is_there(folder: Path) -> None:
    source = folder / "source"
    source.mkdir()
    for n in range(5):
        (source / str(n)).write_bytes(bytes(1000 if n < 4 else 60_000))
    async with shared(folder) as files:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        try:
            with pytest.raises(NoSpace, match="'4' would be too large"):
                await copy_in(files, source, "in")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        made = [item.name for item in await files.listdir("in") if item.name != "4"]
        assert [(await files.stat(f"in/{name}")).size for name in made] == [1000] * len(made)


async def test_one_call_ends_in_time(memory: Path) -> None:
    clock = Ticking()
    hand = Hand(lambda: Folder(path=memory), clock)
    packed = [pack_stored([Stored(0o644, f"{n}".encode(), b"x")]) for n in range(100)]
    number = hand.call("open_dir", ROOT, b"")
    for tick, count in ((1.0, 1), (0.0, 100)):
        clock.tick = tick
        later = hand.call("store_dir", memory_of().data((b"".join(packed),)), number)
        assert await settled(later) == sum(map(len, packed[:count]))
        assert len(os.listdir(memory)) == count  # noqa: PTH208
    hand.stop()


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowFiles]:
    with slow_files(tmp_path) as files:
        yield files


async def test_a_folder_that_takes_long_holds_up_nobody_and_a_reset_ends_it_between_two_files(slow: SlowFiles) -> None:
    packed = pack_stored([Stored(0o644, f"{n}".encode(), b"x") for n in range(100)])
    async with serving(slow.folder.parent, path="slow") as host:
        async with attached(host) as files:
            opened = await files.open_dir()
            slow.hold(CREATE)
            storing = asyncio.ensure_future(stored(files, opened.number, packed))
            await until(lambda: slow.waits(CREATE))
            assert (await files.stat("")).kind == 1  # the loop goes on
            assert not storing.done()
            await host.unplug("/files", surprise=True)
            slow.release()
            with pytest.raises(HcallError):
                await storing
        await until(lambda: not any("slow" in path for path in open_files()))
    assert len(await asyncio.to_thread(os.listdir, slow.folder)) < 100


OLD = """
from hostd.devices.folder import Folder

class Old(Folder):
    store_dir = None
"""


@pytest.mark.parametrize("is_old", [False, True])
async def test_a_tree_is_copied_in_with_all_that_it_has(tmp_path: Path, is_old: bool) -> None:
    (tmp_path / "old.py").write_text(OLD)
    source = tmp_path / "source"
    (source / "sub/deep").mkdir(parents=True)
    (source / "empty").mkdir()
    sizes = {"small": 10, "sub/largest": 65536, "sub/large": 65537, "sub/deep/none": 0, "sub/deep/.hidden": 3}
    for name, size in sizes.items():
        (source / name).write_bytes(os.urandom(size))
    for n in range(30):  # more than one call takes
        (source / f"sub/{n}").write_bytes(bytes([n]) * 20_000)
    (source / "sub/link").symlink_to("small")
    (source / os.fsdecode(b"\xff")).write_bytes(b"odd")
    (source / "small").chmod(0o751)
    async with shared(tmp_path, model="old.py:Old" if is_old else "folder") as files:
        assert files.stores is not is_old
        copied = await copy_in(files, source, "in")
        assert copied.left_out == ["sub/link"] and copied.files == 36
        await copy_out(files, "in", tmp_path / "back")
        files.dev.ram.alloc(files.dev.ram.first.size).free()  # all memory is given back
    for path in source.rglob("*"):
        for copy in (tmp_path / "share/in", tmp_path / "back"):
            there = copy / path.relative_to(source)
            if path.is_symlink():
                assert not there.exists()
            elif path.is_dir():
                assert there.is_dir()
            else:
                assert there.read_bytes() == path.read_bytes()
                assert stat.S_IMODE(there.stat().st_mode) == stat.S_IMODE(path.stat().st_mode)
