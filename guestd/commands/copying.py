"""`guestd copy`: trees of files between a shared folder and this side's filesystem.

A driver touches nothing but its device; this does both, several files at a time.  This side's files are read and
written as they come, on the loop: it has nothing else to do.  Links, pipes and the like are left out, and said.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

import uvloop

from hcall.errors import BadArgument, NoMatch, NotAllowed, Reset, StaleHandle
from hcall.formats.folder import Access, Kind
from hcall.programs.command import Exit, Failure, say
from hcall.text import counted
from hcall.wire import MAX_INLINE

from ..clients.asynchronous import AsyncGuest, attach
from ..driver import Buffer, Driver
from ..drivers.folder import FolderDriver
from .transfer import TransferProgress

_DEPTH: Final = 16  # files under way at a time
_CHUNK: Final = 256 * 1024  # bytes of guest memory for one of them
_SHOWN: Final = 10  # names of what was left out


@dataclass
class Copied:
    """What a copy came to."""

    files: int = 0
    bytes: int = 0
    left_out: list[str] = field(default_factory=list)  # links, pipes, sockets and devices
    moved: Callable[[int], None] = lambda count: None  # told of so many bytes more


async def copy_out(shared: FolderDriver, path: str, target: Path, copied: Copied | None = None) -> Copied:
    """Copy the file or folder at *path* to *target*, which becomes what it is; what is in it is replaced or stays.

    Raises OSError, HcallError.
    """
    copied, spare = copied or Copied(), list[Buffer]()
    about = await shared.stat(path)
    try:
        if about.kind == Kind.FILE:
            await _file_out(shared, path, target, copied, spare)
        elif about.kind == Kind.FOLDER:
            _make_here(target)
            files: list[str] = []
            top = len(path.strip("/")) + 1 if path.strip("/") else 0
            for each, item in await shared.walk_tree(path):
                if item.kind == Kind.FOLDER:
                    _make_here(target / each[top:])
                elif item.kind == Kind.FILE:
                    files.append(each)
                else:
                    copied.left_out.append(each)
            await _at_once(lambda each: _file_out(shared, each, target / each[top:], copied, spare), files)
        else:
            raise NotAllowed(f"{path!r} is no file, and no folder")
    finally:
        for buffer in spare:
            buffer.free()
    return copied


async def copy_in(shared: FolderDriver, source: Path, path: str, copied: Copied | None = None) -> Copied:
    """The same in the other direction; what was written is stable in the end.  Raises OSError, HcallError."""
    copied = copied or Copied()
    if _is_folder(source):
        await _make(shared, path)
        files: list[str] = []
        for below in _below(source, copied):
            if below.endswith("/"):
                await _make(shared, f"{path}/{below}")
            else:
                files.append(below)
        await _at_once(lambda below: _file_in(shared, source / below, f"{path}/{below}", copied), files)
    else:
        await _file_in(shared, source, path, copied)
    await shared.sync()
    return copied


def _below(source: Path, copied: Copied) -> Iterator[str]:
    """All files and folders, a `/` behind these, below *source*; a folder before what is in it."""
    folders = [""]
    while folders:
        above = folders.pop()
        with os.scandir(source / above) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{above}{entry.name}/")
                    yield folders[-1]
                elif entry.is_file(follow_symlinks=False):
                    yield f"{above}{entry.name}"
                else:
                    copied.left_out.append(f"{above}{entry.name}")


# This side: on the loop on purpose, see above; in functions of their own, as ASYNC240 is right everywhere else.


def _is_folder(path: Path) -> bool:
    return path.is_dir()


def _name(path: Path) -> str:
    return path.resolve().name  # that of `.`, too


def _make_here(path: Path) -> None:
    path.mkdir(exist_ok=True)


def _create(path: Path, mode: int) -> IO[bytes]:
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags, mode))  # Path has no opener


async def _make(shared: FolderDriver, path: str) -> None:
    """Make a folder, if it is missing."""
    try:
        await shared.mkdir(path)
    except (NotAllowed, BadArgument):  # it is there already; the shared folder itself has no name
        if (await shared.stat(path)).kind != Kind.FOLDER:
            raise


async def _file_out(shared: FolderDriver, path: str, target: Path, copied: Copied, spare: list[Buffer]) -> None:
    """Copy one; *spare* are buffers between two files: to allocate one takes longer than to read a small file."""
    file = await shared.open(path)
    try:
        with _create(target, file.mode & 0o777) as out:
            at = 0
            if file.size <= MAX_INLINE:
                at = out.write(await file.read(MAX_INLINE, 0))
                copied.moved(at)
            if at < file.size:
                buffer = spare.pop() if spare else shared.dev.ram.alloc(_CHUNK)
                try:
                    while at < file.size and (count := await file.read_into(buffer, at)):
                        at += out.write(buffer.view[:count])
                        copied.moved(count)
                except BaseException:
                    buffer.free()  # a call may be under way that still uses it
                    raise
                spare.append(buffer)
    except OSError as error:
        error.filename = error.filename or str(target)  # a write that fails does not say of what
        raise
    finally:
        await file.close()
    copied.files += 1
    copied.bytes += at


async def _file_in(shared: FolderDriver, source: Path, path: str, copied: Copied) -> None:
    with source.open("rb") as given:
        mode = os.fstat(given.fileno()).st_mode & 0o777
        file = await shared.open(path, Access.WRITE | Access.CREATE | Access.TRUNCATE, mode)
        try:
            at = 0
            while data := given.read(_CHUNK):
                await file.write_all(data, at)
                at += len(data)
                copied.moved(len(data))
        finally:
            await file.close()
    copied.files += 1
    copied.bytes += at


async def _at_once(work: Callable[[str], Awaitable[None]], names: Iterable[str]) -> None:
    """Do *work* for each name, several at a time; the first error ends it."""
    left = iter(names)

    async def worker() -> None:
        for name in left:
            await work(name)

    workers = [asyncio.ensure_future(worker()) for _ in range(_DEPTH)]
    try:
        await asyncio.gather(*workers)
    finally:
        for each in workers:
            each.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


# The command.


def copy(socket: str | None, source: str, target: str, drivers: list[type[Driver]]) -> None:
    """Copy DEVICE:PATH to a local path, or a local path to DEVICE:PATH.  Raises Failure, OSError or HcallError."""
    out, into = _remote(source), _remote(target)
    remote = out or into
    if remote is None or (out and into):
        raise Failure("one of the two is in a shared folder: NAME:PATH, such as shared:/notes.txt", Exit.USAGE)

    async def main() -> Copied:
        try:
            async with attach(socket, drivers=drivers) as guest:
                with TransferProgress(f"copying {source}", None) as progress:
                    copied = Copied(moved=progress.moved)
                    shared = await _find(guest, remote[0])
                    if out:
                        await _copy_out(shared, remote[1], Path(target), copied)
                    else:
                        await _copy_in(shared, Path(source), remote[1], copied)
                    return copied
        except (StaleHandle, Reset):
            raise StaleHandle(f"{remote[0]} was unplugged") from None

    copied = uvloop.run(main())
    for name in copied.left_out[:_SHOWN]:
        say("guestd", f"{name!r} is left out: it is neither file nor folder")
    if len(copied.left_out) > _SHOWN:
        say("guestd", f"{len(copied.left_out) - _SHOWN} more are left out")
    say("guestd", f"{counted(copied.files, 'file')} of {counted(copied.bytes, 'byte')} copied")


def _remote(text: str) -> tuple[str, str] | None:
    """Device and path of `NAME:PATH`; None for a local path, which has a / before any colon."""
    name, colon, path = text.partition(":")
    return (name, path.strip("/")) if colon and name and "/" not in name else None


async def _copy_out(shared: FolderDriver, path: str, target: Path, copied: Copied) -> None:
    """As `cp -r`: into a folder that is there, under its own name."""
    name = path.rpartition("/")[2]
    await copy_out(shared, path, target / name if _is_folder(target) else target, copied)


async def _copy_in(shared: FolderDriver, source: Path, path: str, copied: Copied) -> None:
    try:
        into_folder = (await shared.stat(path)).kind == Kind.FOLDER
    except NoMatch:
        into_folder = False
    await copy_in(shared, source, f"{path}/{_name(source)}" if into_folder else path, copied)


async def _find(guest: AsyncGuest, name: str) -> FolderDriver:
    """The shared folder of that name or tag.  Raises Failure, or as `bind`."""
    nodes = [found for found in await guest.walk() if FolderDriver.compatible[0] in found.compatible]
    for found in nodes:
        tag = (await guest.properties(found.node)).get("mount-tag")
        if name in (found.path.removeprefix("/"), tag):
            driver = await guest.bind(found.path)
            if isinstance(driver, FolderDriver):
                return driver
    there = ", ".join(found.path.removeprefix("/") for found in nodes) or "none"
    raise Failure(f"no shared folder {name!r}; there are: {there}", Exit.NO_DEVICE)
