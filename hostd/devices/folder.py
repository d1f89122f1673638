"""A folder of the host, shared with a guest, after virtio-fs and 9P.

The guest names files as POSIX's at-calls do: a node, which is a number, and a path below it.  The kernel finds them
(openat2), and never leaves the folder: no symbolic link is followed, no other mount entered, whoever renames what
meanwhile.  A node is a path and the file that was there; it is found anew for each use, so that a folder that was moved
away is out of reach.  What the kernel knows by heart is answered at once; what may wait for the disk goes to a worker.
"""

import errno
import os
import stat
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar

from hcall.errors import BadArgument, Busy, HcallError, NoMatch, ReadOnly
from hcall.formats.folder import MAX_ENTRY, MAX_FETCHED, Access, check_path, pack
from hostd.backings.folder import File, Tree, missing
from hostd.backings.parts import beneath
from hostd.backings.parts.beneath import CACHED
from hostd.backings.parts.pieces import MOST, part
from hostd.backings.parts.sweep import store, sweep
from hostd.backings.parts.telling import told
from hostd.device import Config, Data, Device, Feature, Later, Property, Room, Saved, State, Steps, call

T = TypeVar("T")
_Opened: TypeAlias = tuple[int, int, int]  # number, size, permissions

_READ, _WRITE, _CREATE, _, _TRUNCATE = map(int, Access)  # to combine flags takes 10 times as long
_MAX_FILES = 64  # open at a time: each is a descriptor of the daemon
_READ_NOW = 1 << 20  # bytes: as of a disk
_WRITE_NOW = 64 * 1024
_LISTING = 64 * 1024  # bytes of a folder that are read at a time
_SWEPT = 256 * 1024  # bytes that are fetched at a time
_SWEEP_SECONDS = 0.02  # of one call: a slow disk has not all of them
_MAX_TAG = 36  # bytes: virtio 1.2, 5.11.4


class Tag(str):
    """What a guest mounts it by."""

    @classmethod
    def parse(cls, text: str, folder: Path) -> "Tag":
        """1 to 36 bytes, or none.  Raises ValueError."""
        if len(text.encode()) > _MAX_TAG or not all(map(str.isprintable, text)):
            raise ValueError(f"{text!r} is no tag: 1 to {_MAX_TAG} bytes that can be printed")
        return cls(text)


class Folder(Device):
    """Files of a folder of the host.  A path is below a node; node 0 is the folder itself, and so is no path."""

    compatible, ids = "hostd,folder", (0x1AF4, 0x105A)
    class_code = 0x018000  # mass storage
    path = Config(Path, help="the folder of the host")
    tag = Config(Tag, "", help="what guests know it by; else the device's name")
    read_only = Config(bool, False)
    create = Config(bool, False, help="make the folder if there is none")
    mount_tag = Property(str)
    RO = Feature(5)
    _last = State(int, kept=True)  # number of a file: none is given twice

    def check_isolated(self) -> None:
        if self.tag:
            raise ValueError("a tag is one folder's of a host, which a process of its own cannot see: leave it out")

    def start(self) -> None:
        if self.tag and ("tag", self.tag) in self.common:
            raise OSError(errno.EBUSY, "the tag of another folder", self.tag)
        if self.create and not self.path.exists():
            self.path.mkdir(parents=True)
        try:
            self._tree = Tree(self.path)
        except FileNotFoundError as error:
            raise OSError(error.errno, f"{error.strerror}; create = true would make it", str(self.path)) from None
        self._lock = threading.Lock()  # workers open files, too
        self._files: dict[int, File | None] = {}  # by number; None while it is being opened
        if self.tag:
            self.mount_tag = str(self.tag)
            self.common["tag", self.tag] = self  # until it is stopped: a guest mounts by it
        if not self.read_only:
            self.offered &= ~self.RO.mask

    def reset(self) -> None:
        """All files are closed.  A folder that was removed, and is there again, is used from now on."""
        self._close_all()
        self._tree.renew()

    def save(self) -> Saved:
        """An open file is found again by its name; one that has none any more, or another, is closed."""
        opened = {number: file for number, file in self._files.items() if file is not None}
        return {**super().save(), **self._tree.save(opened)}

    def load(self, saved: Saved) -> None:
        super().load(saved)
        self._files = dict(self._tree.load(saved))

    def stop(self) -> None:
        if self.common.get(("tag", self.tag)) is self:
            del self.common["tag", self.tag]
        self._close_all()
        self._tree.close()

    # Nodes.

    @call
    def walk(self, at: int, path: bytes) -> Later[tuple[int, int]] | tuple[int, int]:
        """A new node, for *path* below the node *at*, and its kind.  Errors: NoMatch, Busy for too many."""
        return self._quickly(partial(self._tree.walk, at, path), path)

    @call
    def forget(self, node: int) -> None:
        """The guest is through with *node*."""
        self._tree.forget(node)

    @call(again=True)
    def stat(self, at: int, path: bytes) -> Later[tuple[int, ...]] | tuple[int, ...]:
        """Its kind, id, size, permissions, and time of change in ns since 1970; those of a link itself, too."""
        return self._quickly(partial(self._tree.stat, at, path), path)

    @call(again=True)
    def read_link(self, into: Room, at: int, path: bytes) -> Later[int] | int:
        """What a symbolic link says; it is for the guest to make something of.  Errors: BadArgument if it is none."""
        return self._quickly(lambda cached: into.put(self._tree.read_link(at, path, cached)), path)

    # Open files and folders.

    @call
    def open_file(self, at: int, path: bytes, access: int, mode: int) -> Later[_Opened] | _Opened:
        """Open a file as *access* says; its number, size and permissions.  *mode* is for one that is made."""
        if not 0 <= access < 2 * _TRUNCATE or not access & (_READ | _WRITE):
            raise BadArgument(f"a file is opened to READ (1), to WRITE (2) or both, not with {access}")
        if access & (_CREATE | _TRUNCATE) and not access & _WRITE:
            raise BadArgument("CREATE and TRUNCATE go with WRITE")
        _check_mode(mode)
        if access & _WRITE:
            self._check_writable()
        work = partial(self._open, path, partial(self._tree.open_file, at, path, access, mode))
        return self._slowly(work, path) if access & (_CREATE | _TRUNCATE) else self._quickly(work, path)

    @call
    def open_dir(self, at: int, path: bytes) -> Later[int] | int:
        """Open a folder to be read; its number."""
        work = partial(self._open, path, partial(self._tree.open_dir, at, path))
        return self._quickly(lambda cached: work(cached)[0], path)

    @call
    def close_file(self, file: int) -> Later[None] | None:
        """Close a file or a folder."""
        self._file(file)
        if not self._tree.local:
            return self.offload(self._close, file)
        self._close(file)
        return None

    @call(again=True)
    def read_file(self, into: Room, file: int, at: int) -> Later[int] | int:
        """Bytes from *at* on; a count may be short, 0 is the end."""
        return self._moved(os.preadv, self._file(file, at), into, at, into.nbytes <= _READ_NOW)

    @call
    def write_file(self, data: Data, file: int, at: int) -> Later[int] | int:
        """Write at *at*; a count may be short.  Errors: NoSpace."""
        return self._moved(os.pwritev, self._file(file, at), data, at, data.nbytes <= _WRITE_NOW)

    def _moved(self, move: Callable[..., int], opened: File, area: Room | Data, at: int, now: bool) -> Later[int] | int:
        """Some of it; *now*, if that waits for nothing."""
        if now and len(area) <= MOST and self._tree.local:
            flags = 0 if self._tree.memory else os.RWF_NOWAIT
            try:
                return self._on_file(opened, lambda fd: move(fd, area, at, flags))
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EOPNOTSUPP):  # not in the page cache, or who knows
                    raise

        def work(fd: int) -> int:
            with part(area) as some:
                return move(fd, some, at)

        return self.offload(self._on_file, opened, work)

    @call
    def truncate_file(self, file: int, size: int) -> Later[None]:
        """Make the file so long."""
        return self.offload(self._on_file, self._file(file, size), lambda fd: os.ftruncate(fd, size))

    @call
    def sync_file(self, file: int) -> Later[None]:
        """Until the file is stable."""
        return self.offload(self._on_file, self._file(file), os.fsync)

    @call(again=True)
    def read_dir(self, into: Room, file: int, cookie: int) -> Later[int] | int:
        """Entries behind *cookie*, which is 0 at first, then the last entry's; none at all is the end.

        What is there throughout comes once, whatever comes and goes meanwhile.
        """
        if into.nbytes < 2 * MAX_ENTRY:
            raise BadArgument(f"a folder is read with room for {2 * MAX_ENTRY} bytes, not {into.nbytes}")
        work = partial(self._read_dir, self._file(file, cookie), into, cookie)
        return work() if self._tree.memory else self.offload(work)

    def sync(self) -> Later[None]:
        """Until everything that was written to the folder's filesystem is stable."""
        return self.offload(self._tree.sync)

    # Changes.

    @call
    def make_dir(self, at: int, path: bytes, mode: int) -> Later[None]:
        """Make a folder.  Errors: NotAllowed if there is something."""
        _check_mode(mode)
        return self._change(at, path, partial(os.mkdir, mode=mode))

    @call
    def unlink(self, at: int, path: bytes) -> Later[None]:
        """Remove what is no folder; who has it open keeps it until it is closed."""
        return self._change(at, path, os.unlink)

    @call
    def remove_dir(self, at: int, path: bytes) -> Later[None]:
        """Remove an empty folder.  Errors: NotAllowed if it is not empty."""
        return self._change(at, path, os.rmdir)

    @call
    def rename(self, at: int, path: bytes, to: int, new_path: bytes) -> Later[None]:
        """Move it in one step; a file that has the new name is replaced.  Nodes go with it."""
        self._check_writable()
        return self._slowly(lambda _: self._tree.rename(at, path, to, new_path), path, new_path)

    @call
    def chmod(self, at: int, path: bytes, mode: int) -> Later[None]:
        """Set the permissions of a file or folder, 0 to 0o777."""
        _check_mode(mode)
        return self._set(at, path, partial(os.chmod, mode=mode))

    @call
    def utimens(self, at: int, path: bytes, accessed: int, modified: int) -> Later[None]:
        """Set the times of a file or folder, in ns since 1970."""
        return self._set(at, path, partial(os.utime, ns=(accessed, modified)))

    # Many at once.

    @call(again=True)
    def fetch_dir(self, into: Room, file: int, cookie: int) -> Later[int] | int:
        """As `read_dir`, with what `stat` tells of each, and all bytes of small files: as far as it is at hand."""
        if into.nbytes < MAX_FETCHED:
            raise BadArgument(f"a folder is fetched with room for {MAX_FETCHED} bytes, not {into.nbytes}")
        opened = self._file(file, cookie)
        if self._tree.memory and self._tree.local:
            return self.in_parts(self._fetch_dir(opened, into, cookie, CACHED))
        return self.offload(self._fetch_dir, opened, into, cookie, 0)

    @call
    def store_dir(self, data: Data, file: int) -> Later[int]:
        """Make files in a folder, or write them anew; how many bytes of *data* those are that are written."""
        self._check_writable()
        return self.offload(self._store_dir, self._file(file), data)

    # Now, or in a worker thread.

    def _quickly(self, work: Callable[[int], T], path: bytes) -> T | Later[T]:
        """Do *work* at once if the kernel has in memory what it takes."""
        _check(path)
        if self._tree.local:
            try:
                return self._told(work, CACHED, path)
            except BlockingIOError:
                pass
        return self._slowly(work, path)

    def _slowly(self, work: Callable[[int], T], *paths: bytes) -> Later[T]:
        for path in paths:
            _check(path)
        return self.offload(self._told, work, 0, *paths)

    def _change(self, at: int, path: bytes, work: Callable[..., None]) -> Later[None]:
        """Do *work*(name, dir_fd=...)."""
        self._check_writable()

        def change(_: int) -> None:
            with self._tree.parent(at, path) as (parent, name):
                work(name, dir_fd=parent)

        return self._slowly(change, path)

    def _set(self, at: int, path: bytes, work: Callable[[str], None]) -> Later[None]:
        """Do *work*(path of the file itself)."""
        self._check_writable()

        def change(_: int) -> None:
            with self._tree.found(at, path) as fd:
                beneath.check_kind(fd)
                work(beneath.itself(fd))

        return self._slowly(change, path)

    def _told(self, work: Callable[[int], T], cached: int, *paths: bytes) -> T:
        """Do *work*; what goes wrong is said of *paths*."""
        try:
            return told(partial(work, cached), *paths)
        except NoMatch:
            self._tree.check()
            raise

    @staticmethod
    def _on_file(opened: File, work: Callable[[int], T]) -> T:
        with opened as fd:
            return told(partial(work, fd), opened.path)

    def _close(self, file: int) -> None:
        opened = self._files.pop(file, None)
        if opened is None:  # a second call was faster
            raise self._missing(file)
        opened.close()

    def _read_dir(self, opened: File, into: Room, cookie: int) -> int:
        size = min(into.nbytes, _LISTING)
        return self._on_file(opened, lambda fd: into.put(pack(opened.listed(fd, cookie, size))))

    def _fetch_dir(self, opened: File, into: Room, cookie: int, cached: int) -> Steps[int]:
        time = self.clock.time
        room = into[0] if len(into) == 1 else memoryview(bytearray(min(into.nbytes, _SWEPT)))
        with opened as fd, room[:_SWEPT] as swept:
            self._tree.check_inside(fd)
            count = yield from sweep(fd, cookie, swept, cached, opened.listed, time, time() + _SWEEP_SECONDS)
            return count if len(into) == 1 else into.put(swept[:count])

    def _store_dir(self, opened: File, data: Data) -> Steps[int]:
        time = self.clock.time
        with opened as fd, part(data) as pieces:
            self._tree.check_inside(fd)
            files = pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))
            return (yield from store(fd, files, time, time() + _SWEEP_SECONDS))

    # What is open.

    def _open(self, path: bytes, work: Callable[[int], int], cached: int) -> _Opened:
        """What is known of the file that *work* opens.  Its number is taken before, so that none is made in vain."""
        with self._lock:
            if len(self._files) >= _MAX_FILES:
                raise Busy(f"a guest has at most {_MAX_FILES} files of a folder open: close some")
            self._last = number = self._last + 1
            self._files[number] = None
        try:
            fd = work(cached)
        except BaseException:
            del self._files[number]
            raise
        self._files[number] = File(fd, path)
        info = os.fstat(fd)
        return number, info.st_size, stat.S_IMODE(info.st_mode)

    def _file(self, file: int, at: int = 0) -> File:
        opened = self._files.get(file)
        if opened is None:
            raise self._missing(file)
        if at < 0:
            raise BadArgument(f"{at} is before the beginning")
        return opened

    def _missing(self, file: int) -> HcallError:
        return missing(file, self._last, "file")

    def _check_writable(self) -> None:
        if self.read_only:
            raise ReadOnly("this folder is shared read-only")

    def _close_all(self) -> None:
        for opened in filter(None, self._files.values()):
            (File.close if self._tree.local else partial(self.offload, File.close))(opened)  # it may wait for the disk
        self._files.clear()


def _check(path: bytes) -> None:
    try:
        check_path(path)
    except ValueError as error:
        raise BadArgument(str(error)) from None


def _check_mode(mode: int) -> None:
    if not 0 <= mode <= 0o777:
        raise BadArgument(f"permissions are 0 to 0o777, not {mode:#o}")
