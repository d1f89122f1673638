"""A folder of the host as a guest knows it: nodes by number, open files, and what is said when something goes wrong.

What leads from a name to a descriptor, and never out of the folder, is `beneath`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from hcall.errors import BadArgument, BadHandle, Busy, HcallError, IoError, StaleHandle
from hcall.formats.folder import MAX_PATH, ROOT, Access, Entry, Kind, shown
from hcall.saved import Saved

from .parts import beneath
from .parts.beneath import knows_cached, reach
from .parts.filesystem import LOCAL, TMPFS, filesystem
from .parts.telling import told

T = TypeVar("T")

_, _, _CREATE, _EXCLUSIVE, _TRUNCATE = map(int, Access)  # to combine flags takes 10 times as long
_MAX_NODES: Final = 1024  # of up to 4 KiB each


class File:
    """An open file.  It is closed when the guest has closed it and no worker has it any more."""

    def __init__(self, fd: int, path: bytes) -> None:
        """*path* is for errors to tell."""
        self.path = path
        self._fd, self._users, self._lock = fd, 1, threading.Lock()
        self._listing = threading.Lock()  # a folder's descriptor has one place where it reads on

    def __enter__(self) -> int:
        with self._lock:
            if not self._users:
                raise StaleHandle("the file was closed")
            self._users += 1
            return self._fd

    def __exit__(self, *_: object) -> None:
        self.close()

    def listed(self, fd: int, cookie: int, size: int) -> Iterator[Entry]:
        """See `beneath.listing`; *fd* is this one.  Raises HcallError, or OSError."""
        with self._listing:
            return told(partial(beneath.listing, fd, cookie, size), self.path)

    def save(self, root: str) -> Saved | None:
        """Which file it is, below *root*, and how it is open; None for one that has no name any more."""
        with self as fd:
            name = _name(fd)
            if not _is_inside(name, root) or not os.fstat(fd).st_nlink:
                return None
            flags = fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_DIRECTORY | os.O_NONBLOCK)
            at = os.fsencode(name)[len(os.fsencode(root)) :].strip(b"/") or b"."
            return {"path": self.path, "at": at, "file": list(_identity(os.fstat(fd))), "flags": flags}

    def close(self) -> None:
        """One user less."""
        with self._lock:
            self._users -= 1
            if not self._users:
                os.close(self._fd)


class _Node:
    """Where a file was, and which one it was."""

    def __init__(self, path: bytes, file: tuple[int, int]) -> None:
        self.path, self.file = path, file


class Tree:
    """The folder, and the nodes in it that a guest knows by number.

    A node is found anew each time: a folder that was moved away is out of reach.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._path = path
        self._take()
        try:
            os.close(reach(self._root, b"."))
        except OSError as error:
            self.close()
            raise OSError(error.errno, f"{error.strerror}: a shared folder needs openat2, of Linux 5.6") from None
        self._lock = threading.Lock()  # of what follows: workers walk and rename
        self._nodes: dict[int, _Node] = {}
        self._last = 0  # number of a node: none is given twice

    def save(self, files: Mapping[int, File]) -> Saved:
        """What `load` needs, and of open *files* what `reopened` does."""
        root = _name(self._root)
        nodes = [[number, node.path, list(node.file)] for number, node in self._nodes.items()]
        opened = [[number, known] for number, file in files.items() if (known := file.save(root)) is not None]
        return {"last": self._last, "nodes": nodes, "files": opened}

    def load(self, saved: Saved) -> dict[int, File]:
        """Its nodes, and the open files, those that are still there."""
        self._last = saved["last"]
        self._nodes = {number: _Node(path, tuple(file)) for number, path, file in saved["nodes"]}
        files = ((number, self._reopened(known)) for number, known in saved["files"])
        return {number: file for number, file in files if file is not None}

    def _reopened(self, known: Saved) -> File | None:
        """The very file that was saved, or none."""
        try:
            fd = beneath.openat2(self._root, known["at"], known["flags"], 0, 0)
        except OSError:
            return None
        if list(_identity(os.fstat(fd))) == known["file"]:
            return File(fd, known["path"])
        os.close(fd)
        return None

    def renew(self) -> None:
        """Forget all nodes, and look what is at the path now; while there is nothing, calls say so."""
        self._nodes.clear()
        with contextlib.suppress(OSError):
            before = self._root
            self._take()
            os.close(before)

    def _take(self) -> None:
        self._root = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        kind = filesystem(self._root)
        self.memory, self.local = kind == TMPFS, kind in LOCAL and knows_cached(self._root)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._root)

    def check(self) -> None:
        """Raises IoError if the folder itself was removed."""
        if not os.fstat(self._root).st_nlink:
            raise IoError("the shared folder was removed on the host")

    def check_inside(self, fd: int) -> None:
        """Raises StaleHandle if the open folder *fd* is elsewhere by now, and what is in it out of reach."""
        self.check()
        if not _is_inside(_name(fd), _name(self._root)):
            raise StaleHandle("the folder was moved away")

    def sync(self) -> None:
        """Until everything that was written to its filesystem is stable.  Raises OSError."""
        beneath.sync(self._root)

    @contextlib.contextmanager
    def found(self, at: int, path: bytes, cached: int = 0) -> Iterator[int]:
        """A descriptor of what is at *path* below the node *at*, see `reach`.  Raises OSError, StaleHandle."""
        with self._node(at, cached) as base:
            if not path:
                yield base
                return
            with _closing(reach(base, path, cached)) as fd:
                yield fd

    @contextlib.contextmanager
    def parent(self, at: int, path: bytes) -> Iterator[tuple[int, bytes]]:
        """A descriptor of the folder that *path* is in, and its name there."""
        above, slash, name = path.rpartition(b"/")
        if not name:
            raise BadArgument("a name is missing: the folder itself stays as it is")
        with self.found(at, above + slash + b"." if above else b"") as parent:  # `.`: a link there is refused
            yield parent, name

    @contextlib.contextmanager
    def _node(self, at: int, cached: int) -> Iterator[int]:
        """A descriptor of the node *at*, if it still is where it was."""
        if at == ROOT:
            self.check()
            yield self._root
            return
        node = self._at(at)
        try:
            fd = reach(self._root, node.path or b".", cached)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                self.check()
                raise StaleHandle(f"{shown(node.path)} was removed, or moved") from None
            raise
        with _closing(fd):
            if _identity(os.fstat(fd)) != node.file:
                raise StaleHandle(f"{shown(node.path)} is another file now")
            yield fd

    def add(self, at: int, path: bytes, info: os.stat_result) -> int:
        """The number of a new node, where *info* was found.  Raises Busy, BadArgument."""
        with self._lock:
            if len(self._nodes) >= _MAX_NODES:
                raise Busy(f"a guest has at most {_MAX_NODES} nodes: forget some")
            whole = self._whole(at, path)
            if len(whole) > MAX_PATH:
                raise BadArgument(f"a node is at most {MAX_PATH} bytes of path below the folder, not {len(whole)}")
            self._last += 1
            self._nodes[self._last] = _Node(whole, _identity(info))
            return self._last

    def forget(self, node: int) -> None:
        """Its number is stale from now on."""
        with self._lock:
            self._at(node)
            del self._nodes[node]

    # What is done to what has a name; *cached* is 0, or CACHED: raise BlockingIOError if it takes the disk.

    def walk(self, at: int, path: bytes, cached: int) -> tuple[int, int]:
        """A new node, and its kind."""
        with self.found(at, path, cached) as fd:
            info = os.fstat(fd)
        return self.add(at, path, info), beneath.kind_of(info)

    def stat(self, at: int, path: bytes, cached: int) -> tuple[int, ...]:
        """Kind, id, size, permissions and time of change, in ns since 1970."""
        with self.found(at, path, cached) as fd:
            info = os.fstat(fd)
        return beneath.kind_of(info), info.st_ino, info.st_size, stat.S_IMODE(info.st_mode), info.st_mtime_ns

    def read_link(self, at: int, path: bytes, cached: int) -> bytes:
        """What a symbolic link says."""
        with self.found(at, path, cached) as fd:
            if beneath.kind_of(os.fstat(fd)) != Kind.LINK:
                raise BadArgument(f"{shown(path)} is no symbolic link")
            return os.readlink(b"", dir_fd=fd)

    def open_file(self, at: int, path: bytes, access: int, mode: int, cached: int) -> int:
        """A descriptor of a file, opened as *access* says; *mode* is for one that is made."""
        flags = (os.O_RDONLY, os.O_RDONLY, os.O_WRONLY, os.O_RDWR)[access & 3] | os.O_CLOEXEC | os.O_NONBLOCK
        if access & _CREATE:
            with self.parent(at, path) as (parent, name):
                try:
                    return beneath.openat2(parent, name, flags | os.O_CREAT | os.O_EXCL, mode, 0)
                except FileExistsError:
                    if access & _EXCLUSIVE:
                        raise
        with self.found(at, path, cached) as fd:
            file = beneath.reopen(fd, path, flags)
        if access & _TRUNCATE:
            try:
                os.ftruncate(file, 0)
            except OSError:
                os.close(file)
                raise
        return file

    def open_dir(self, at: int, path: bytes, cached: int) -> int:
        """A descriptor of a folder."""
        with self.found(at, path, cached) as fd:
            beneath.check_kind(fd, Kind.FOLDER)
            return beneath.openat2(fd, b".", os.O_RDONLY | os.O_DIRECTORY, 0, cached)

    def rename(self, at: int, path: bytes, to: int, new_path: bytes) -> None:
        """Move it in one step, and nodes with it."""
        with self.parent(at, path) as (parent, name), self.parent(to, new_path) as (new_parent, new_name):
            os.rename(name, new_name, src_dir_fd=parent, dst_dir_fd=new_parent)
        self._moved(at, path, to, new_path)

    def _moved(self, at: int, path: bytes, to: int, new_path: bytes) -> None:
        """Nodes go with what the guest renames."""
        with self._lock:
            old, new = self._whole(at, path), self._whole(to, new_path)
            for node in self._nodes.values():
                if node.path == old or node.path.startswith(old + b"/"):
                    node.path = new + node.path[len(old) :]

    def _at(self, node: int) -> _Node:
        try:
            return self._nodes[node]
        except KeyError:
            raise missing(node, self._last, "node") from None

    def _whole(self, at: int, path: bytes) -> bytes:
        """The path from the shared folder on."""
        return b"/".join(filter(None, (self._at(at).path if at != ROOT else b"", path)))


def missing(number: int, last: int, what: str) -> HcallError:
    """Why there is no such *number*, if *last* was the last to be given."""
    if 0 < number <= last:
        return StaleHandle(f"there is no {what} {number} any more")
    return BadHandle(f"there never was a {what} {number}")


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[int]:
    """*fd*, closed in the end."""
    try:
        yield fd
    finally:
        os.close(fd)


def _name(fd: int) -> str:
    """Where *fd* is found now."""
    return str(Path(beneath.itself(fd)).readlink())


def _is_inside(name: str, root: str) -> bool:
    return name == root or name.startswith(f"{root.rstrip('/')}/")


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
