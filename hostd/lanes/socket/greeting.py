"""Who connects is greeted, and becomes a guest or comes back as one."""

from __future__ import annotations

import contextlib
import logging
import os
import socket

from hcall.errors import Busy, HcallError, ProtocolViolation, Status
from hcall.kernel import descriptors
from hcall.messages import FD_LANE, FEATURES, VERSION, WELCOME, Hello, Welcome, end
from hcall.session.host import HostSession
from hcall.wire import MAX_ITEMS, MAX_MESSAGE, encode

from ...calls.shares import Purse
from .link import Link
from .peer import peer
from .reception import Reception

log = logging.getLogger(__name__)


class Greeting:
    """A connection whose HELLO has not come yet: read here, since a transport would drop the descriptors."""

    __slots__ = ("_came", "_fds", "_guests", "_session", "_sock", "purse", "since")

    def __init__(self, guests: Reception, sock: socket.socket, purse: Purse) -> None:
        """*purse* is its peer's."""
        self._guests, self._sock, self.purse = guests, sock, purse
        self._session = HostSession(guests.limits.slots)
        self._fds: list[int] = []  # no more than the largest HELLO has
        self._came = 0  # how many there were
        self.since = guests.time()
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
        try:
            guest, resumed = self._guests.admit(hello, self._session, peer(self._sock), self._fds)
        except BaseException:
            if lane is not None:
                lane.close()
            raise
        if lane is not None:
            guest.lane.take_fd_lane(lane)
        welcome = Welcome(
            WELCOME, VERSION, hello.features & FEATURES, self._guests.epoch, guest.lane.session.slots, resumed
        )
        link = Link(self._guests, guest, encode(welcome))
        guest.lane.attach(link)
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
        self.purse.close()
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
