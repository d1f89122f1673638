"""The rings of one guest, whichever client it has.

A ring that has ended, as its device was reset, closed or unplugged, has made no call that it did not answer: those go
by the socket, which tells what became of the device.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from hcall import numbers
from hcall.errors import IoError, NotAllowed
from hcall.formats.lanes.ring import EVENT_IDX
from hcall.messages import FD_LANE, Areas, Args
from hcall.session.guest import GuestSession

from ..bus.device import OpenDevice
from ..memory import Ram
from .ring import Ring

W = TypeVar("W")


class Lane(Protocol):
    """What descriptors go to the host by."""

    def send(self, fd: int) -> int:
        """Send *fd*: its number."""


class Client(Protocol[W]):
    """A guest, as its rings see it."""

    ram: Ram
    session: GuestSession[W]
    rings: Rings[W]

    def core(self, handle: int, number: int, *args: object) -> Awaitable[Any]:
        """Make a call of the core."""

    def post(self, handle: int, number: int, args: Args = ()) -> Awaitable[Any]:
        """Make a call, whatever becomes of those who wait for the answer."""

    @property
    def lane(self) -> Lane:
        """Its fd lane."""

    def acknowledge(self, handle: int, vector: int, seen: int) -> None:
        """Say that *vector* was seen at the count *seen*."""

    def remake(self, handle: int, number: int, args: Args, areas: Areas, waiter: W) -> None:
        """Make the call of *waiter*, which was not made, by the socket."""

    def ring_call(self, ring: Ring[W], number: int, args: Args = (), areas: Areas = ()) -> Awaitable[Any]:
        """Make a call by *ring*."""

    def ring_linger(self, ring: Ring[W], number: int, args: Args = (), areas: Areas = ()) -> Awaitable[Any] | None:
        """The same, as `Guest.linger`."""

    def rung(self) -> object:
        """Send and take by the rings."""

    def ring_push(self) -> None:
        """As `Guest.push`, calls in rings, too."""


class Rings(Generic[W]):
    """Those that are in use."""

    def __init__(self, client: Client[W]) -> None:
        self._client = client
        self.all: list[Ring[W]] = []

    def add(self, ring: Ring[W]) -> None:
        """*ring* is in use."""
        self.all.append(ring)

    def gone(self, ring: Ring[W]) -> None:
        """*ring* is not, any more."""
        ring.close()

    def flush(self) -> None:
        """The host sees the calls that were put into them."""
        for each in self.all:
            if not each.flush():
                continue
            if each.kick >= 0:
                os.eventfd_write(each.kick, 1)
            else:
                each.kicked = self._client.post(each.handle, numbers.KICK)

    def take(self) -> list[tuple[W, int, Any]]:
        """What was answered.  Raises ProtocolViolation."""
        answers: list[tuple[W, int, Any]] = []
        for each in list(self.all):
            answers += each.take()
            if each.has_ended:
                answers += each.take()  # what came before its end
                self._leave(each)
        return answers

    def turn(self) -> list[tuple[W, int, Any]]:
        """Send and take; if nothing has come, the host will tell of what comes next.  Raises ProtocolViolation."""
        self.flush()
        answers = self.take()
        if not answers and self.look():
            answers = self.take()
        if not answers:
            for each in self.all:
                if each.busy and not self.is_kicked(each):
                    each.rest()
            answers = self.take()
        if answers:
            self.flush()  # what waited for a slot
        return answers

    def look(self) -> bool:
        """Look for answers for a moment, instead of having the host tell, where that pays: whether some have come."""
        return False

    @staticmethod
    def is_kicked(ring: Ring[W]) -> bool:
        """Whether something comes from the host anyway, by which it shows that *ring* has answers."""
        return False

    def raised(self, tag: int, vector: int, count: int) -> bool:
        """Whether it is one of these that *tag* names: there are answers."""
        if all(each.handle != tag for each in self.all):
            return False
        self._client.acknowledge(tag, vector, count)
        return True

    def drop(self, device: int) -> None:
        """The device with this handle is gone: whoever waits for it is told by the socket."""
        for each in [each for each in self.all if each.device == device]:
            self._leave(each)

    def end(self) -> list[W]:
        """The session is over: the waiters of all calls."""
        waiters = [waiter for each in self.all for *_, waiter in each.end()]
        for each in self.all:
            self.gone(each)
        self.all.clear()
        return waiters

    def _leave(self, ring: Ring[W]) -> None:
        self.all.remove(ring)
        calls = ring.end()
        self.gone(ring)
        for call in calls:
            self._client.remake(ring.device, *call)


async def by_ring(guest: Client[W], device: OpenDevice) -> None:
    """Give *device* a ring.  Raises MemoryError; the host's word if it has no rings."""
    ring: Ring[W] = Ring(guest.ram, device.handle)
    try:
        if guest.session.features & FD_LANE:
            ring.kick, ring.tell = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in range(2))
            try:
                await _add(guest, ring, guest.lane.send(ring.kick), guest.lane.send(ring.tell))
            except NotAllowed:  # it takes none: calls and interrupts do as well
                os.close(ring.kick)
                os.close(ring.tell)
                ring.kick = ring.tell = -1
        if ring.kick < 0:
            await _add(guest, ring, 0, 0)
    except BaseException:
        ring.close()
        raise
    guest.rings.add(ring)
    device.call = partial(guest.ring_call, ring)
    device.linger = partial(guest.ring_linger, ring)
    device.push = guest.ring_push


async def _add(guest: Client[W], ring: Ring[W], kick: int, tell: int) -> None:
    args = ring.size, *ring.addresses, EVENT_IDX, kick, tell
    ring.handle = await guest.core(ring.device, numbers.ADD_RING, *args)
    if type(ring.handle) is not int:
        raise IoError(f"the host names a ring by {ring.handle!r}")
