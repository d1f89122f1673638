"""The runtime directory: one host at a time, sockets with the right permissions, nothing left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from protocol.command import Exit, Failure
from protocol.rendezvous import CONTROL_SOCKET, GUEST_SOCKET, check_private

_LOCK: Final = "hostd.lock"
_MODES: Final = {GUEST_SOCKET: 0o660, CONTROL_SOCKET: 0o600}


class AlreadyServed(Failure):
    """Another host serves this runtime directory."""

    def __init__(self, text: str) -> None:
        super().__init__(text, Exit.BUSY)


@contextlib.contextmanager
def listeners(directory: Path) -> Iterator[dict[str, socket.socket]]:
    """Listening sockets by name in *directory*, which is made if it is missing.

    Raises AlreadyServed, or OSError.  A socket file that a killed host left is removed: holding the lock, and getting
    no answer from it, there is nobody behind it.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(directory)
    with contextlib.ExitStack() as stack:
        lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyServed(f"another hostd serves {directory}") from None
        bound = {}
        for name, mode in _MODES.items():
            path = directory / name
            _remove_stale(path)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            umask = os.umask(0o777 & ~mode)  # the socket is never, not for a moment, open to more
            try:
                listener.bind(str(path))
            except OSError as error:
                raise OSError(error.errno, f"{path}: {error.strerror or error}") from None
            finally:
                os.umask(umask)
            stack.callback(path.unlink, missing_ok=True)
            listener.listen(512)
            bound[name] = listener
        yield bound


def _remove_stale(path: Path) -> None:
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # a full queue is somebody's, too
    raise AlreadyServed(f"somebody listens at {path}")
