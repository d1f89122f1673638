"""Where the programs that use an export come to: paths and sockets, of which nothing is left behind."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from hcall.kernel.claims import claim, remove_stale
from hcall.programs.endpoint import Kind, host_and_port

from . import Export


@contextlib.contextmanager
def listening_at(path: str) -> Iterator[socket.socket]:
    """A Unix socket that only its owner can reach; its file is gone at the end.

    One that a killed process left is replaced.  Raises OSError, with *path*, if anything else is there.
    """
    file = Path(path)
    with claim(file), socket.socket(socket.AF_UNIX) as listener:
        try:
            remove_stale(file)
            listener.bind(path)
            file.chmod(0o600)
            listener.listen()
        except OSError as error:  # a path that is too long has no strerror
            raise OSError(error.errno or errno.ENAMETOOLONG, error.strerror or str(error), path) from None
        listener.setblocking(False)
        made = file.stat()
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_ino == made.st_ino:  # else somebody replaced it
                    file.unlink()


@contextlib.contextmanager
def listening_on(host: str, port: int) -> Iterator[socket.socket]:
    """A TCP socket; port 0 is any that is free.  Raises OSError, with the address."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"{host}:{port}") from None
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
        except OSError as error:
            raise OSError(error.errno, error.strerror, f"{host}:{port}") from None
        listener.setblocking(False)
        yield listener


class AtUnix(Export):
    """An export at `unix:PATH`, a Unix socket."""

    kind = Kind("unix:", "PATH")

    def opened(self) -> AbstractContextManager[socket.socket]:
        """The socket that listens.  Raises OSError."""
        return listening_at(self.rest)


class AtTcp(Export):
    """An export at `tcp:HOST:PORT`; port 0 is any that is free."""

    kind = Kind("tcp:", "HOST:PORT")

    def __init__(self, device: str, rest: str) -> None:
        super().__init__(device, rest)
        self._host, self._port = host_and_port(rest)

    @contextlib.contextmanager
    def opened(self) -> Iterator[socket.socket]:
        """The socket that listens.  Raises OSError."""
        with listening_on(self._host, self._port) as listener:
            self.rest = f"{self.rest.rpartition(':')[0]}:{listener.getsockname()[1]}"
            yield listener
