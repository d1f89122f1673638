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
import select
import socket
from pathlib import Path
from typing import Final

from hcall.clock import timeout
from hcall.kernel.claims import remove_stale
from hcall.programs.command import explain
from hcall.programs.endpoint import host_and_port

from hostd.backing import Backing, Port

log = logging.getLogger(__name__)

_CHUNK: Final = 64 * 1024
_KEPT: Final = 64 * 1024  # bytes that wait for a peer
_DROP_READS: Final = 128  # more than a socket holds (tcp(7): 6 MiB); a peer that never stops is not waited for
_BACKLOG: Final = 8
_UNIX_PATH: Final = 107  # bytes, unix(7): sun_path has 108, the last is a zero
_CONNECT_SECONDS: Final = 10
_KEEPALIVE: Final = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}  # gone after a minute


class _Line(Backing):
    """A peer, or none, and what is kept for one."""

    _peer: socket.socket | None = None
    _reading = False
    _listens = True  # the peer, to what is sent to it

    def start(self, port: Port) -> None:
        self._port, self._loop = port, asyncio.get_running_loop()
        self._kept = bytearray()

    def stop(self) -> None:
        self._leave()

    def write(self, data: bytes) -> int:
        done = 0
        while taken := data[done : done + _KEPT - len(self._kept)]:
            self._kept += taken
            self._send()
            done += len(taken)
        return done

    def resume(self) -> None:
        if self._peer is not None and not self._reading and self._port.space:
            self._reading = True
            self._loop.add_reader(self._peer, self._readable)

    def reset(self) -> None:
        """What was typed for one guest is not for the next.  What a guest wrote is for the host, and stays."""
        for _ in range(_DROP_READS):
            if not self._receive(_CHUNK):
                return

    def _join(self, peer: socket.socket) -> None:
        """Somebody is there."""
        peer.setblocking(False)
        if peer.family != socket.AF_UNIX:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE.items():
                peer.setsockopt(socket.IPPROTO_TCP, option, value)
        self._peer, self._reading, self._listens = peer, False, True
        self.resume()
        self._writable()

    def _leave(self) -> None:
        if self._peer is not None:
            self._loop.remove_reader(self._peer)
            self._loop.remove_writer(self._peer)
            self._peer.close()
            self._peer = None

    def _send(self) -> None:
        """Give the peer what it takes."""
        if self._peer is None or not self._listens:
            return
        try:
            while self._kept:
                del self._kept[: self._peer.send(self._kept[:_CHUNK])]
        except BlockingIOError:
            self._loop.add_writer(self._peer, self._writable)
        except OSError:  # it has gone, but what it said before may still wait to be read
            self._listens = False
            self._loop.remove_writer(self._peer)

    def _writable(self) -> None:
        assert self._peer is not None
        self._loop.remove_writer(self._peer)
        self._send()
        self._port.transmit()

    def _readable(self) -> None:
        assert self._peer is not None
        if not (space := self._port.space):  # the guest does not read: leave it in the socket, which stops the peer
            self._reading = False
            self._loop.remove_reader(self._peer)
        elif data := self._receive(min(space, _CHUNK)):
            self._port.send(data)
            if _has_failed(self._peer):  # uvloop tells that once, though there is more
                self._reading = False
                self._loop.remove_reader(self._peer)
                self._loop.remove_writer(self._peer)
                self.resume()

    def _receive(self, count: int) -> bytes:
        """What the peer has sent; nothing if nothing waits, or if it has gone, and then there is none any more."""
        if self._peer is None:
            return b""
        try:
            data = self._peer.recv(count)
        except BlockingIOError:
            return b""
        except OSError as error:  # such as ECONNRESET, or ETIMEDOUT
            log.info("%s: %s", self.endpoint, error)
            data = b""
        if not data:
            self._leave()
            self._port.parted()
        return data


class _Listener(_Line):
    """Whoever connects first is the peer; the next one is accepted when that has gone."""

    def start(self, port: Port) -> None:
        super().start(port)
        self._socket = self._listen()
        self._socket.setblocking(False)
        self.tick()

    def stop(self) -> None:
        super().stop()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def tick(self) -> None:
        if self._peer is None:
            self._loop.add_reader(self._socket, self._accept)

    def _leave(self) -> None:
        super()._leave()
        self.tick()

    def _listen(self) -> socket.socket:
        """The listening socket.  Raises OSError."""
        raise NotImplementedError

    def _accept(self) -> None:
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

    def __init__(self, rest: str, folder: Path) -> None:
        self._path = _unix_path(rest, folder)
        self.endpoint = f"unix:{self._path}"

    def stop(self) -> None:
        super().stop()
        with contextlib.suppress(OSError):
            if _identity(self._path) == self._made:  # else it is somebody else's by now
                self._path.unlink()

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
        host, self._number = host_and_port(rest)
        try:  # no names: to look one up may take long, and nothing else would go on meanwhile
            self._address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
        except ValueError:
            raise ValueError(f"{host!r} is no address of this host, such as 127.0.0.1, [::1] or localhost") from None

    def _listen(self) -> socket.socket:
        host = str(self._address)
        family = socket.AF_INET6 if self._address.version == 6 else socket.AF_INET
        try:
            listener = socket.create_server((host, self._number), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise OSError(error.errno, os.strerror(error.errno or 0), _tcp(host, self._number)) from None
        self.endpoint = _tcp(host, listener.getsockname()[1])
        return listener


class _Connection(_Line):
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


def _has_failed(peer: socket.socket) -> bool:
    """Whether the connection was reset, say; what came before can still be read."""
    poll = select.poll()
    poll.register(peer, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


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
