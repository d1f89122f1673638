"""Trees of files between a shared folder and this side's filesystem.

A driver touches nothing but its device; this does both, several files at a time.  This side's files are read and
written as they come, on the loop: it has nothing else to do.  Links, pipes and the like are left out, and said.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from hcall.errors import BadArgument, NoMatch, NotAllowed
from hcall.formats.folder import MAX_NAME, STORED, Access, Fetched, Flag, Kind, put_stored
from hcall.wire import MAX_INLINE

from ..driver import Buffer
from ..drivers.folder import Folder, FolderDriver

_DEPTH: Final = 16  # files under way at a time
_CHUNK: Final = 256 * 1024  # bytes of guest memory for one of them
_SMALL: Final = 64 * 1024  # bytes of a file that goes with others
_SWEEPS: Final = 4  # folders under way at a time
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
_DATA: Final = int(Flag.DATA)


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
            await _Out(shared, path.strip("/"), target, copied, spare).copy()
        else:
            raise NotAllowed(f"{path!r} is no file, and no folder")
    finally:
        for buffer in spare:
            buffer.free()
    return copied


async def copy_in(shared: FolderDriver, source: Path, path: str, copied: Copied | None = None) -> Copied:
    """The same in the other direction; what was written is stable in the end.  Raises OSError, HcallError."""
    copied, spare = copied or Copied(), list[Buffer]()
    try:
        if is_folder(source):
            await _In(shared, path, source, copied, spare).copy()
        else:
            await _file_in(shared, source, path, copied)
    finally:
        for buffer in spare:
            buffer.free()
    await shared.sync()
    return copied


# This side: on the loop on purpose, see above; in functions of their own, as ASYNC240 is right everywhere else.


def is_folder(path: Path) -> bool:
    """Whether it is one, or leads to one."""
    return path.is_dir()


def _make_here(path: Path) -> None:
    path.mkdir(exist_ok=True)


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _put(folder: int, file: Fetched) -> None:
    fd = os.open(file.name, _NEW, file.mode & 0o777, dir_fd=folder)
    try:
        done = os.write(fd, file.data)
        while done < file.size:
            done += os.write(fd, file.data[done:])
    finally:
        os.close(fd)


def _taken(path: Path, name: bytes, into: memoryview, at: int) -> int | None:
    """How long the file at *path* is, which is at *at* then, to be stored; None for one that is not small."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        info = os.fstat(fd)
        size, start = info.st_size, at + STORED + len(name)
        if size > _SMALL or os.readv(fd, (into[start : start + size], bytearray(1))) != size:  # it may have grown
            return None
        put_stored(into, at, info.st_mode & 0o777, name, size)
        return size
    finally:
        os.close(fd)


def _create(path: Path, mode: int) -> IO[bytes]:
    return open(path, "wb", opener=lambda name, flags: os.open(name, flags, mode))  # Path has no opener


async def _make(shared: FolderDriver, path: str) -> None:
    """Make a folder, if it is missing."""
    try:
        await shared.mkdir(path)
    except (NotAllowed, BadArgument):  # it is there already; the shared folder itself has no name
        if (await shared.stat(path)).kind != Kind.FOLDER:
            raise


class _Out:
    """A folder on its way out: small files as they come with its entries, then the others, each by itself."""

    def __init__(
        self, shared: FolderDriver, path: str, target: Path, copied: Copied, spare: list[Buffer]
    ) -> None:  # fmt: skip
        self._shared, self._path, self._target, self._copied, self._spare = shared, path, target, copied, spare
        self._files: list[str] = []  # that did not come with their entries; as the next, below the folder
        self._folders = [""]  # of the next level, a / behind each

    async def copy(self) -> None:
        """All of it."""
        _make_here(self._target)
        while self._folders:
            level, self._folders = self._folders, []
            await _at_once(self._sweep, level, _SWEEPS)
        await _at_once(self._file, self._files)

    async def _file(self, below: str) -> None:
        await _file_out(self._shared, f"{self._path}/{below}", self._target / below, self._copied, self._spare)

    async def _sweep(self, below: str) -> None:
        try:
            folder = await self._shared.open_dir(f"{self._path}/{below}")
        except NoMatch:
            if not below:
                raise
            return  # removed meanwhile
        try:
            buffer = self._spare.pop() if self._spare else self._shared.dev.ram.alloc(_CHUNK)
            try:
                while entries := await folder.fetch(buffer):
                    self._take(below, entries)
            except BaseException:
                buffer.free()  # a call may be under way that still uses it
                raise
            self._spare.append(buffer)
        finally:
            await folder.close()

    def _take(self, below: str, entries: list[Fetched]) -> None:
        copied, count = self._copied, 0
        here = _opened(self._target / below)
        try:
            for entry in entries:
                if entry.flags & _DATA:
                    try:
                        _put(here, entry)
                    except OSError as error:
                        error.filename = str(self._target / below / os.fsdecode(entry.name))  # not the name alone
                        raise
                    copied.files += 1
                    count += entry.size
                    continue
                name = below + os.fsdecode(entry.name)
                if entry.kind == Kind.FILE:
                    self._files.append(name)
                elif entry.kind == Kind.FOLDER:
                    _make_here(self._target / name)
                    self._folders.append(f"{name}/")
                else:
                    copied.left_out.append(f"{self._path}/{name}".lstrip("/"))
        finally:
            os.close(here)
        copied.bytes += count
        copied.moved(count)


class _In:
    """A folder on its way in: its small files, many at once, then the others, each by itself."""

    def __init__(self, shared: FolderDriver, path: str, source: Path, copied: Copied, spare: list[Buffer]) -> None:
        self._shared, self._path, self._source, self._copied, self._spare = shared, path, source, copied, spare
        self._files: list[str] = []  # as in `_Out`
        self._folders = [""]

    async def copy(self) -> None:
        """All of it."""
        while self._folders:
            level, self._folders = self._folders, []
            await _at_once(self._sweep, level, _SWEEPS)
        await _at_once(self._file, self._files)

    async def _file(self, below: str) -> None:
        await _file_in(self._shared, self._source / below, f"{self._path}/{below}", self._copied)

    async def _sweep(self, below: str) -> None:
        await _make(self._shared, f"{self._path}/{below}")
        names: list[str] = []
        with os.scandir(self._source / below) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    self._folders.append(f"{below}{entry.name}/")
                elif entry.is_file(follow_symlinks=False):
                    names.append(entry.name)
                else:
                    self._copied.left_out.append(f"{below}{entry.name}")
        if not names or not self._shared.stores:
            self._files += (below + name for name in names)
            return
        folder = await self._shared.open_dir(f"{self._path}/{below}")
        try:
            buffer = self._spare.pop() if self._spare else self._shared.dev.ram.alloc(_CHUNK)
            try:
                await self._store(folder, below, names, buffer)
            except BaseException:
                buffer.free()  # a call may be under way that still uses it
                raise
            self._spare.append(buffer)
        finally:
            await folder.close()

    async def _store(self, folder: Folder, below: str, names: list[str], buffer: Buffer) -> None:
        """Those that are small, as many at once as *buffer* takes."""
        end = files = count = 0

        async def flush() -> None:
            if end:
                await folder.store(buffer.part(0, end))
                self._copied.files += files
                self._copied.bytes += count
                self._copied.moved(count)

        for name in names:
            if buffer.size - end < STORED + MAX_NAME + _SMALL:
                await flush()
                end = files = count = 0
            size = _taken(self._source / below / name, os.fsencode(name), buffer.view, end)
            if size is None:
                self._files.append(below + name)
            else:
                end, files, count = end + STORED + len(os.fsencode(name)) + size, files + 1, count + size
        await flush()


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


async def _at_once(work: Callable[[str], Awaitable[None]], names: Iterable[str], depth: int = _DEPTH) -> None:
    """Do *work* for each name, several at a time; the first error ends it."""
    left = iter(names)

    async def worker() -> None:
        for name in left:
            await work(name)

    workers = [asyncio.ensure_future(worker()) for _ in range(depth)]
    try:
        await asyncio.gather(*workers)
    finally:
        for each in workers:
            each.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
