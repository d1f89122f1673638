"""The shared folder at work: trees of real files in and out, by drivers and by the command; guests that vanish."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import pytest
import uvloop
from sharing import attached, open_files, serving, shared

import guestd
from guestd.commands.trees import Copied, copy_in, copy_out
from hcall.errors import IoError, NotAllowed, Reset, StaleHandle
from hcall.formats.folder import Access, Kind
from hostd import MachineError
from hostd.backings.parts.pieces import PART

FILES = 5000


def library() -> Iterator[Path]:
    """The files of Python's library and of what is installed beside it, none of them large."""
    paths = dict.fromkeys(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib", "include"))
    for path in chain.from_iterable(Path(each).rglob("*") for each in paths):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < 64 * 1024:
            yield path


def checksums(folder: Path) -> dict[str, tuple[str, int]]:
    """Of each file; and its permissions."""
    return {
        str(path.relative_to(folder)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mode & 0o777)
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def test_a_tree_of_5000_real_files_is_copied_in_and_out_and_all_checksums_are_the_same(memory: Path) -> None:
    source, back = memory / "source", memory / "back"
    for path in islice(library(), FILES):
        target = source / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (source / "empty").mkdir()
    total = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())

    async def both_ways() -> None:
        async with shared(memory) as files:
            copied = await copy_in(files, source, "tree")
            assert copied.files == FILES and not copied.left_out
        async with shared(memory) as files:
            copied = await copy_out(files, "tree", back)
            assert (copied.files, copied.bytes) == (FILES, total)

    uvloop.run(both_ways())
    before = checksums(source)
    assert len(before) == FILES
    assert checksums(memory / "share" / "tree") == before == checksums(back)
    assert (back / "empty").is_dir()


def test_the_command_copies_as_cp_does(tmp_path: Path) -> None:
    source, share = tmp_path / "source", tmp_path / "share"
    (source / "sub").mkdir(parents=True)
    share.mkdir()
    (source / "sub" / "run").write_bytes(os.urandom(1_000_000))
    (source / "sub" / "run").chmod(0o755)
    (source / "link").symlink_to("/etc/passwd")
    os.mkfifo(source / "pipe")
    (tmp_path / "machine.toml").write_text('[devices.files]\nmodel = "folder"\npath = "share"\ntag = "stuff"\n')

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        host = [sys.executable, "-m", "hostd", "run", "machine.toml", "--", sys.executable, "-m", "guestd"]
        return subprocess.run([*host, *command], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    done = run("copy", "source", "stuff:/new")
    assert done.returncode == 0 and "1 file of 1000000 bytes" in done.stderr
    assert "'link' is left out" in done.stderr and "'pipe' is left out" in done.stderr
    assert run("copy", "source", "files:new").returncode == 0  # it is there now: a copy below it
    assert run("copy", "files:", "all").returncode == 0
    assert run("copy", "files:new/sub/run", ".").returncode == 0
    before = checksums(source)
    for copy in (share / "new", tmp_path / "all" / "new"):
        found = checksums(copy)
        assert {name: found[name] for name in before} == before
        assert checksums(copy / "source") == before
    assert (tmp_path / "run").read_bytes() == (source / "sub" / "run").read_bytes()
    for command, code, why in [
        (("source", "other:/x"), 4, "no shared folder 'other'; there are: files"),
        (("source", "target"), 2, "one of the two"),
        (("files:none", "x"), 4, "'none' is not there"),
        (("none", "files:x"), 1, "none"),
        (("files:new/sub/run", "/dev/full"), 1, "/dev/full: No space left"),
    ]:
        done = run("copy", *command)
        assert (done.returncode, why in done.stderr) == (code, True), done.stderr


def test_a_copy_ends_when_its_folder_is_unplugged(tmp_path: Path) -> None:
    (tmp_path / "machine.toml").write_text('[devices.files]\nmodel = "folder"\npath = "share"\ncreate = true\n')
    os.mkfifo(tmp_path / "pipe")  # the shell goes on when it is being copied
    script = f"""{sys.executable} -m guestd copy pipe files:x &
                 {sys.executable} -m hostd unplug files --surprise > pipe
                 wait $!"""
    command = [sys.executable, "-m", "hostd", "run", "machine.toml", "--", "sh", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "guestd: files was unplugged\n" in done.stderr) == (4, True), done.stderr


async def test_a_tag_is_of_one_folder_at_a_time(tmp_path: Path) -> None:
    again = {"model": "folder", "path": str(tmp_path / "share"), "tag": "stuff"}
    async with serving(tmp_path, tag="stuff") as host:
        with pytest.raises(MachineError, match="stuff: the tag of another folder"):
            host.plug_table("again", again)
        before = host.tree.find("/files")  # kept, as by a reload
        await host.unplug("/files")
        assert before.path != host.plug_table("again", again).path


async def test_links_of_the_host_are_seen_and_left_out(tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    (share / "link").symlink_to("../../etc/passwd")
    (share / "x").write_bytes(b"x")
    async with shared(tmp_path) as files:
        assert await files.readlink("link") == "../../etc/passwd"
        assert (await files.stat("link")).kind == Kind.LINK
        copied = await copy_out(files, "", tmp_path / "out")
        with pytest.raises(NotAllowed):
            await copy_out(files, "link", tmp_path / "link")
    assert copied.left_out == ["link"] and [path.name for path in (tmp_path / "out").iterdir()] == ["x"]


LYING = """
from hostd.device import Room
from hostd.devices.folder import Folder
from hcall.formats.folder import Entry, Fetched, pack, pack_fetched

class Lying(Folder):
    def read_dir(self, into: Room, file: int, cookie: int) -> int:
        return into.put(pack([Entry(1, 1, 0, NAME)]))

    def fetch_dir(self, into: Room, file: int, cookie: int) -> int:
        return into.put(pack_fetched([Fetched(1, 1, 4, 0, 0o644, 0, FLAGS, NAME, b"evil"[:2 * FLAGS - 2])]))
"""


@pytest.mark.parametrize("flags", [1, 3])
@pytest.mark.parametrize("name", [b"../evil", b"..", b"", b"a/b", b"x\0"])
async def test_a_host_that_lists_names_that_are_none_gets_nothing_written(
    tmp_path: Path, name: bytes, flags: int
) -> None:
    (tmp_path / "lying.py").write_text(LYING.replace("NAME", repr(name)).replace("FLAGS", str(flags)))
    async with shared(tmp_path, model="lying.py:Lying") as files:
        with pytest.raises(IoError, match="lists what it must not"):
            await copy_out(files, "", tmp_path / "out")
        with pytest.raises(IoError, match="lists what it must not"):
            await files.listdir()
    assert not list((tmp_path / "out").iterdir()) and not (tmp_path / "evil").exists()


OLD = """
from hostd.devices.folder import Folder

class Old(Folder):
    fetch_dir = None
"""


async def test_a_host_that_has_no_sweep_yet_is_copied_from_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "old.py").write_text(OLD)
    (tmp_path / "share/sub").mkdir(parents=True)
    (tmp_path / "share/sub/x").write_bytes(b"content")
    async with shared(tmp_path, model="old.py:Old") as files:
        assert "fetch_dir" not in files.dev.calls
        assert (await copy_out(files, "", tmp_path / "out")).files == 1
    assert (tmp_path / "out/sub/x").read_bytes() == b"content"


async def test_what_is_copied_over_is_replaced_and_what_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "share/sub").mkdir(parents=True)
    (tmp_path / "share/sub/x").write_bytes(b"new")
    (tmp_path / "out/sub").mkdir(parents=True)
    (tmp_path / "out/sub/x").write_bytes(b"longer than that")
    (tmp_path / "out/sub/y").write_bytes(b"stays")
    async with shared(tmp_path) as files:
        await copy_out(files, "", tmp_path / "out")
        assert [(tmp_path / "out/sub" / name).read_bytes() for name in "xy"] == [b"new", b"stays"]
        (tmp_path / "out/sub/x").unlink()
        (tmp_path / "out/sub/x").mkdir()
        with pytest.raises(IsADirectoryError, match="out/sub/x"):
            await copy_out(files, "", tmp_path / "out")
        (tmp_path / "out/full").symlink_to("/dev/full")
        (tmp_path / "share/full").write_bytes(b"x")
        with pytest.raises(OSError, match=r"No space left on device: .*out/full"):
            await copy_out(files, "", tmp_path / "out")


@pytest.mark.parametrize("is_broken_off", [False, True])
async def test_a_copy_gives_its_memory_back_however_it_ends(tmp_path: Path, is_broken_off: bool) -> None:
    share = tmp_path / "share"
    share.mkdir()
    for number in range(40):
        (share / str(number)).write_bytes(bytes([number]) * 300_000)
    async with shared(tmp_path) as files:

        def moved(count: int) -> None:
            if is_broken_off and count > 4096:
                raise NotAllowed("that is enough")

        copying = copy_out(files, "", tmp_path / "out", Copied(moved=moved))
        with pytest.raises(NotAllowed, match="enough") if is_broken_off else contextlib.nullcontext():
            await copying
        await files.stat("")  # the reads that were under way are answered, too
        files.dev.ram.alloc(files.dev.ram.first.size).free()
    if not is_broken_off:
        assert all((tmp_path / "out" / str(n)).read_bytes() == bytes([n]) * 300_000 for n in range(40))


async def test_the_same_driver_on_the_blocking_client(tmp_path: Path) -> None:
    def blocking(path: Path) -> list[str]:
        with guestd.attach_blocking(path) as guest:
            files = guest["files"]
            files.mkdir("d")
            files.write_bytes("d/x", bytes(100_000))
            assert files.read_bytes("d/x") == bytes(100_000)
            return [name for name, _ in files.walk_tree()]

    async with serving(tmp_path) as host:
        assert await asyncio.to_thread(blocking, host.socket) == ["d", "d/x"]


async def test_a_guest_that_vanishes_while_it_writes_leaves_what_was_answered_and_nothing_open(tmp_path: Path) -> None:
    script = """
import os, sys, guestd
from hcall.formats.folder import Access
with guestd.attach_blocking(sys.argv[1]) as guest:
    files = guest.bind("files")
    file = guest.run(files.open("x", Access.WRITE | Access.CREATE))
    guest.run(file.write_all(b"answered"))
    buffer = guest.ram.alloc(32 << 20)
    buffer.view[:] = bytes(32 << 20)
    guest.call(files.dev.handle, files.number("write_file"), (file.number, 8), buffer.data)
    guest.wait(0)  # it is sent
    os.kill(os.getpid(), 9)
"""
    async with serving(tmp_path) as host:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, host.socket)
        assert await process.wait() == -9
        await host.guests.wait_for(lambda: not host.guests.by_token)
        await host.closed(host.tree.find("/files"))  # a worker may have been at it
        async with attached(host) as files:
            content = await files.read_bytes("x")
            assert content[:8] == b"answered" and not any(content[8:])
            await files.unlink("x")
    assert not [path for path in open_files() if "share/x" in path]


@pytest.mark.parametrize("surprise", [False, True])
async def test_unplugging_closes_what_is_open_and_keeps_what_was_written(tmp_path: Path, surprise: bool) -> None:
    async with serving(tmp_path) as host, attached(host) as files:
        file = await files.open("x", Access.WRITE | Access.CREATE)
        await file.write_all(b"kept")
        assert any("share/x" in path for path in open_files())
        await host.unplug("/files", surprise=surprise)
        with pytest.raises((StaleHandle, Reset)):
            await file.write_all(b"lost")
        assert not any("share" in path for path in open_files())
    assert (tmp_path / "share/x").read_bytes() == b"kept"


async def test_a_file_that_is_closed_while_a_worker_reads_it_is_read_to_the_end_or_not_at_all(tmp_path: Path) -> None:
    """Its descriptor is not closed under the worker: the next file would have its number."""
    content, size = b"ours" * (1 << 19), 2 << 20
    async with shared(tmp_path) as files:
        await files.write_bytes("ours", content)
        await files.write_bytes("other", b"not!" * (1 << 19))
        for _ in range(20):
            file = await files.open("ours")
            with files.dev.ram.alloc(size) as buffer:  # so much goes to a worker
                reading = asyncio.ensure_future(file.read_into(buffer, 0))
                closing = asyncio.ensure_future(file.close())
                others = [asyncio.ensure_future(files.open("other")) for _ in range(4)]
                try:
                    count = await reading
                except StaleHandle:
                    count = 0
                assert count in (0, PART) and bytes(buffer.view[:count]) == content[:count]
                await closing
                for other in others:
                    await (await other).close()


def test_a_machine_file_says_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    async def start(**config: object) -> None:
        async with serving(tmp_path, **config):
            pass

    for config, why in [
        ({"path": "none"}, "No such file.*; create = true would make it"),
        ({"path": "file"}, "Not a directory"),
        ({"path": "file", "create": True}, "Not a directory"),
        ({"tag": "x" * 37}, "is no tag"),
        ({"tag": "a\nb"}, "is no tag"),
    ]:
        with pytest.raises(Exception, match=why):
            uvloop.run(start(**config))
    uvloop.run(start(path="made/deep", create=True))
    assert (tmp_path / "made/deep").is_dir()
