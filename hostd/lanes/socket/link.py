"""One connection of a guest that was welcomed."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import struct
import termios
from typing import Final, cast

from hcall.errors import Status
from hcall.wire import MAX_MESSAGE

from .reception import Reception, Visitor

HIGH_WATER: Final = 256 * 1024  # bytes that wait for a guest: nothing more is read from it
_LOW_WATER: Final = 64 * 1024  # and reading goes on
_INT: Final = struct.Struct("i")


class Link(asyncio.Protocol):
    """Between a socket and a `SocketLane`."""

    __slots__ = ("_awake", "_eof", "_guest", "_guests", "_held", "_lane", "_most", "_reads", "_receive", "_transport",
                 "_unread", "_welcome", "closing_since", "full_since", "partial_since")  # fmt: skip

    def __init__(self, guests: Reception, guest: Visitor, welcome: bytes) -> None:
        self._guests, self._guest, self._welcome = guests, guest, welcome
        self._lane, self._receive = guest.lane, guest.lane.receive
        self._awake = guests.awake
        self._transport: asyncio.Transport | None = None
        self._held = False  # the lane wants no more for now
        self._reads = True
        self._eof = False
        #: Bytes that may wait for the guest: a reply in each slot is what it may ask for before it reads any.
        self._most = max(guests.limits.queued, guest.lane.session.slots * MAX_MESSAGE)
        self._unread = 0  # bytes, when that was looked at last
        #: When a message began that has not ended; None, too, while nothing is read: that is not the guest's time.
        self.partial_since: float | None = None
        self.full_since: float | None = None  # when the guest stopped reading, or has read the last of it
        self.closing_since: float | None = None

    def connection_made(self, given: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, given)  # uvloop's is none by class
        transport.set_write_buffer_limits(high=HIGH_WATER, low=_LOW_WATER)
        self._guests.links.add(self)
        if self._lane.link is self:
            transport.write(self._welcome)
            self._lane.flush()
            self._read_or_not()
        elif self.closing_since is not None:  # the end overtook it
            transport.write(b"".join([self._welcome, *self._lane.session.out]))
            transport.close()
        else:  # a still newer link did
            transport.abort()
        self._welcome = b""

    def data_received(self, data: bytes) -> None:
        if data:
            decoded = self._receive(data)
            if self._awake is not None:
                self._awake.came()
            if not decoded:
                self.partial_since = None  # until that is
                return
        session = self._lane.session
        if session.broken is not None:
            self._guests.end(self._guest, session.broken.status, str(session.broken))
        elif not session.partial:
            self.partial_since = None
        elif (self.partial_since is None or session.partial_is_new) and self._reads:
            self.partial_since = self._guests.time()

    def write(self, out: list[bytes]) -> None:
        """Send all of *out*, in one write, and empty it."""
        transport = self._transport
        if transport is None or not out:
            return
        transport.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()
        if self.full_since is not None and transport.get_write_buffer_size() > self._most:
            self._guests.complain(self._guest.uid, f"guest {self._guest.name!r} does not read: its link is cut")
            transport.abort()

    def hold(self) -> None:
        """Read nothing more until `go_on`."""
        self._held = True
        self._read_or_not()

    def go_on(self) -> None:
        """All that came is decoded, which may be no message, or one that has not ended: read again."""
        self._held = False
        if self._eof and self._transport is not None:
            self._transport.close()
        else:
            self._read_or_not()
            self.data_received(b"")

    def eof_received(self) -> bool:
        """The guest says nothing more; what it said before is heard first, unless that may take for ever."""
        self._eof = True
        return self._lane.owes and not self._lane.lends

    def pause_writing(self) -> None:
        self.full_since, self._unread = self._guests.time(), self._waiting()
        self._read_or_not()

    def resume_writing(self) -> None:
        self.full_since = None
        self._read_or_not()

    def look(self) -> None:
        """Whether the guest reads, if slowly: its time to do so begins anew."""
        if self.full_since is not None and self._transport is not None:
            before, self._unread = self._unread, self._waiting()
            if self._unread < before:
                self.full_since = self._guests.time()

    def _waiting(self) -> int:
        """Bytes that the guest has not read, here and in its socket, as the kernel counts them."""
        assert self._transport is not None
        count = 0
        with contextlib.suppress(OSError, ValueError):  # it is closed
            fd = self._transport.get_extra_info("socket").fileno()
            (count,) = _INT.unpack(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(_INT.size)))
        return self._transport.get_write_buffer_size() + count

    def _read_or_not(self) -> None:
        reads, transport = not self._held and self.full_since is None, self._transport
        if reads is self._reads or transport is None or transport.is_closing():
            return
        self._reads = reads
        if reads:
            transport.resume_reading()
            self.partial_since = self._guests.time() if self._lane.session.partial else None
        else:
            transport.pause_reading()
            self.partial_since = None

    def connection_lost(self, error: Exception | None) -> None:
        self._guests.unlinked(self)
        if self._lane.link is self:  # else a newer link carries the session, or it is over
            self._guests.lost(self._guest)

    def close(self) -> None:
        """Close when what was written has gone out; the sweep cuts it if that does not end."""
        self.closing_since = self._guests.time()
        if self._transport is not None:
            self._transport.close()

    def late(self, text: str) -> None:
        """A message takes too long: its session ends."""
        self.partial_since = None
        if self._lane.link is self:
            self._guests.end(self._guest, Status.BAD_ARGUMENT, text)

    def abort(self) -> None:
        """Cut it."""
        if self._transport is not None:
            self._transport.abort()
