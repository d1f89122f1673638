"""Sockets: who connects is greeted, and becomes a guest or comes back as one.  A Link is one connection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from typing import Any, Final, Protocol, cast

from hcall.clock import Clock
from hcall.errors import Busy, HcallError, ProtocolViolation, Status
from hcall.kernel import descriptors
from hcall.messages import FD_LANE, FEATURES, VERSION, WELCOME, Hello, Welcome, end
from hcall.session.host import HostSession
from hcall.wire import MAX_ITEMS, MAX_MESSAGE, encode

from ...calls.limits import HIGH_WATER, Limits
from ...guests.guest import Guest

log = logging.getLogger(__name__)

_LOW_WATER: Final = 64 * 1024  # bytes that wait for a guest: so few, and it is read from again
_PEERCRED: Final = struct.Struct("3i")  # pid, uid, gid


class Reception(Protocol):
    """Who lets guests in, and hears of their links."""

    limits: Limits
    clock: Clock
    epoch: int
    loop: asyncio.AbstractEventLoop
    changed: asyncio.Event
    links: set[Any]
    greetings: set[Any]

    def admit(self, hello: Hello, session: HostSession, uid: int, fds: list[int]) -> tuple[Guest, bool]:
        """The guest of *hello*, new, or known by its token; and whether it was known."""

    def connect(self, link: Link, sock: socket.socket) -> None:
        """Give *sock* to *link*."""

    def lost(self, guest: Guest) -> None:
        """The link of *guest* broke."""

    def end(self, guest: Guest, status: Status, text: str) -> None:
        """The session of *guest* is over."""


class Link(asyncio.Protocol):
    """One connection of a guest that was welcomed."""

    __slots__ = ("_guest", "_guests", "_receive", "_session", "_transport", "_welcome", "closing_since", "full_since",
                 "partial_since")  # fmt: skip

    def __init__(self, guests: Reception, guest: Guest, welcome: bytes) -> None:
        self._guests, self._guest, self._welcome = guests, guest, welcome
        self._session, self._receive = guest.session, guest.receive
        self._transport: asyncio.Transport | None = None
        self.partial_since: float | None = None  # when a message began that has not ended
        self.full_since: float | None = None  # when the guest stopped reading
        self.closing_since: float | None = None

    def connection_made(self, given: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, given)  # uvloop's is none by class
        transport.set_write_buffer_limits(high=HIGH_WATER, low=_LOW_WATER)
        self._guests.links.add(self)
        if self._guest.link is self:
            transport.write(self._welcome)
            self._guest.flush()
        elif self.closing_since is not None:  # the end overtook it
            transport.write(b"".join([self._welcome, *self._session.out]))
            transport.close()
        else:  # a still newer link did
            transport.abort()

    def data_received(self, data: bytes) -> None:
        broken = self._receive(data)
        if broken is not None:
            self._guests.end(self._guest, broken.status, str(broken))
        elif self._session.partial:
            if self.partial_since is None or self._session.partial_is_new:
                self.partial_since = self._guests.clock.time()
        else:
            self.partial_since = None

    def write(self, out: list[bytes]) -> None:
        """Send all of *out*, in one write, and empty it."""
        transport = self._transport
        if transport is None or not out:
            return
        transport.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()
        if self.full_since is not None and transport.get_write_buffer_size() > self._guests.limits.queued:
            log.warning("guest %r does not read: its link is cut", self._guest.name)
            transport.abort()

    def pause_writing(self) -> None:
        assert self._transport is not None
        self.full_since = self._guests.clock.time()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        assert self._transport is not None
        self.full_since = None
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._guests.links.discard(self)
        self._guests.changed.set()
        if self._guest.link is self:  # else a newer link carries the session, or it is over
            self._guests.lost(self._guest)

    def close(self) -> None:
        """Close when what was written has gone out; the sweep cuts it if that does not end."""
        self.closing_since = self._guests.clock.time()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Cut it."""
        if self._transport is not None:
            self._transport.abort()


class Greeting:
    """A connection whose HELLO has not come yet: read here, since a transport would drop the descriptors."""

    __slots__ = ("_came", "_fds", "_guests", "_session", "_sock", "since")

    def __init__(self, guests: Reception, sock: socket.socket) -> None:
        self._guests, self._sock = guests, sock
        self._session = HostSession(guests.limits.slots)
        self._fds: list[int] = []  # no more than the largest HELLO has
        self._came = 0  # how many there were
        self.since = guests.clock.time()
        guests.greetings.add(self)
        guests.loop.add_reader(sock, self._readable)

    def _readable(self) -> None:
        try:
            most = self._guests.limits.regions + 1
            data, fds, cut = descriptors.receive(self._sock, MAX_MESSAGE, most)
            self._came += len(fds) + cut
            self._fds += fds
            while len(self._fds) > most:  # HELLO will say what is too much
                os.close(self._fds.pop())
            if not data:
                self.close()
                return
            if self._came > MAX_ITEMS + 1:
                raise ProtocolViolation("more descriptors than HELLO can have")
            hello = self._session.greet(data)
            if hello is not None:
                self._admit(hello)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.close()
        except ProtocolViolation as error:
            self.refuse(error.status, str(error))
        except HcallError as error:
            self.refuse(error.status, str(error))

    def _admit(self, hello: Hello) -> None:
        if len(hello.regions) > self._guests.limits.regions:
            raise Busy(f"a guest has at most {self._guests.limits.regions} memory regions")
        wanted = len(hello.regions) + bool(hello.features & FD_LANE)
        if self._came != wanted:
            raise ProtocolViolation(f"HELLO announces {wanted} descriptors, {self._came} came")
        lane = None
        if hello.features & FD_LANE:
            lane = _lane(self._fds.pop())
        _, uid, _ = _PEERCRED.unpack(self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
        try:
            guest, resumed = self._guests.admit(hello, self._session, uid, self._fds)
        except BaseException:
            if lane is not None:
                lane.close()
            raise
        if lane is not None:
            guest.take_lane(lane)
        welcome = Welcome(
            WELCOME, VERSION, hello.features & FEATURES, self._guests.epoch, self._guests.limits.slots, resumed
        )
        link = Link(self._guests, guest, encode(welcome))
        guest.attach(link)
        sock = self._sock
        self._forget()
        self._guests.connect(link, sock)

    def refuse(self, status: Status, text: str) -> None:
        """Say why, and close."""
        log.warning("a guest was refused: %s", text)
        with contextlib.suppress(OSError):  # it may have gone without waiting for the answer
            self._sock.send(encode(end(status, text)), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._forget()
        self._sock.close()

    def _forget(self) -> None:
        self._guests.greetings.discard(self)
        self._guests.loop.remove_reader(self._sock)
        while self._fds:
            os.close(self._fds.pop())


def _lane(fd: int) -> socket.socket:
    """The fd lane that *fd* is.  Raises ProtocolViolation, and *fd* is closed, if it is none."""
    try:
        lane = socket.socket(fileno=fd)
    except OSError:
        os.close(fd)
    else:
        if lane.family == socket.AF_UNIX and lane.type == socket.SOCK_SEQPACKET:
            return lane
        lane.close()
    raise ProtocolViolation("the last descriptor must be one end of a SOCK_SEQPACKET pair")
