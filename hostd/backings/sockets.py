"""A socket of the host as a plain stream of bytes.

unix:PATH               listens; PATH is gone at the end
tcp:HOST:PORT           listens; HOST is an address of this host, port 0 any free one, see the property `endpoint`
connect:unix:PATH       connects to who listens there, and again, once a second, while nobody does
connect:tcp:HOST:PORT   the same

One peer at a time: another one waits until that has gone.  What the guest writes while nobody is there is kept, up to a
bound, for the peer that comes; then the guest has to wait.  A peer that ends its sending has gone: over TCP a close
looks no different.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hcall.clock import timeout
from hcall.kernel.claims import remove_stale
from hcall.programs.command import explain
from hcall.programs.endpoint import host_and_port
from hcall.saved import Saved
from hostd.backing import Port

from .parts.line import Line, socket_of

log = logging.getLogger(__name__)

_BACKLOG: Final = 8
_UNIX_PATH: Final = 107  # bytes, unix(7): sun_path has 108, the last is a zero
_CONNECT_SECONDS: Final = 10


class _Listener(Line):
    """Whoever connects first is the peer; the next one is accepted when that has gone."""

    _socket: socket.socket | None = None

    def start(self, port: Port) -> None:
        super().start(port)
        if self._socket is None:
            self._socket = self._listen()
            self._socket.setblocking(False)
        self.tick()

    def stop(self) -> None:
        listener, self._socket = self._socket, None
        super().stop()
        if listener is not None:
            self._loop.remove_reader(listener)
            listener.close()

    def save(self) -> tuple[Saved, Sequence[int]]:
        assert self._socket is not None
        saved, fds = super().save()
        return saved, (self._socket.fileno(), *fds)

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        super().adopt(saved, fds[1:])
        self._socket = socket_of(fds[0])

    def cede(self) -> None:
        _Listener.stop(self)

    def tick(self) -> None:
        if self._peer is None and self._socket is not None:
            self._loop.add_reader(self._socket, self._accept)

    def _part(self) -> None:
        super()._part()
        self.tick()

    def _listen(self) -> socket.socket:
        """The listening socket.  Raises OSError."""
        raise NotImplementedError

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            peer, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptors, say: the loop would ask again at once, and for ever
            log.error("%s: %s", self.endpoint, error)
        else:
            self._join(peer)
        self._loop.remove_reader(self._socket)


class UnixListener(_Listener):
    """Listens at a path, for this user only."""

    _made: tuple[int, int] | None = None  # what is at the path, if it is to go with this

    def __init__(self, rest: str, folder: Path) -> None:
        super().__init__()
        self._path = _unix_path(rest, folder)
        self.endpoint = f"unix:{self._path}"

    def stop(self) -> None:
        super().stop()
        with contextlib.suppress(OSError):
            if _identity(self._path) == self._made:  # else it is somebody else's by now
                self._path.unlink()

    def save(self) -> tuple[Saved, Sequence[int]]:
        saved, fds = super().save()
        return {**saved, "made": self._made}, fds

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        super().adopt(saved, fds)
        self._made = tuple(saved["made"])

    def cede(self) -> None:
        super().cede()
        self._made = None

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        try:
            remove_stale(self._path)
            listener.bind(str(self._path))
            self._made = _identity(self._path)
            self._path.chmod(0o600)  # in time: nobody gets in before it listens.  A umask would be the workers', too
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        return listener


class TcpListener(_Listener):
    """Listens at an address."""

    def __init__(self, rest: str, folder: Path) -> None:
        super().__init__()
        host, self._number = host_and_port(rest)
        try:  # no names: to look one up may take long, and nothing else would go on meanwhile
            self._address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        except ValueError:
            raise ValueError(f"{host!r} is no address of this host, such as 127.0.0.1, [::1] or localhost") from None

    def start(self, port: Port) -> None:
        super().start(port)
        assert self._socket is not None
        self.endpoint = _tcp(str(self._address), self._socket.getsockname()[1])

    def _listen(self) -> socket.socket:
        host = str(self._address)
        family = socket.AF_INET6 if self._address.version == 6 else socket.AF_INET
        try:
            return socket.create_server((host, self._number), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), _tcp(host, self._number)) from None


class _Connection(Line):
    """Connects, and again when the peer has gone."""

    _connecting: asyncio.Task[None] | None = None
    _said = False  # that nobody is there

    def start(self, port: Port) -> None:
        super().start(port)
        self.tick()

    def stop(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
        super().stop()

    def cede(self) -> None:
        self.stop()

    def tick(self) -> None:
        if self._peer is None and self._connecting is None:
            self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            async with timeout(self._port.clock, _CONNECT_SECONDS):
                peer = await self._open()
            self._said = False
            self._join(peer)
        except (OSError, ValueError) as error:  # of a name that is none, UnicodeError
            if not self._said:
                log.warning("%s: %s; trying again", self.endpoint, explain(error)[0])
            self._said = True
        finally:
            self._connecting = None

    async def _open(self) -> socket.socket:
        """A connected socket.  Raises OSError."""
        raise NotImplementedError


class UnixConnection(_Connection):
    """Connects to a path."""

    def __init__(self, rest: str, folder: Path) -> None:
        super().__init__()
        self._path = _unix_path(rest, folder)
        self.endpoint = f"unix:{self._path}"

    async def _open(self) -> socket.socket:
        peer = socket.socket(socket.AF_UNIX)
        try:
            peer.setblocking(False)
            peer.connect(str(self._path))  # never waits: it works, or does not
        except OSError:
            peer.close()
            raise
        return peer


class TcpConnection(_Connection):
    """Connects to a port of some host, by name or address."""

    def __init__(self, rest: str, folder: Path) -> None:
        super().__init__()
        self._host, self._number = host_and_port(rest)
        self.endpoint = _tcp(self._host, self._number)

    async def _open(self) -> socket.socket:
        failed = OSError("no address")
        for family, kind, proto, _, address in await self._loop.getaddrinfo(
            self._host, self._number, type=socket.SOCK_STREAM
        ):
            peer = socket.socket(family, kind, proto)
            try:
                peer.setblocking(False)
                await self._loop.sock_connect(peer, address)
                if peer.getsockname() == peer.getpeername():  # TCP can connect a free port with itself
                    raise ConnectionRefusedError("nobody listens")
                return peer
            except OSError as error:
                peer.close()
                failed = error
            except BaseException:
                peer.close()
                raise
        raise failed


def _tcp(host: str, port: int) -> str:
    return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"


def _unix_path(rest: str, folder: Path) -> Path:
    """Raises ValueError."""
    path = folder / rest
    if (length := len(os.fsencode(path))) > _UNIX_PATH:
        raise ValueError(f"{str(path)!r} has {length} bytes: the path of a Unix socket has {_UNIX_PATH} at most")
    return path


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
