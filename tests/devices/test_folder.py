"""The shared folder with its driver, on real files of a disk and of memory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sharing import attached, fetched, serving, shared

import guestd
from guestd.drivers.folder import FolderDriver
from hcall.errors import (
    BadArgument,
    BadHandle,
    Busy,
    HcallError,
    IoError,
    NoMatch,
    NoSpace,
    NotAllowed,
    ReadOnly,
    StaleHandle,
)
from hcall.formats.folder import ROOT, Access, Flag, Kind, unpack


def made(files: FolderDriver, name: str, *args: int | bytes, areas: tuple[int, ...] = ()) -> Awaitable[Any]:
    """A call as it is."""
    return files.dev.call(files.number(name), args, areas)


async def test_what_a_guest_does_to_files_is_done_to_the_hosts(folder: Path) -> None:
    share = folder / "share"
    async with shared(folder) as files:
        assert files.tag == "files" and not files.read_only
        await files.mkdir("/a", 0o750)
        await files.write_bytes("a/b", b"hello", 0o640)
        assert (share / "a/b").read_bytes() == b"hello" == await files.read_bytes("a/b")
        assert stat.S_IMODE((share / "a").stat().st_mode) == 0o750
        about, real = await files.stat("a/b"), (share / "a/b").stat()
        assert about == (Kind.FILE, real.st_ino, 5, 0o640, real.st_mtime_ns)
        await files.chmod("a/b", 0o600)
        await files.utime("a/b", 10**18, 10**18 + 1)
        real = (share / "a/b").stat()
        assert (stat.S_IMODE(real.st_mode), real.st_atime_ns, real.st_mtime_ns) == (0o600, 10**18, 10**18 + 1)
        await files.rename("a/b", "c")
        listed = {(item.name, item.kind, item.id) for item in await files.listdir()}
        assert listed == {("a", Kind.FOLDER, (share / "a").stat().st_ino), ("c", Kind.FILE, about.id)}
        await files.rmdir("a")
        await files.unlink("c")
        await files.sync()
    assert not list(share.iterdir())


@pytest.mark.spec("FLD-7")
async def test_a_file_is_read_and_written_anywhere_and_cut(folder: Path) -> None:
    content = os.urandom(3 << 20)
    async with shared(folder) as files:
        await files.write_bytes("big", content)
        file = await files.open("big", Access.READ | Access.WRITE)
        assert file.size == len(content) and await file.read_all() == content
        await file.write_all(b"middle", 1 << 20)
        await file.truncate(2 << 20)
        await file.sync()
        expected = content[: 1 << 20] + b"middle" + content[(1 << 20) + 6 : 2 << 20]
        assert await files.read_bytes("big") == expected == (folder / "share/big").read_bytes()
        assert await file.read(10, 2 << 20) == await file.read(10, 1 << 50) == b""  # the end
        await file.write_all(b"!", 3 << 20)  # leaves a hole
        assert await file.read(4096, (3 << 20) - 4095) == bytes(4095) + b"!"
        for at in (-1, -(1 << 63)):
            with pytest.raises(BadArgument, match="before the beginning"):
                await file.read(1, at)
        for at in ((1 << 63) - 1, (1 << 64) - 1):
            with pytest.raises((BadArgument, NoSpace)):
                await file.write_all(b"x", at)
        await files.write_bytes("big", b"")
        assert await file.read_all() == b""  # TRUNCATE is of the file, not of who has it open
        await file.close()


@pytest.mark.parametrize("name", [b"\xff\xfe", b"new\nline", "ä€😀".encode(), b" ", b"-rf", b"x" * 255, b"a:b", b"\\"])
async def test_a_name_is_any_bytes(folder: Path, name: bytes) -> None:
    async with shared(folder) as files:
        await files.write_bytes(name, name)
        (item,) = await files.listdir()
        assert os.fsencode(item.name) == name and await files.read_bytes(item.name) == name
    assert os.listdir(os.fsencode(folder / "share")) == [name]  # noqa: PTH208  # as bytes


BAD_NAMES = [b"..", b".", b"a/../b", b"a/./b", b"a//b", b"a/..", b"../share", b"x\0y", b"x" * 256, b"d/" + b"y" * 256]


@pytest.mark.parametrize("name", [*BAD_NAMES, b"/etc", b"a/", b"a/" * 2047 + b"ab"])
@pytest.mark.spec("FLD-1")
async def test_what_is_no_name_is_refused_by_every_call(folder: Path, name: bytes) -> None:
    async with shared(folder) as files:
        call, number = files.dev.call, files.number
        for what, args in {
            "walk": (), "stat": (), "open_file": (1, 0), "open_dir": (), "make_dir": (0o700,), "unlink": (),
            "remove_dir": (), "rename": (ROOT, b"x"), "chmod": (0o600,), "utimens": (0, 0),
        }.items():  # fmt: skip
            with pytest.raises(BadArgument, match="no name" if len(name) < 4096 else "a path has"):
                await call(number(what), (ROOT, name, *args))
        with pytest.raises(BadArgument, match="no name" if len(name) < 4096 else "a path has"):
            await call(number("rename"), (ROOT, b"x", ROOT, name))
        with pytest.raises(BadArgument, match="no name" if len(name) < 4096 else "a path has"):
            await call(number("read_link"), (ROOT, name), (100,))
    assert not list((folder / "share").iterdir())


@pytest.mark.spec("FLD-4")
async def test_what_cannot_be_done_says_why_and_changes_nothing(folder: Path) -> None:
    share = folder / "share"
    async with shared(folder) as files:
        (share / "full").mkdir()
        (share / "full" / "file").write_bytes(b"x")
        create = Access.WRITE | Access.CREATE
        for work, error, why in [
            (files.stat("none"), NoMatch, "'none' is not there"),
            (files.listdir("none"), NoMatch, "not there"),
            (files.open("none/new", create), NoMatch, "not there"),
            (files.mkdir("full"), NotAllowed, "there already"),
            (files.open("full/file", create | Access.EXCLUSIVE), NotAllowed, "there already"),
            (files.rmdir("full"), NotAllowed, "not empty"),
            (files.rmdir("full/file"), BadArgument, "no folder"),
            (files.unlink("full"), (BadArgument, NotAllowed), r"is a folder|not permitted"),
            (files.read_bytes("full"), BadArgument, "a folder"),
            (files.listdir("full/file"), BadArgument, "no folder"),
            (files.stat("full/file/x"), BadArgument, "no folder"),
            (files.stat("x/" * 2048 + "x"), BadArgument, "a path has 4095 bytes at most, not 4097"),
            (files.open("full", create), BadArgument, "a folder"),
            (files.rename("full", "full/inside"), BadArgument, "cannot be used so"),
            (files.rename("none", "other"), NoMatch, "not there"),
            (files.rename("full/file", "none/new"), NoMatch, "'full/file' or 'none/new' is not there"),
            (files.rename("full/file", "full"), (BadArgument, NotAllowed), r"folder|empty"),
            (files.mkdir(""), BadArgument, "a name is missing"),
            (files.rmdir(""), BadArgument, "a name is missing"),
            (files.rename("", "x"), BadArgument, "a name is missing"),
            (files.chmod("full/file", 0o4755), BadArgument, "0 to 0o777"),
            (files.mkdir("x", 0o2777), BadArgument, "0 to 0o777"),
            (files.open("x", create, 0o6777), BadArgument, "0 to 0o777"),
            (files.open("full/file", Access(0)), BadArgument, "READ"),
            (files.open("full/file", Access.READ | Access.CREATE), BadArgument, "WRITE"),
            (files.readlink("full/file"), BadArgument, "no symbolic link"),
        ]:
            with pytest.raises(error, match=why):
                await work
        assert await files.read_bytes("full/file") == b"x"
        file = await files.open("full/file")
        with pytest.raises(BadArgument, match="'full/file' was not opened for that"):
            await file.write_all(b"y")
        with pytest.raises(HcallError):
            await file.truncate(0)
        with pytest.raises(BadArgument):
            await made(files, "read_dir", file.number, 0, areas=(4096,))
    assert (share / "full/file").read_bytes() == b"x" and len(list(share.iterdir())) == 1


@pytest.mark.spec("FLD-2")
async def test_a_node_goes_with_its_folder_when_the_guest_renames_it_and_is_stale_when_the_host_does(
    folder: Path,
) -> None:
    share = folder / "share"
    async with shared(folder) as files:
        await files.mkdir("a")
        await files.mkdir("a/b")
        await files.write_bytes("a/b/file", b"x")
        outer, kind = await files.walk(ROOT, b"a")
        inner, _ = await files.walk(outer, b"b")
        leaf, leaf_kind = await files.walk(inner, b"file")
        assert (kind, leaf_kind) == (Kind.FOLDER, Kind.FILE)
        await files.rename("a", "z")
        assert (await files.stat("", leaf)).size == (await files.stat("file", inner)).size == 1
        assert [item.name for item in await files.listdir("", outer)] == ["b"]
        (share / "z").rename(share / "y")
        for node in (outer, inner, leaf):
            with pytest.raises(StaleHandle, match="removed, or moved"):
                await files.stat("", node)
        (share / "z" / "b").mkdir(parents=True)  # another folder of the same name
        with pytest.raises(StaleHandle, match="another file now"):
            await files.stat("file", inner)
        await files.forget(outer)
        with pytest.raises(StaleHandle, match="no node"):
            await files.walk(outer, b"b")
        for never in (99, -1):
            with pytest.raises(BadHandle, match="never was"):
                await files.stat("", never)


async def test_of_many_that_make_a_file_at_once_those_that_are_refused_make_none(folder: Path) -> None:
    async with shared(folder) as files:
        await files.write_bytes("x", b"x")
        for _ in range(60):
            await files.open("x")
        opened = await asyncio.gather(
            *(files.open(f"{n}", Access.WRITE | Access.CREATE) for n in range(40)), return_exceptions=True
        )
        assert sum(isinstance(each, Busy) for each in opened) == 36
        made = [n for n, each in enumerate(opened) if not isinstance(each, BaseException)]
        assert sorted(path.name for path in (folder / "share").iterdir()) == sorted(["x", *map(str, made)])


@pytest.mark.spec("FLD-5", "FLD-9")
async def test_open_files_and_nodes_are_bounded_and_none_has_the_number_of_another(folder: Path) -> None:
    async with serving(folder) as host:
        async with attached(host) as files:
            await files.write_bytes("x", b"x")
            opened = [await files.open("x") for _ in range(64)]
            for work in (files.open("x"), files.listdir(), files.write_bytes("new", b"")):
                with pytest.raises(Busy, match="64"):
                    await work
            assert not (folder / "share/new").exists()
            await opened[5].close()
            with pytest.raises(StaleHandle, match="any more"):
                await opened[5].close()
            with pytest.raises(StaleHandle):
                await opened[5].read(1, 0)
            with pytest.raises(BadHandle):
                await made(files, "close_file", 1 << 60)
            nodes = [(await files.walk(ROOT, b"x"))[0] for _ in range(1024)]
            with pytest.raises(Busy, match="1024"):
                await files.walk(ROOT, b"x")
            await files.forget(nodes[3])
            numbers = {*nodes, (await files.walk(ROOT, b"x"))[0]}
            assert len(numbers) == 1025
        async with attached(host) as files:  # what the first guest had open is closed, and none of the second's
            for number in (opened[0].number, opened[-1].number):
                with pytest.raises(StaleHandle):
                    await made(files, "read_file", number, 0, areas=(1,))
            with pytest.raises(StaleHandle):
                await files.stat("", nodes[0])


async def test_it_belongs_to_one_guest_at_a_time(folder: Path) -> None:
    async with serving(folder, tag="my files") as host, attached(host) as files, guestd.attach(host.socket) as other:
        assert files.tag == "my files"
        with pytest.raises(Busy):
            await other.bind("files")


@pytest.mark.spec("FLD-8")
async def test_a_read_only_folder_is_read_and_never_changed(folder: Path) -> None:
    (folder / "share").mkdir()
    (folder / "share/x").write_bytes(b"x")
    before = (folder / "share/x").stat()
    async with shared(folder, read_only=True) as files:
        assert files.read_only and await files.read_bytes("x") == b"x"
        for work in (
            files.write_bytes("x", b""), files.write_bytes("y", b""), files.mkdir("d"), files.unlink("x"),
            files.rmdir("d"), files.rename("x", "y"), files.chmod("x", 0), files.utime("x", 0, 0),
            files.open("x", Access.READ | Access.WRITE),
        ):  # fmt: skip
            with pytest.raises(ReadOnly):
                await work
        file = await files.open("x")
        with pytest.raises(HcallError):
            await file.truncate(0)
    after = (folder / "share/x").stat()
    assert (after.st_mtime_ns, after.st_mode, after.st_size) == (before.st_mtime_ns, before.st_mode, 1)


@pytest.mark.spec("FLD-6")
async def test_a_listing_has_what_was_there_throughout_once_whatever_comes_and_goes(folder: Path) -> None:
    share = folder / "share"
    share.mkdir()
    stays = {f"stays-{n}" for n in range(1000)}
    for n, name in enumerate(sorted(stays)):
        (share / name).touch()
        (share / f"goes-{n}").touch()
    async with shared(folder) as files:
        listing = await made(files, "open_dir", ROOT, b"")
        seen: list[str] = []
        cookie = turn = 0
        while data := await made(files, "read_dir", listing, cookie, areas=(4096,)):
            entries = list(unpack(data))
            seen += [entry.name.decode() for entry in entries]
            cookie = entries[-1].cookie
            for n in range(turn * 20, turn * 20 + 20):
                (share / f"goes-{n}").unlink(missing_ok=True)
                (share / f"comes-{n}").touch()
            turn += 1
        assert turn > 5
        there = [name for name in seen if name in stays]
        assert len(there) == len(stays) == len(set(there))
        for wrong in (1 << 62, -5):
            with contextlib.suppress(BadArgument):  # ext4 has hashes for cookies, and takes any
                await made(files, "read_dir", listing, wrong, areas=(4096,))
        with pytest.raises(BadArgument, match="room"):
            await made(files, "read_dir", listing, 0, areas=(100,))


@pytest.mark.spec("FLD-6")
async def test_a_listing_goes_on_behind_any_entry_and_begins_again(folder: Path) -> None:
    (folder / "share").mkdir()
    for n in range(200):
        (folder / "share" / f"{n}").touch()
    async with shared(folder) as files:
        listing = await made(files, "open_dir", ROOT, b"")
        entries = list(unpack(await made(files, "read_dir", listing, 0, areas=(4096,))))
        for n in (100, 3, 50):
            after = unpack(await made(files, "read_dir", listing, entries[n].cookie, areas=(4096,)))
            assert next(after) == entries[n + 1]
        again = list(unpack(await made(files, "read_dir", listing, 0, areas=(4096,))))
        assert again == entries


async def test_a_folder_that_is_removed_says_so_and_is_used_again_by_the_next_guest(folder: Path) -> None:
    share = folder / "share"
    async with serving(folder) as host:
        async with attached(host) as files:
            await files.write_bytes("x", b"kept")
            file = await files.open("x")
            node, _ = await files.walk(ROOT, b"x")
            (share / "x").unlink()
            share.rmdir()
            for work in (
                files.stat(""), files.stat("x"), files.listdir(), files.write_bytes("y", b""), files.mkdir("d"),
                files.stat("", node),
            ):  # fmt: skip
                with pytest.raises(IoError, match="was removed on the host"):
                    await work
            assert await file.read(10, 0) == b"kept"  # who has a file open keeps it
        async with attached(host) as files:
            with pytest.raises(IoError, match="was removed on the host"):
                await files.listdir()
        share.mkdir()
        async with attached(host) as files:
            assert await files.listdir() == []


LEASE = """
import fcntl, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
with open(sys.argv[1]) as file:
    fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    print("leased", flush=True)
    input()
"""


@contextlib.contextmanager
def leased(path: Path) -> Iterator[None]:
    """By a process of its own, as a file server has its clients' files."""
    command = [sys.executable, "-c", LEASE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"leased\n"
        yield
        holder.communicate(b"\n")


async def test_a_file_that_is_leased_to_a_program_of_the_host_is_busy_meanwhile(folder: Path) -> None:
    async with shared(folder) as files:
        await files.write_bytes("x", b"x")
        with leased(folder / "share/x"):
            for access in (Access.READ, Access.WRITE | Access.TRUNCATE):
                with pytest.raises(Busy, match="'x' is leased"):
                    await files.open("x", access)
            entry = (await fetched(files))[b"x"]
            assert entry.flags & Flag.STAT and not entry.flags & Flag.DATA
        assert await files.read_bytes("x") == b"x"


async def test_a_full_host_is_no_space_and_what_fits_is_kept(folder: Path) -> None:
    async with shared(folder) as files:
        await files.write_bytes("x", b"x")
        file = await files.open("x", Access.WRITE)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            with pytest.raises(NoSpace, match="'x' would be too large"):
                await file.write_all(bytes(2 << 20))
            with pytest.raises(NoSpace, match="'x' would be too large"):
                await file.truncate(1 << 21)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        assert (folder / "share/x").stat().st_size == 1 << 20
        await file.write_all(b"again")
        assert (folder / "share/x").read_bytes() == b"again".ljust(1 << 20, b"\0")
