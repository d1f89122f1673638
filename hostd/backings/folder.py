"""A folder of the host as a guest knows it: nodes by number, open files, and what is said when something goes wrong.

What leads from a name to a descriptor, and never out of the folder, is `beneath`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from hcall.errors import BadArgument, BadHandle, Busy, HcallError, IoError, NoMatch, NoSpace, NotAllowed, StaleHandle
from hcall.formats.folder import MAX_PATH, ROOT, shown
from hcall.saved import Saved

from .parts import beneath
from .parts.beneath import knows_cached, reach
from .parts.filesystem import LOCAL, TMPFS, filesystem

T = TypeVar("T")

_MAX_NODES: Final = 1024  # of up to 4 KiB each
_SAID: Final[dict[int | None, tuple[type[HcallError], str]]] = {
    errno.ENOENT: (NoMatch, "is not there"),
    errno.EEXIST: (NotAllowed, "is there already"),
    errno.EBADF: (BadArgument, "was not opened for that"),
    errno.EFBIG: (NoSpace, "would be too large for the host's filesystem"),
    errno.ENOSPC: (NoSpace, "does not fit: the host's filesystem is full"),
    errno.EDQUOT: (NoSpace, "does not fit: hostd has used up its quota"),
    errno.ENXIO: (NotAllowed, "is neither file nor folder"),
    errno.ENOTEMPTY: (NotAllowed, "is not empty"),
    errno.ENOTDIR: (BadArgument, "is no folder, or leads through something that is none"),
    errno.EISDIR: (BadArgument, "is a folder"),
    errno.EINVAL: (BadArgument, "cannot be used so"),
    errno.ENAMETOOLONG: (BadArgument, "has a name that is too long for the host"),
    errno.ELOOP: (NotAllowed, "leads through a symbolic link, which is never followed"),
    errno.EXDEV: (NotAllowed, "leads out of the shared folder, or to another filesystem"),
    errno.EACCES: (NotAllowed, "is not for hostd: permission denied"),
    errno.EPERM: (NotAllowed, "is not for hostd: not permitted"),
    errno.EBUSY: (Busy, "is in use on the host"),
    errno.ETXTBSY: (Busy, "is a program that runs on the host"),
    errno.EMFILE: (Busy, "cannot be opened: the host has too many files open"),
    errno.ENFILE: (Busy, "cannot be opened: the host has too many files open"),
}


class File:
    """An open file.  It is closed when the guest has closed it and no worker has it any more."""

    def __init__(self, fd: int, path: bytes) -> None:
        """*path* is for errors to tell."""
        self.path = path
        self._fd, self._users, self._lock = fd, 1, threading.Lock()
        self.listing = threading.Lock()  # a folder's descriptor has one place where it reads on

    def __enter__(self) -> int:
        with self._lock:
            if not self._users:
                raise StaleHandle("the file was closed")
            self._users += 1
            return self._fd

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(self, root: str) -> Saved | None:
        """Which file it is, below *root*, and how it is open; None for one that has no name any more."""
        with self as fd:
            name = _name(fd)
            inside = name == root or name.startswith(f"{root.rstrip('/')}/")
            if not inside or not os.fstat(fd).st_nlink:
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

    def moved(self, at: int, path: bytes, to: int, new_path: bytes) -> None:
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


def told(work: Callable[[], T], *paths: bytes) -> T:
    """Do *work*; what goes wrong is said of *paths*.  Raises HcallError, or OSError.

    An OSError is none of the guest's doing: where all calls end it becomes a status, and is logged.
    """
    try:
        return work()
    except OSError as error:
        if error.errno not in _SAID:
            raise
        kind, said = _SAID[error.errno]
        raise kind(f"{_either(paths)} {said}") from None
    except OverflowError:
        raise BadArgument(f"a number for {_either(paths)} is too large") from None


def _either(paths: Sequence[bytes]) -> str:
    return " or ".join(map(shown, filter(None, paths))) or "it"


def _name(fd: int) -> str:
    """Where *fd* is found now."""
    return str(Path(beneath.itself(fd)).readlink())


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
