"""A folder of the host that nobody gets out of: names to descriptors, by the kernel's own rules (openat2, Linux 5.6).

Nothing here follows a symbolic link, enters another mount or goes up, whoever renames what meanwhile.  A descriptor of
`reach` opens nothing: no device is touched, no pipe waited for.
"""

import contextlib
import ctypes
import errno
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

from protocol.errors import BadArgument, BadHandle, Busy, HcallError, IoError, NoMatch, NoSpace, NotAllowed, StaleHandle
from protocol.formats.folder import MAX_PATH, ROOT, Entry, Kind, pack, shown

T = TypeVar("T")

CACHED: Final = 32  # linux/openat2.h, as the next: raise BlockingIOError if it takes the disk
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH = 1, 2, 4, 8
_OPENAT2: Final = 437  # its system call, on every machine but alpha
_HOW: Final = struct.Struct("QQQ")  # flags, mode, resolve: struct open_how, openat2(2)
_DIRENT: Final = struct.Struct("=QqHB")  # struct linux_dirent64, getdents64(2); the name and a NUL follow
_TMPFS: Final = 0x01021994  # linux/magic.h
_LOCAL: Final = {
    _TMPFS,
    0xEF53,
    0x58465342,
    0x9123683E,
    0xF2F52010,
    0x794C7630,
}  # and ext4, xfs, btrfs, f2fs, overlayfs
_MAX_NODES: Final = 1024  # of up to 4 KiB each
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]
_libc.syscall.restype = ctypes.c_long
_libc.getdents64.restype = ctypes.c_ssize_t
_KINDS: Final = {stat.S_IFREG: Kind.FILE, stat.S_IFDIR: Kind.FOLDER, stat.S_IFLNK: Kind.LINK}
_WRONG: Final[dict[int, int]] = {
    Kind.FILE: errno.ENOTDIR, Kind.FOLDER: errno.EISDIR, Kind.LINK: errno.ELOOP, Kind.OTHER: errno.ENXIO,
}  # fmt: skip
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

    def renew(self) -> None:
        """Forget all nodes, and look what is at the path now; while there is nothing, calls say so."""
        self._nodes.clear()
        with contextlib.suppress(OSError):
            before = self._root
            self._take()
            os.close(before)

    def _take(self) -> None:
        self._root = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        kind = _filesystem(self._root)
        self.memory, self.local = kind == _TMPFS, kind in _LOCAL and _knows_cached(self._root)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._root)

    def check(self) -> None:
        """Raises IoError if the folder itself was removed."""
        if not os.fstat(self._root).st_nlink:
            raise IoError("the shared folder was removed on the host")

    def sync(self) -> None:
        """Until everything that was written to its filesystem is stable.  Raises OSError."""
        _checked(_libc.syncfs(self._root))

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


def openat2(parent: int, path: bytes, flags: int, mode: int, cached: int) -> int:
    """A descriptor of *path*, which stays below *parent* and on its filesystem.  Raises OSError."""
    how = _HOW.pack(flags | os.O_CLOEXEC, mode, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS | _NO_XDEV | cached)
    return _checked(_libc.syscall(_OPENAT2, parent, path, how, len(how)))


def reach(base: int, path: bytes, cached: int = 0) -> int:
    """A descriptor of what is at *path* below *base*, of a link itself, too; it reads and writes nothing."""
    return openat2(base, path, os.O_PATH | os.O_NOFOLLOW, 0, cached)


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


def listing(fd: int, cookie: int, size: int) -> bytes:
    """The entries of the folder *fd* behind *cookie*, packed, *size* bytes at most.  Raises OSError."""
    os.lseek(fd, cookie, os.SEEK_SET)
    buffer = ctypes.create_string_buffer(size)
    entries: list[Entry] = []
    while not entries:  # . and .. may be all that comes at first
        end = _checked(_libc.getdents64(fd, buffer, ctypes.c_size_t(size)))
        if not end:
            break
        entries = list(_entries(fd, buffer.raw[:end]))
    return pack(entries)


def _entries(fd: int, data: bytes) -> Iterator[Entry]:
    """What getdents64 gave; packed it is shorter."""
    at = 0
    while at < len(data):
        number, cookie, length, sort = _DIRENT.unpack_from(data, at)
        name = data[at + _DIRENT.size : at + length].partition(b"\0")[0]
        at += length
        if name in (b".", b".."):
            continue
        mode = sort << 12  # IFTODT of dirent.h
        if not mode:  # a filesystem that does not know
            with contextlib.suppress(FileNotFoundError):
                mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        yield Entry(cookie, number, _KINDS.get(stat.S_IFMT(mode), Kind.OTHER), name)


def _checked(result: int) -> int:
    """What a call of the C library returned.  Raises OSError."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _filesystem(fd: int) -> int:
    """Its magic number: who knows how long one over a network takes?"""
    info = ctypes.create_string_buffer(256)  # struct statfs, statfs(2), whose first field is f_type
    return 0 if _libc.fstatfs(fd, info) else ctypes.c_long.from_buffer(info).value


def _knows_cached(fd: int) -> bool:
    """Whether the kernel does: Linux 5.12."""
    try:
        os.close(reach(fd, b".", CACHED))
    except OSError as error:
        return error.errno == errno.EAGAIN
    return True


def itself(fd: int) -> str:
    """A path that is what *fd* is, whatever its name is now."""
    return f"/proc/self/fd/{fd}"


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


def kind_of(info: os.stat_result) -> int:
    """What the guest is told that it is, see `Kind`."""
    return int(_KINDS.get(stat.S_IFMT(info.st_mode), Kind.OTHER))


def check_kind(fd: int, wanted: Kind | None = None) -> None:
    """That *fd* is a file or a folder, or of the *wanted* kind.  Raises OSError, as opening it would."""
    kind = kind_of(os.fstat(fd))
    if kind != wanted and (wanted is not None or kind in (Kind.LINK, Kind.OTHER)):
        raise OSError(_WRONG[kind], os.strerror(_WRONG[kind]))
