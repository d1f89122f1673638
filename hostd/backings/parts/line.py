"""A peer at the other end of a socket, or none, and what is kept for one; whether the device listens or connects."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from hcall.saved import Saved
from hostd.backing import Backing, Port
from hostd.device import Room
from hostd.stream import first

T = TypeVar("T", int, bytes)
log = logging.getLogger(__name__)

_CHUNK: Final = 64 * 1024
_KEPT: Final = 64 * 1024  # bytes that wait for a peer
_DROP_READS: Final = 128  # more than a socket holds (tcp(7): 6 MiB); a peer that never stops is not waited for
_KEEPALIVE: Final = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}  # gone after a minute


class Line(Backing):
    """A peer, or none, and what is kept for one."""

    _peer: socket.socket | None = None
    _reading = False
    _listens = True  # the peer, to what is sent to it

    def __init__(self) -> None:
        self._kept = bytearray()

    def start(self, port: Port) -> None:
        self._port, self._loop = port, asyncio.get_running_loop()
        if self._peer is not None:  # that of the one that was saved
            self._reading = True
            self._loop.add_reader(self._peer, self._readable)
            self._loop.add_writer(self._peer, self._writable)

    def stop(self) -> None:
        self._part()

    def save(self) -> tuple[Saved, Sequence[int]]:
        fds = () if self._peer is None else (self._peer.fileno(),)
        return {"kept": bytes(self._kept), "listens": self._listens}, fds

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        self._kept, self._listens = bytearray(saved["kept"]), saved["listens"]
        self._loop = asyncio.get_running_loop()
        for fd in fds:
            self._peer = socket_of(fd)

    def cede(self) -> None:
        self._part()

    def write(self, data: bytes | memoryview) -> int:
        done = 0
        if not self._kept and self._peer is not None and self._listens:  # most often it takes all of it at once
            with contextlib.suppress(OSError):  # `_send` deals with it
                done = self._peer.send(data)
        while taken := data[done : done + _KEPT - len(self._kept)]:
            self._kept += taken
            self._send()
            done += len(taken)
        return done

    def fetch(self, into: Room) -> int:
        """It asks always: of a connection that has failed uvloop tells once, see `_look_again`."""
        return self._receive_into(into)

    def resume(self) -> None:
        if self._peer is not None and not self._reading and (self._port.awaited is not None or self._port.ahead):
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

    def _part(self) -> None:
        """From the peer, if there is one."""
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
        if (room := self._port.awaited) is not None:
            if count := self._receive_into(room):
                self._port.filled(count)
        elif not (space := self._port.ahead):  # the guest does not read: leave it in the socket, which stops the peer
            self._reading = False
            self._loop.remove_reader(self._peer)
        elif data := self._receive(min(space, _CHUNK)):
            self._port.send(data)
            self._look_again()

    def _look_again(self) -> None:
        """Be told of the peer anew.

        uvloop tells once that a connection has failed, and then nothing more of it, though there is more to read; and
        if a write has met the failure, the socket does not show it any more.
        """
        if self._peer is not None and self._reading:
            self._reading = False
            self._loop.remove_reader(self._peer)
            self.resume()

    def _receive(self, count: int) -> bytes:
        """What the peer has sent; nothing if nothing waits, or if it has gone, and then there is none any more."""
        return self._from_peer(lambda peer: peer.recv(count), b"")

    def _receive_into(self, room: Room) -> int:
        """The same, for a guest who waits for it: how much."""
        return self._from_peer(lambda peer: peer.recv_into(first(room)), 0)

    def _from_peer(self, receive: Callable[[socket.socket], T], nothing: T) -> T:
        if self._peer is None:
            return nothing
        try:
            came = receive(self._peer)
        except BlockingIOError:
            return nothing
        except OSError as error:  # such as ECONNRESET, or ETIMEDOUT
            log.debug("%s: %s", self.endpoint, error)
            came = nothing
        if not came:
            self._part()
            self._port.parted()
        return came


def socket_of(fd: int) -> socket.socket:
    """That of a descriptor that somebody saved."""
    made = socket.socket(fileno=fd)
    made.setblocking(False)
    return made
