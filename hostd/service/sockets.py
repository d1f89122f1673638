"""The sockets of a host: handed over by whoever started it, or made in the runtime directory, one host at a time.

Those that are made have the right permissions, and nothing is left of them at the end; those that were handed over
(sd_listen_fds(3)) are used as they are.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import socket
import stat
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Final

from hcall.kernel.claims import remove_stale
from hcall.programs.mistakes import BadConfiguration, InUse
from hcall.rendezvous import CONTROL_SOCKET, GUEST_SOCKET, MSG_SOCKET, check_private

_LOCK: Final = "hostd.lock"
_MODES: Final = {GUEST_SOCKET: 0o660, CONTROL_SOCKET: 0o600, MSG_SOCKET: 0o660}
_BY_FD_NAME: Final = {"guest": GUEST_SOCKET, "control": CONTROL_SOCKET, "msg": MSG_SOCKET}
_TYPES: Final = {
    GUEST_SOCKET: socket.SOCK_STREAM, CONTROL_SOCKET: socket.SOCK_STREAM, MSG_SOCKET: socket.SOCK_SEQPACKET,
}  # fmt: skip
_WORDS: Final = {socket.SOCK_STREAM: "stream", socket.SOCK_SEQPACKET: "seqpacket"}
_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START


class AlreadyServed(InUse):
    """Another host serves this runtime directory."""


class WrongSocket(BadConfiguration):
    """A descriptor was handed over that is none of ours."""

    def __init__(self, line: str) -> None:
        super().__init__([line])


def handed_over(environ: MutableMapping[str, str]) -> dict[str, socket.socket]:
    """Listening sockets that this process was started with, by name as in `listeners`; the caller's to close.

    They are known by their descriptor's name, `guest`, `control` or `msg`, else by their file's.  The variables are
    taken out of *environ*, and no child inherits the sockets.  Raises WrongSocket.
    """
    pid, count, fd_names = (environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()):  # for somebody else: a process that started this one, say
        return {}
    if not count.isdecimal():
        raise WrongSocket(f"LISTEN_FDS={count!r} is no number")
    found: dict[str, socket.socket] = {}
    with contextlib.ExitStack() as stack:
        names = itertools.chain(fd_names.split(":"), itertools.repeat(""))
        for fd, fd_name in zip(range(_FIRST_FD, _FIRST_FD + int(count)), names, strict=False):
            sock = stack.enter_context(_adopt(fd))
            path = sock.getsockname()
            name = _BY_FD_NAME.get(fd_name, Path(path).name)
            if name not in _MODES:
                raise WrongSocket(f"descriptor {fd} ({fd_name or 'no name'}, {path}) is neither guest nor control")
            if sock.type != _TYPES[name]:
                raise WrongSocket(f"descriptor {fd} is no listening Unix {_WORDS[_TYPES[name]]} socket with a path")
            if name in found:
                raise WrongSocket(f"descriptor {fd} ({fd_name or 'no name'}, {path}): {name} was handed over twice")
            found[name] = sock
        stack.pop_all()
    return found


def _adopt(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise WrongSocket(f"descriptor {fd} is no socket: {error.strerror}") from None
    listens = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    fits = sock.family == socket.AF_UNIX and sock.type in _WORDS and listens == 1
    if not fits or not isinstance(sock.getsockname(), str):  # without a path there are no permissions
        sock.close()
        raise WrongSocket(f"descriptor {fd} is no listening Unix stream socket with a path")
    return sock


@contextlib.contextmanager
def listeners(
    directory: Path, given: Mapping[str, socket.socket] | None = None, msg: bool = False
) -> Iterator[dict[str, socket.socket]]:
    """Listening sockets by name: those *given*, the others in *directory*, which is made if it is missing.

    With *msg* there is one for the bus of virtio-msg.
    Raises AlreadyServed, or OSError.  A socket file that a killed host left is removed: holding the lock, and getting
    no answer from it, there is nobody behind it.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(directory, serving=True)
    with contextlib.ExitStack() as stack:
        lock = _lock(directory / _LOCK)
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyServed(f"another hostd serves {directory}: give this one its own --runtime-dir") from None
        bound = dict(given or {})
        for name in _MODES:
            if name not in bound and (msg or name != MSG_SOCKET):
                bound[name] = stack.enter_context(_bound(directory / name, name))
        yield bound


def let_in(sockets: Mapping[str, Path], others: Mapping[str, bool]) -> str | None:
    """The *sockets*, by name, that are for others, too, are open to everybody: who may come is asked of each who does.

    What is wrong if nobody comes that far.
    """
    for name, path in sockets.items():
        path.chmod(0o666 if others[name] else _MODES[name])
    for name, path in sockets.items():
        for each in path.parents if others[name] else ():
            if not each.stat().st_mode & 0o011:
                return f"nobody else comes to {path}, for whom the machine file has rules: chmod a+x {each}"
    return None


def _lock(path: Path) -> int:
    """The file to lock.  Raises PermissionError if it is somebody else's, or leads to what is."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PermissionError(f"{path} is a symbolic link: remove it") from None
        raise
    info = os.fstat(lock)
    if stat.S_ISREG(info.st_mode) and info.st_uid in (os.getuid(), 0):
        return lock
    os.close(lock)
    raise PermissionError(f"{path} is no file of yours: remove it, or name another directory")


@contextlib.contextmanager
def _bound(path: Path, name: str) -> Iterator[socket.socket]:
    """The listening socket *name* at *path*, which is gone at the end, wherever the program has gone meanwhile."""
    there = path.absolute()
    remove_stale(path)
    if path.is_socket():
        raise AlreadyServed(f"somebody listens at {path}")
    with socket.socket(socket.AF_UNIX, _TYPES[name]) as listener:
        try:
            listener.bind(str(path))
            path.chmod(_MODES[name])  # in time: nobody gets in before it listens
        except OSError as error:
            raise OSError(error.errno, f"{path}: {error.strerror or error}") from None
        try:
            listener.listen(4096)  # 1,000 guests may come at once
            yield listener
        finally:
            there.unlink(missing_ok=True)
