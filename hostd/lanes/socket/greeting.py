"""Who connects is greeted, and becomes a guest or comes back as one."""

from __future__ import annotations

import contextlib
import socket
from typing import Final, NamedTuple

from hcall.errors import BadArea, Busy, HcallError, ProtocolViolation, Status
from hcall.kernel import descriptors
from hcall.messages import FD_LANE, VERSION, WELCOME, Hello, Welcome, end
from hcall.session.host import HostSession
from hcall.wire import MAX_ITEMS, MAX_MESSAGE, encode

from ...calls.memory import Lent, lend
from ...calls.shares import ARRIVING, Purse
from .link import Link
from .peer import peer
from .reception import Reception

_WRONG: Final = (OSError, HcallError, ProtocolViolation)  # that a guest sent, or has gone


class _Brought(NamedTuple):
    """A whole HELLO, and what came with it."""

    hello: Hello
    lent: list[Lent]  # in the order of its regions
    lane: socket.socket | None

    def drop(self, guests: Reception, uid: int) -> None:
        """Nobody wants it."""
        for each in self.lent:
            if not isinstance(each, BadArea):
                guests.porter.free(each, lambda: None)
        if self.lane is not None:
            guests.porter.discard(uid, [self.lane.detach()])


class Greeting:
    """A connection whose HELLO has not come yet: read here, since a transport would drop the descriptors.

    What has descriptors is read, looked at and closed by a thread of the porter's, and the connection not read by
    anybody else meanwhile.
    """

    __slots__ = ("_anteroom", "_came", "_fds", "_guests", "_is_over", "_is_with_porter", "_rest", "_session", "_sock",
                 "purse", "since", "uid")  # fmt: skip

    def __init__(self, guests: Reception, sock: socket.socket, purse: Purse) -> None:
        """*purse* is its peer's."""
        self._guests, self._sock, self.purse = guests, sock, purse
        self.uid = purse.share.uid
        self._session = HostSession(guests.limits.slots)
        self._fds: list[int] = []  # no more than the largest HELLO has
        self._rest: list[int] = []  # what was too many the last time
        self._came = 0  # how many there were
        self._is_with_porter = self._is_over = False
        descriptors.inline(sock)
        self.since = guests.time()
        guests.greetings.add(self)
        self._anteroom = guests.anteroom(self.uid)
        self._anteroom.watch(sock, self._readable)

    def _readable(self) -> None:
        try:
            data, with_fds = descriptors.peek(self._sock, MAX_MESSAGE)
            if with_fds or self._fds:
                self._guests.porter.check(self.uid)
                self._anteroom.forget(self._sock)
                self._is_with_porter = True
                self._guests.porter.carry(self.uid, self._read, self._was_read)
            else:
                self._go_on(self._take(self._sock.recv(len(data))))
        except _WRONG as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, HcallError | ProtocolViolation):
            self.refuse(error.status, str(error))
        elif not isinstance(error, BlockingIOError | InterruptedError):
            self.close()

    def _read(self) -> _Brought | BaseException | None:
        """Read, and look at what came: for a thread."""
        try:
            data, fds, cut = descriptors.receive(self._sock, MAX_MESSAGE)
            self._came += len(fds)
            self._fds += fds
            most = self._guests.limits.regions + 1
            self._fds, self._rest = self._fds[:most], self._fds[most:]  # HELLO will say what is too much
            if cut:
                raise Busy("this host may have no more descriptors open for now (ulimit -n)")
            return self._take(data)
        except _WRONG as error:
            return error

    def _was_read(self, outcome: _Brought | BaseException | None) -> None:
        self._is_with_porter = False
        self._guests.porter.discard(self.uid, self._rest)
        if self._is_over:
            if isinstance(outcome, _Brought):
                outcome.drop(self._guests, self.uid)
            self._leave()
            return
        self.since = self._guests.time()  # the host's own time is not the guest's
        self._anteroom.watch(self._sock, self._readable)
        try:
            if isinstance(outcome, BaseException):
                raise outcome
            self._go_on(outcome)
        except _WRONG as error:
            self._fail(error)

    def _take(self, data: bytes) -> _Brought | None:
        """What is whole when *data* came, too.  Raises OSError at the end, or what is wrong."""
        if not data:
            raise ConnectionResetError
        hello = self._session.greet(data)
        if hello is None:
            if self._came > MAX_ITEMS + 1:
                raise ProtocolViolation("more descriptors than HELLO can have")
            return None
        if len(hello.regions) > self._guests.limits.regions:
            raise Busy(f"a guest has at most {self._guests.limits.regions} memory regions")
        wanted = len(hello.regions) + bool(hello.features & FD_LANE)
        if self._came != wanted:
            raise ProtocolViolation(f"HELLO announces {wanted} descriptors, {self._came} came")
        lane = None
        if hello.features & FD_LANE:
            lane = _lane(self._fds[-1])
            self._fds.pop()
        lent = [lend(at, size, fd, *part) for (at, size, *part), fd in zip(hello.regions, self._fds, strict=True)]
        self._fds = [fd for fd, each in zip(self._fds, lent, strict=True) if isinstance(each, BadArea)]
        return _Brought(hello, lent, lane)

    def _go_on(self, brought: _Brought | None) -> None:
        """Let the guest in, if all is there.  Raises what is wrong."""
        if brought is None:
            self.purse.take(ARRIVING, len(self._fds) + 1 - self.purse.used[ARRIVING])
            return
        hello, lent, lane = brought
        try:
            descriptors.refuse(self._sock)
            with contextlib.suppress(BlockingIOError):
                if descriptors.peek(self._sock, 1)[0]:
                    raise ProtocolViolation("something follows HELLO before it is answered")
                raise ConnectionResetError
        except BaseException:
            brought.drop(self._guests, self.uid)
            raise
        try:
            guest, resumed = self._guests.admit(hello, self._session, peer(self._sock), lent)
        except BaseException:
            if lane is not None:
                self._guests.porter.discard(self.uid, [lane.detach()])
            raise
        if lane is not None:
            guest.lane.take_fd_lane(lane)
        session = guest.lane.session
        welcome = Welcome(WELCOME, VERSION, session.features, self._guests.epoch, session.slots, resumed)
        link = Link(self._guests, guest, encode(welcome))
        guest.lane.attach(link)
        self._forget()
        self._guests.connect(link, self._sock)

    def late(self, seconds: float) -> None:
        """There was no HELLO for *seconds*, unless it has come, or the peer has gone, meanwhile."""
        if self not in self._guests.greetings:
            return
        if self._is_with_porter:
            self.refuse(Status.BUSY, f"the host waits for a descriptor that user {self.uid} sent")
        else:
            self.refuse(Status.BAD_ARGUMENT, f"no HELLO within {seconds:.0f} s")

    def refuse(self, status: Status, text: str) -> None:
        """Say why, and close."""
        self._guests.complain(self.uid, f"a guest was refused: {text}")
        with contextlib.suppress(OSError):  # it may have gone without waiting for the answer
            self._sock.send(encode(end(status, text)), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._forget()
        self._is_over = True
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)  # to close it, with what is in its queue, may take long
        if not self._is_with_porter:
            self._leave()

    def _leave(self) -> None:
        """Close all that there is."""
        self._guests.porter.close(self.uid, self._sock)
        self._guests.porter.discard(self.uid, self._fds)
        self._fds = []

    def _forget(self) -> None:
        self._guests.greetings.discard(self)
        self._anteroom.forget(self._sock)
        self.purse.close()


def _lane(fd: int) -> socket.socket:
    """The fd lane that *fd* is.  Raises ProtocolViolation, and *fd* stays open, if it is none."""
    with contextlib.suppress(OSError):
        lane = socket.socket(fileno=fd)
        if lane.family == socket.AF_UNIX and lane.type == socket.SOCK_SEQPACKET:
            return lane
        lane.detach()
    raise ProtocolViolation("the last descriptor must be one end of a SOCK_SEQPACKET pair")
