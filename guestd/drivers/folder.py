"""Driver of a shared folder: files by their paths, as `os` and `pathlib` name what is done to them.

A path is names with `/` between them, from the shared folder on, whether it begins with a `/` or not.  Names that are
no UTF-8 are `str` as everywhere in Python (PEP 383).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import NamedTuple, ParamSpec, TypeAlias, TypeVar

from guestd.driver import MAX_INLINE, Buffer, Data, Driver, Inline, Op, Room, Taking, moved
from hcall.errors import BadArgument, HcallError, IoError, NoMatch
from hcall.formats.folder import (
    MAX_PATH,
    ROOT,
    Access,
    Entry,
    Fetched,
    Flag,
    Kind,
    Stat,
    shown,
    unpack,
    unpack_fetched,
)

P = ParamSpec("P")
R = TypeVar("R")
Line = TypeVar("Line", Entry, Fetched)
AnyPath: TypeAlias = "str | bytes | os.PathLike[str]"

_CHUNK = 1 << 20  # bytes of guest memory for more
_LISTING = 32 * 1024
_LAST = int(Flag.LAST)


class Item(NamedTuple):
    """A line of a folder."""

    name: str
    kind: Kind
    id: int


class FolderDriver(Driver):
    """Files of the host below one folder, its tag beside it.

    Errors of all: NoMatch for what is not there, NotAllowed for what links and permissions forbid, or what is there
    already, BadArgument for a folder where a file belongs, and the other way round, ReadOnly, NoSpace.
    """

    compatible = ("hostd,folder",)
    ids = ((0x1AF4, 0x105A),)
    wants = ("RO",)
    properties = ("mount-tag",)
    walk = Op[[int, bytes], tuple[int, int]]()  # node, path -> a new node, its kind
    forget = Op[[int], None]()  # node
    _stat = Op[[int, bytes], Stat]("stat")
    _open_dir = Op[[int, bytes], int]("open_dir")
    _read_dir = Op[[Room, int, int], int]("read_dir")  # folder, cookie
    _fetch_dir = Op[[Room, int, int], int]("fetch_dir")  # folder, cookie
    _store_dir = Op[[Data, int], int]("store_dir")  # folder
    _open_file = Op[[int, bytes, int, int], tuple[int, int, int]]("open_file")  # -> number, size, permissions
    _close_file = Op[[int], None]("close_file")
    _make_dir = Op[[int, bytes, int], None]("make_dir")
    _rename = Op[[int, bytes, int, bytes], None]("rename")
    _unlink = Op[[int, bytes], None]("unlink")
    _remove_dir = Op[[int, bytes], None]("remove_dir")
    _read_link = Op[[Inline, int, bytes], bytes]("read_link")
    _chmod = Op[[int, bytes, int], None]("chmod")
    _utimens = Op[[int, bytes, int, int], None]("utimens")
    read_file = Op[[Inline, int, int], bytes]()  # number, at
    read_file_into = Op[[Room, int, int], int]("read_file")
    write_file = Op[[Data, int, int], int]()
    truncate_file = Op[[int, int], None]()
    sync_file = Op[[int], None]()

    tag: str

    async def probe(self) -> None:
        self._opening: Taking[None] = Taking(self.dev)
        self._closing: list[int] = []  # files and folders that nobody needs any more
        try:
            self.tag = await self.dev.property("mount-tag", str)
        except NoMatch:
            self.tag = self.dev.name

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""
        return "RO" in self.dev.features

    @property
    def stores(self) -> bool:
        """Whether the host takes many files at once, see `Folder.store`: an older one does not."""
        return "store_dir" in self.dev.calls

    # By path.

    async def stat(self, path: AnyPath, at: int = ROOT) -> Stat:
        """What is known of a file, a folder or a link itself."""
        return await self._stat(at, _bytes(path))

    async def listdir(self, path: AnyPath = "", at: int = ROOT) -> list[Item]:
        """What is in a folder, in no order."""
        folder = await self._open(self._open_dir, at, _bytes(path))
        try:
            with self.dev.ram.alloc(_LISTING) as buffer:
                return await self._list(folder, buffer)
        finally:
            await self.close(folder)

    async def walk_tree(self, path: AnyPath = "") -> list[tuple[str, Item]]:
        """All that is below a folder, with paths from the shared folder on; a folder comes before what is in it."""
        found: list[tuple[str, Item]] = []
        folders = [os.fsdecode(_bytes(path))]
        while folders:
            above = folders.pop()
            try:
                items = await self.listdir(above)
            except NoMatch:
                if not found:
                    raise
                continue  # removed meanwhile
            below = [(f"{above}/{item.name}".lstrip("/"), item) for item in items]
            found += below
            folders += [each for each, item in below if item.kind == Kind.FOLDER]
        return found

    async def open(self, path: AnyPath, access: Access = Access.READ, mode: int = 0o666, at: int = ROOT) -> File:
        """Open a file; *mode* is for one that is made, less what the host's umask takes."""
        return File(self, *await self._open(self._open_file, at, _bytes(path), int(access), mode))

    async def open_dir(self, path: AnyPath = "", at: int = ROOT) -> Folder:
        """Open a folder, for all that is in it, and for many new files."""
        return Folder(self, await self._open(self._open_dir, at, _bytes(path)))

    async def read_bytes(self, path: AnyPath) -> bytes:
        """All of a file."""
        file = await self.open(path)
        try:
            return await file.read_all()
        finally:
            await file.close()

    async def write_bytes(self, path: AnyPath, data: bytes, mode: int = 0o666) -> None:
        """Make a file, or write it anew."""
        file = await self.open(path, Access.WRITE | Access.CREATE | Access.TRUNCATE, mode)
        try:
            await file.write_all(data)
        finally:
            await file.close()

    async def mkdir(self, path: AnyPath, mode: int = 0o777) -> None:
        """Make a folder."""
        await self._make_dir(ROOT, _bytes(path), mode)

    async def rename(self, path: AnyPath, new_path: AnyPath) -> None:
        """Move it in one step; a file that is there is replaced."""
        await self._rename(ROOT, _bytes(path), ROOT, _bytes(new_path))

    async def unlink(self, path: AnyPath) -> None:
        """Remove what is no folder."""
        await self._unlink(ROOT, _bytes(path))

    async def rmdir(self, path: AnyPath) -> None:
        """Remove an empty folder."""
        await self._remove_dir(ROOT, _bytes(path))

    async def readlink(self, path: AnyPath) -> str:
        """What a symbolic link says."""
        return os.fsdecode(await self._read_link(MAX_INLINE, ROOT, _bytes(path)))

    async def chmod(self, path: AnyPath, mode: int) -> None:
        """Set the permissions, 0 to 0o777."""
        await self._chmod(ROOT, _bytes(path), mode)

    async def utime(self, path: AnyPath, accessed: int, modified: int) -> None:
        """Set the times, in nanoseconds since 1970."""
        await self._utimens(ROOT, _bytes(path), accessed, modified)

    # Beneath.

    async def close(self, number: int) -> None:
        """Give back an open file or folder; if this is cancelled, before the next one is opened."""
        try:
            await self._close_file(number)
        except HcallError:
            raise
        except BaseException:  # the call was made, or not
            self._closing.append(number)
            raise

    async def _open(self, call: Callable[P, Awaitable[R]], *args: P.args, **named: P.kwargs) -> R:
        """The answer to a call that opens something; what somebody has opened who gave up is closed before."""
        while self._opening.left:
            answer, _ = await self._opening.take_up()
            if not isinstance(answer, HcallError):
                self._closing.append(answer[0] if isinstance(answer, tuple) else answer)
        while self._closing:
            with contextlib.suppress(HcallError):  # it is closed already
                await self.close(self._closing.pop())
        return await self._opening.call(None, call, *args, **named)

    async def _list(self, folder: int, buffer: Buffer) -> list[Item]:
        items: list[Item] = []
        cookie = 0
        while entries := await self.entries(folder, buffer, cookie):
            items += [Item(os.fsdecode(entry.name), Kind(entry.kind), entry.id) for entry in entries]
            cookie = entries[-1].cookie
        return items

    async def entries(self, folder: int, buffer: Buffer, cookie: int) -> list[Entry]:
        """Entries of an open folder behind *cookie*, by way of *buffer*; none at the end."""
        count = await self._read_dir(buffer, folder, cookie)
        return self._checked(lambda: list(unpack(bytes(buffer.view[:count]))), cookie)

    async def fetch(self, folder: int, buffer: Buffer, cookie: int) -> list[Fetched]:
        """The same with what the host has at hand of each; bytes of files are in *buffer*, until it is used again."""
        if "fetch_dir" not in self.dev.calls:  # an older host's: nothing is at hand
            entries = await self.entries(folder, buffer, cookie)
            return [Fetched(each.cookie, each.id, 0, 0, 0, each.kind, 0, each.name) for each in entries]
        count = await self._fetch_dir(buffer, folder, cookie)
        return self._checked(lambda: list(unpack_fetched(buffer.view[:count])), cookie)

    def store_files(self, folder: int, files: Buffer) -> Awaitable[int]:
        """Make files in an open folder, some of them: how many bytes those are."""
        return self._store_dir(files, folder)

    def _checked(self, unpacked: Callable[[], list[Line]], cookie: int) -> list[Line]:
        try:
            lines = unpacked()
        except ValueError as error:
            raise IoError(f"{self.dev.name} lists what it must not: {error}") from None
        if lines and lines[-1].cookie == cookie:
            raise IoError(f"{self.dev.name} lists the same again and again")
        return lines


class Folder:
    """An open folder, from its first entry on."""

    def __init__(self, driver: FolderDriver, number: int) -> None:
        self.number = number
        self._driver, self._cookie, self._over = driver, 0, False

    async def fetch(self, buffer: Buffer) -> list[Fetched]:
        """The next entries, with what the host has at hand of each: attributes, and all bytes of small files.

        Bytes are in *buffer*, until it is used again; 256 KiB are as many as come at a time.  None at all is the end.
        """
        if self._over:
            return []
        entries = await self._driver.fetch(self.number, buffer, self._cookie)
        if entries:
            self._cookie, self._over = entries[-1].cookie, bool(entries[-1].flags & _LAST)
        return entries

    async def store(self, files: Buffer) -> None:
        """Make all *files*, `put_stored` and the bytes of each, or write them anew; those before an error are made."""
        done = 0
        while done < files.size:
            taken = await self._driver.store_files(self.number, files.part(done, files.size - done))
            done += moved(self._driver.dev, taken)

    async def close(self) -> None:
        """Give it back."""
        await self._driver.close(self.number)


class File:
    """An open file."""

    def __init__(self, folder: FolderDriver, number: int, size: int, mode: int) -> None:
        """*size* and *mode* are what it had when it was opened."""
        self.number, self.size, self.mode = number, size, mode
        self._folder, self._ram = folder, folder.dev.ram

    async def read(self, count: int, at: int) -> bytes:
        """Up to *count* bytes, 4,096 at most, from *at* on; none is the end."""
        return await self._folder.read_file(min(count, MAX_INLINE), self.number, at)

    async def read_into(self, buffer: Buffer, at: int) -> int:
        """Fill *buffer*; a count may be short, 0 is the end."""
        return await self._folder.read_file_into(buffer, self.number, at)

    async def read_all(self) -> bytes:
        """All of it."""
        if self.size < MAX_INLINE:
            data = await self.read(MAX_INLINE, 0)
            if len(data) == self.size:
                return data
        pieces, done = [], 0
        with self._ram.alloc(min(self.size + 1, _CHUNK)) as buffer:
            while count := await self.read_into(buffer, done):
                pieces.append(bytes(buffer.view[:count]))
                done += count
        return b"".join(pieces)

    async def write_from(self, buffer: Buffer, at: int) -> int:
        """Write *buffer*; a count may be short."""
        return await self._folder.write_file(buffer, self.number, at)

    async def write_all(self, data: bytes, at: int = 0) -> None:
        """Write all of *data*."""
        done = 0
        if len(data) <= MAX_INLINE:
            while done < len(data):
                taken = await self._folder.write_file(data[done:], self.number, at + done)
                done += moved(self._folder.dev, taken)
            return
        with self._ram.alloc(min(len(data), _CHUNK)) as buffer:
            while done < len(data):
                piece = data[done : done + buffer.size]
                buffer.view[: len(piece)] = piece
                done += moved(self._folder.dev, await self.write_from(buffer.part(0, len(piece)), at + done))

    async def truncate(self, size: int) -> None:
        """Make it so long."""
        await self._folder.truncate_file(self.number, size)

    async def sync(self) -> None:
        """Until it is stable."""
        await self._folder.sync_file(self.number)

    async def close(self) -> None:
        """Give it back."""
        await self._folder.close(self.number)


def _bytes(path: AnyPath) -> bytes:
    name = os.fsencode(path).strip(b"/")
    if len(name) > MAX_PATH:  # the host would say so, but a message may not hold it
        raise BadArgument(f"{shown(name)}: a path has {MAX_PATH} bytes at most, not {len(name)}")
    return name
