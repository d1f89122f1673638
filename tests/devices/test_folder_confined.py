"""Attacks on a shared folder: by names, by links, by special files, by whoever renames things meanwhile on the host."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sharing import fetched, shared

from guestd.drivers.folder import FolderDriver
from hcall.errors import BadArgument, HcallError, NoMatch, NotAllowed, StaleHandle
from hcall.formats.folder import ROOT, Access, Flag, Kind, unpack

SECRET = b"a secret of the host"
CREATE = Access.WRITE | Access.CREATE | Access.TRUNCATE
_RENAME_EXCHANGE = 2  # linux/fs.h
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A folder that is shared, beside one that is not."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    share = tmp_path / "share"
    (share / "in").mkdir(parents=True)
    (share / "in" / "secret").write_bytes(b"public")
    return share


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder on tmpfs, where many files are no matter."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        Path(name, "share").mkdir()
        yield Path(name)


async def every_way(files: FolderDriver, path: str) -> Iterator[HcallError]:
    """What a guest is told that tries to get at *path*."""
    told = []
    for work in (
        files.read_bytes(path), files.write_bytes(path, b"x"), files.listdir(path), files.open(path, CREATE),
        files.chmod(path, 0o777), files.utime(path, 0, 0),
    ):  # fmt: skip
        with pytest.raises((NotAllowed, BadArgument, NoMatch)) as caught:
            await work
        told.append(caught.value)
    return iter(told)


@pytest.mark.parametrize(
    "target",
    ["../outside", "/", "/etc", "../outside/secret", "../outside/new", "in", "in/secret", ".", "link", "none",
     "/proc/self/root", "/proc/self/cwd", "/proc/self/fd/0"],
)  # fmt: skip
@pytest.mark.spec("FLD-3")
async def test_no_symbolic_link_is_followed_wherever_it_leads(share: Path, target: str) -> None:
    (share / "link").symlink_to(target)
    before = {path.name: path.lstat() for path in (share.parent / "outside").iterdir()}
    async with shared(share.parent) as files:
        for told in await every_way(files, "link"):
            assert "link" in str(told)
        for below in ("secret", "etc/passwd", "new", "in/secret"):
            for _ in await every_way(files, f"link/{below}"):
                pass
            for work in (files.mkdir(f"link/{below}x"), files.unlink(f"link/{below}"), files.rmdir(f"link/{below}"),
                         files.rename(f"link/{below}", "stolen"), files.rename("in/secret", f"link/{below}"),
                         files.stat(f"link/{below}"), files.readlink(f"link/{below}")):  # fmt: skip
                with pytest.raises(NotAllowed, match=f"'link/{below}.*' leads through a symbolic link"):
                    await work
        node, kind = await files.walk(ROOT, b"link")  # as a link it may be named, and moved, and removed
        assert kind == Kind.LINK
        for work in (files.listdir("", node), files.stat("secret", node)):
            with pytest.raises((NotAllowed, BadArgument)):
                await work
        assert await files.readlink("link") == target
        await files.rename("link", "other")
        await files.unlink("other")
    assert {path.name: path.lstat() for path in (share.parent / "outside").iterdir()} == before
    assert (share / "in/secret").read_bytes() == b"public"


async def test_a_rename_onto_a_link_replaces_the_link(share: Path) -> None:
    (share / "link").symlink_to("../outside/secret")
    async with shared(share.parent) as files:
        await files.rename("in/secret", "link")
        assert await files.read_bytes("link") == b"public"
    assert (share.parent / "outside/secret").read_bytes() == SECRET


async def test_what_is_no_file_is_never_opened(share: Path) -> None:
    """To open a pipe would wait for its other end; to open a device may do anything."""
    os.mkfifo(share / "pipe")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(share / "socket"))
    names = ["pipe", "socket"]
    if os.geteuid() == 0:
        os.mknod(share / "device", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        names.append("device")
    async with shared(share.parent) as files:
        for name in names:
            assert (await files.stat(name)).kind == Kind.OTHER
            assert name in [item.name for item in await files.listdir() if item.kind == Kind.OTHER]
            for _ in await every_way(files, name):
                pass
            await files.unlink(name)
    listener.close()


@pytest.mark.spec("FLD-3")
async def test_another_mount_is_out_of_reach(tmp_path: Path) -> None:
    async with shared(tmp_path, path="/", read_only=True) as files:
        assert (await files.stat("etc")).kind == Kind.FOLDER
        for path in ("proc", "proc/self/environ", "proc/self/root/etc/passwd", "proc/1/root", "sys/kernel"):
            with pytest.raises(NotAllowed, match="another filesystem"):
                await files.stat(path)
            with pytest.raises(NotAllowed, match="another filesystem"):
                await files.read_bytes(path)


async def test_a_folder_that_is_moved_away_is_out_of_reach_for_who_has_a_node_of_it(share: Path) -> None:
    outside = share.parent / "outside"
    async with shared(share.parent) as files:
        node, _ = await files.walk(ROOT, b"in")
        (share / "in").rename(outside / "was-in")
        for work in (files.stat("secret", node), files.listdir("", node), files.open("secret", at=node),
                     files.open("new", CREATE, at=node), files.walk(node, b"secret")):  # fmt: skip
            with pytest.raises(StaleHandle):
                await work
        (share / "in").symlink_to(outside)  # and something else in its place
        with pytest.raises(StaleHandle):
            await files.stat("secret", node)
    assert [path.name for path in (outside / "was-in").iterdir()] == ["secret"]


@contextlib.contextmanager
def racing(step: Callable[[], None]) -> Iterator[list[int]]:
    """Somebody on the host does *step* over and over; how often so far."""
    count, over = [0], threading.Event()

    def run() -> None:
        while not over.is_set():
            step()
            count[0] += 1

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield count
    finally:
        over.set()
        thread.join()


def exchange(one: Path, other: Path) -> None:
    """Each becomes the other, in one step (renameat2)."""
    assert _libc.renameat2(-100, bytes(one), -100, bytes(other), _RENAME_EXCHANGE) == 0


async def attack(files: FolderDriver, times: int) -> set[bytes]:
    """What comes of reading in/secret, and making files beside it."""
    seen = set()
    for n in range(times):
        for work in (files.read_bytes("in/secret"), files.write_bytes(f"in/{n % 5}", b"mine")):
            with contextlib.suppress(NotAllowed, BadArgument, NoMatch):
                seen.add(await work or b"")
    return seen


@pytest.mark.parametrize("target", ["../outside", "/proc/self/root"])
async def test_a_folder_that_a_thread_swaps_for_a_link_never_leads_outside(share: Path, target: str) -> None:
    (share / "link").symlink_to(target)
    async with shared(share.parent) as files:
        with racing(lambda: exchange(share / "in", share / "link")) as count:
            seen = await attack(files, 500)
            while count[0] < 1000:
                seen |= await attack(files, 50)
    assert seen == {b"public", b""}
    assert [path.name for path in (share.parent / "outside").iterdir()] == ["secret"]


async def test_a_fetch_beside_a_thread_that_swaps_a_file_for_a_link_or_pipe_has_its_bytes_or_none(
    share: Path,
) -> None:
    file, link, pipe = share / "in/secret", share / "link", share / "pipe"
    link.symlink_to("outside/secret")
    (share / "in/link").symlink_to("../../outside/secret")
    os.mkfifo(pipe)

    def step() -> None:
        exchange(file, link)
        exchange(link, pipe)
        exchange(pipe, file)

    async with shared(share.parent) as files:
        seen = set()
        with racing(step) as count:
            while len(seen) < 3 or count[0] < 500:
                found = (await fetched(files, "in"))[b"secret"]
                seen.add((found.kind if found.flags & Flag.STAT else None, found.data))
                assert not found.data or found.kind == Kind.FILE
    assert {data for _, data in seen} == {b"public", b""}


@pytest.mark.spec("FLD-11")
async def test_a_fetch_enters_no_other_mount(tmp_path: Path) -> None:
    async with shared(tmp_path, path="/", read_only=True) as files:
        found = await fetched(files)
    for name in (b"proc", b"sys"):
        assert (found[name].kind, found[name].flags & ~Flag.LAST) == (Kind.FOLDER, 0)
    assert found[b"etc"].flags & Flag.STAT


async def test_a_file_that_a_thread_swaps_for_a_link_or_a_pipe_is_itself_or_refused(share: Path) -> None:
    file, link, pipe = share / "in/secret", share / "link", share / "pipe"
    link.symlink_to("../../outside/secret")
    os.mkfifo(pipe)

    def step() -> None:
        exchange(file, link)
        exchange(link, pipe)
        exchange(pipe, file)

    async with shared(share.parent) as files:
        with racing(step) as count:
            seen = await attack(files, 500)
            while count[0] < 500:
                seen |= await attack(files, 50)
    assert seen <= {b"public", b""} and b"public" in seen
    assert (share.parent / "outside/secret").read_bytes() == SECRET


async def moved(files: FolderDriver, name: str, new_name: str) -> None:
    """Rename it, as soon as what it lies in is there; NotAllowed: it went away while the kernel walked."""
    while True:
        with contextlib.suppress(NoMatch, NotAllowed):
            return await files.rename(name, new_name)


async def test_a_folder_that_a_thread_moves_in_and_out_never_shows_what_is_beside_it(share: Path) -> None:
    """With `..` of it a walk could come out elsewhere; names have none, and a link that has is not followed."""
    (share / "in" / "up").symlink_to("../outside/secret")
    outside = share.parent / "outside" / "moved"

    def step() -> None:
        (share / "in").rename(outside)
        outside.rename(share / "in")

    async with shared(share.parent) as files:
        node, _ = await files.walk(ROOT, b"in")
        seen = set()
        with racing(step) as count:
            for n in range(500):
                for path in ("in/up", "in/../outside/secret", "in/secret/../../outside/secret"):
                    with pytest.raises((NotAllowed, BadArgument, NoMatch)):
                        await files.read_bytes(path)
                with contextlib.suppress(StaleHandle, NoMatch):
                    file = await files.open("secret", at=node)
                    seen.add(await file.read(100, 0))
                    await file.close()
                for names in (("in/secret", f"in/{n}"), (f"in/{n}", "in/secret")):
                    await moved(files, *names)
            assert count[0]
    assert seen <= {b"public"}
    assert (share.parent / "outside/secret").read_bytes() == SECRET


async def test_a_huge_folder_is_listed_whole_in_bounded_pieces(memory: Path) -> None:
    names = {f"{n:05}-{'x' * (n % 200)}" for n in range(20_000)}
    for each in names:
        (memory / "share" / each).touch()
    async with shared(memory) as files:
        assert {item.name for item in await files.listdir()} == names
        listing = await files._open_dir(ROOT, b"")
        with files.dev.ram.alloc(8 << 20) as buffer:  # room for all of it: a piece is no larger for that
            count = await files._read_dir(buffer, listing, 0)
            assert 0 < count <= 64 * 1024
            assert {entry.name.decode() for entry in unpack(bytes(buffer.view[:count]))} < names


async def test_as_many_calls_at_once_as_there_are_slots_open_no_more_than_allowed(share: Path) -> None:
    async with shared(share.parent) as files:
        opened = await asyncio.gather(*(files.open(f"{n}", CREATE) for n in range(200)), return_exceptions=True)
        good = [file for file in opened if not isinstance(file, BaseException)]
        assert len(good) == 64 and len({file.number for file in good}) == 64
        assert all(isinstance(file, HcallError) for file in opened if file not in good)
        await asyncio.gather(*(file.write_all(f"{n}".encode() * 5000) for n, file in enumerate(good)))
        contents = {file.number: f"{n}".encode() * 5000 for n, file in enumerate(good)}
        names = [f"{n}" for n, file in enumerate(opened) if file in good]
        for file in good:
            await file.close()
        assert [await files.read_bytes(name) for name in names] == [contents[file.number] for file in good]
