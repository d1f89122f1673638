"""A filesystem that holds back what it is told to: in memory, straight on /dev/fuse.  Needs root."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

LOOKUP, GETATTR, OPEN, READ, WRITE, RELEASE, FLUSH, LINK, CREATE = 1, 3, 14, 15, 16, 18, 25, 13, 35  # linux/fuse.h
_SETATTR, _MKDIR, _UNLINK, _STATFS, _FSYNC, _INIT, _OPENDIR, _READDIR, _RELEASEDIR = 4, 9, 10, 17, 20, 26, 27, 28, 29
_FORGET, _INTERRUPT, _BATCH_FORGET, _GETXATTR = 2, 36, 42, 22
_HEAD: Final = 40
_NO_ANSWER: Final = (_FORGET, _INTERRUPT, _BATCH_FORGET)
_DIRECT_IO: Final = 1  # every write(2) comes at once
_FORCE, _DETACH = 1, 2  # umount2(2): whoever waits is told
_PATIENCE: Final = 10.0  # seconds; a loop that waits for what is held goes on then, and its test fails
MISSING: Final = "no FUSE: "
_libc = ctypes.CDLL(None, use_errno=True)


class _Node:
    def __init__(self, mode: int) -> None:
        self.mode, self.links, self.data = mode, 1, bytearray()
        self.names: dict[bytes, int] = {}


class _Request(NamedTuple):
    op: int
    unique: int
    node: int
    uid: int
    body: bytes


class SlowFiles:
    """Mounted at *folder*, until `close`; raises OSError where that cannot be."""

    def __init__(self, folder: Path, patience: float = _PATIENCE) -> None:
        self.folder, self._patience = folder, patience
        self._nodes = {1: _Node(stat.S_IFDIR | 0o777)}
        self._changed = threading.Condition()
        self._held: dict[int, tuple[float, int | None]] = {}  # what is held back, until when, and whose
        self._failing: dict[int, int] = {}
        self._waiting: list[_Request] = []
        self.made: Callable[[bytes], None] = lambda name: None  # called when somebody makes a file
        self.done: list[int] = []  # what was answered
        self.delay = 0.0  # seconds of each read and write
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if _libc.mount(b"slow", bytes(folder), b"fuse", 0, options):
            os.close(self._fd)
            raise OSError(number := ctypes.get_errno(), os.strerror(number))
        self._thread = threading.Thread(target=self._serve, name="slow files", daemon=True)
        self._thread.start()

    def hold(self, *ops: int, patience: float | None = None, uid: int | None = None) -> None:
        """Answer none of these, of that user, until `release`."""
        until = time.monotonic() + (self._patience if patience is None else patience)
        with self._changed:
            self._held |= dict.fromkeys(ops, (until, uid))

    def fail(self, op: int, number: int) -> None:
        """Answer with an error from now on, those that are held, too; 0: as it should be."""
        with self._changed:
            self._failing[op] = number

    def release(self, *ops: int) -> None:
        """Answer what was held back; none: all."""
        with self._changed:
            for op in ops or tuple(self._held):
                self._held.pop(op, None)
            waiting, self._waiting = self._waiting, []
            for request in waiting:
                self._take(request)

    def waits(self, op: int) -> bool:
        """Whether somebody waits for it."""
        with self._changed:
            return any(request.op == op for request in self._waiting)

    def close(self) -> None:
        """Answer all, and go."""
        self.release()
        _libc.umount2(bytes(self.folder), _FORCE | _DETACH)
        self._thread.join(_PATIENCE)
        os.close(self._fd)

    def _serve(self) -> None:
        timer = threading.Thread(target=self._relent, daemon=True)
        self._ended = False
        timer.start()
        try:
            while True:
                request = os.read(self._fd, 1 << 18)
                _, op, unique, node, uid = struct.unpack_from("<IIQQI", request)
                with self._changed:
                    if op not in _NO_ANSWER:
                        self._take(_Request(op, unique, node, uid, request[_HEAD:]))
        except OSError:  # nobody has it mounted any more
            pass
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            timer.join()

    def _relent(self) -> None:
        """Nothing is held for ever: a test that is wrong ends."""
        with self._changed:
            while not self._ended:
                self._changed.wait(0.2)
                now = time.monotonic()
                if over := [op for op, (until, _) in self._held.items() if until < now]:
                    for op in over:
                        del self._held[op]
                    waiting, self._waiting = self._waiting, []
                    for request in waiting:
                        self._take(request)

    def _take(self, request: _Request) -> None:
        op, unique, node, uid, body = request
        if op in self._held and self._held[op][1] in (None, uid):
            self._waiting.append(request)
            return
        if self.delay and op in (READ, WRITE):
            time.sleep(self.delay)
        error, data = self._failing.get(op, 0), b""
        if not error:
            try:
                data = self._ANSWERS[op](self, node, body) if op in self._ANSWERS else b""
                error = 0 if op in self._ANSWERS else errno.ENOSYS
            except OSError as mistake:
                error = mistake.errno or errno.EIO
        self.done.append(op)
        with contextlib.suppress(OSError):  # whoever asked was interrupted
            os.write(self._fd, struct.pack("<IiQ", 16 + len(data), -error, unique) + data)

    # What it is without all that.

    def _attributes(self, number: int) -> bytes:
        node = self._nodes[number]
        numbers = (number, len(node.data), 0, 0, 0, 0, 0, 0, 0, node.mode, node.links, 0, 0, 0, 4096, 0)
        return struct.pack("<6Q10I", *numbers)

    def _entry(self, number: int) -> bytes:
        return struct.pack("<QQQQII", number, 0, 0, 3600, 0, 0) + self._attributes(number)

    def _named(self, folder: int, name: bytes) -> int:
        try:
            return self._nodes[folder].names[name.rstrip(b"\0")]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "") from None

    def _add(self, folder: int, name: bytes, mode: int) -> int:
        number = max(self._nodes) + 1
        self._nodes[number] = _Node(mode)
        self._nodes[folder].names[name.rstrip(b"\0")] = number
        return number

    def _init(self, node: int, body: bytes) -> bytes:
        return struct.pack("<IIIIHHII", 7, 31, 65536, 0, 16, 12, 65536, 1).ljust(64, b"\0")

    def _lookup(self, node: int, body: bytes) -> bytes:
        return self._entry(self._named(node, body))

    def _getattr(self, node: int, body: bytes) -> bytes:
        return struct.pack("<QII", 3600, 0, 0) + self._attributes(node)

    def _setattr(self, node: int, body: bytes) -> bytes:
        valid, size = struct.unpack_from("<I12xQ", body)
        if valid & 8:
            data = self._nodes[node].data
            del data[size:]
            data.extend(bytes(size - len(data)))
        return self._getattr(node, body)

    def _mkdir(self, node: int, body: bytes) -> bytes:
        return self._entry(self._add(node, body[8:], stat.S_IFDIR | 0o777))

    def _create(self, node: int, body: bytes) -> bytes:
        self.made(body[16:].rstrip(b"\0"))
        return self._entry(self._add(node, body[16:], stat.S_IFREG | 0o666)) + self._open(node, body)

    def _open(self, node: int, body: bytes) -> bytes:
        return struct.pack("<QII", 0, _DIRECT_IO, 0)

    def _link(self, node: int, body: bytes) -> bytes:
        (old,) = struct.unpack_from("<Q", body)
        name = body[8:].rstrip(b"\0")
        if name in self._nodes[node].names:
            raise FileExistsError(errno.EEXIST, "")
        self._nodes[node].names[name] = old
        self._nodes[old].links += 1
        return self._entry(old)

    def _unlink(self, node: int, body: bytes) -> bytes:
        self._nodes[self._named(node, body)].links -= 1
        del self._nodes[node].names[body.rstrip(b"\0")]
        return b""

    def _read(self, node: int, body: bytes) -> bytes:
        offset, size = struct.unpack_from("<8xQI", body)
        return bytes(self._nodes[node].data[offset : offset + size])

    def _write(self, node: int, body: bytes) -> bytes:
        offset, size = struct.unpack_from("<8xQI", body)
        data = self._nodes[node].data
        data.extend(bytes(max(0, offset - len(data))))
        data[offset : offset + size] = body[40 : 40 + size]
        return struct.pack("<II", size, 0)

    def _readdir(self, node: int, body: bytes) -> bytes:
        start, size = struct.unpack_from("<8xQI", body)
        data = b""
        for at, (name, number) in enumerate(self._nodes[node].names.items()):
            if at >= start:
                entry = struct.pack("<QQII", number, at + 1, len(name), self._nodes[number].mode >> 12) + name
                entry += bytes(-len(entry) % 8)
                if len(data) + len(entry) > size:
                    break
                data += entry
        return data

    def _nothing(self, node: int, body: bytes) -> bytes:
        return b""

    def _statfs(self, node: int, body: bytes) -> bytes:
        return bytes(80)

    _ANSWERS: Final[dict[int, Callable[[SlowFiles, int, bytes], bytes]]] = {
        _INIT: _init, LOOKUP: _lookup, GETATTR: _getattr, _SETATTR: _setattr, _MKDIR: _mkdir, CREATE: _create,
        OPEN: _open, _OPENDIR: _open, LINK: _link, _UNLINK: _unlink, READ: _read, WRITE: _write, _READDIR: _readdir,
        RELEASE: _nothing, FLUSH: _nothing, _FSYNC: _nothing, _RELEASEDIR: _nothing, _STATFS: _statfs,
    }  # fmt: skip


def can_be() -> bool:
    """Whether there can be one here."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError):
        SlowFiles(Path(folder)).close()
        return True
    return False


@contextlib.contextmanager
def slow_files(folder: Path) -> Iterator[SlowFiles]:
    """One at *folder*/slow; the test is skipped where there can be none."""
    place = folder / "slow"
    place.mkdir()
    try:
        files = SlowFiles(place)
    except OSError as error:
        pytest.skip(f"{MISSING}{error.strerror}")
    try:
        yield files
    finally:
        files.close()
