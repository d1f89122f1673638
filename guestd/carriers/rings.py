"""The rings of one guest, whichever client it has.

A ring that has ended, as its device was reset, closed or unplugged, has made no call that it did not answer: those go
by the socket, which tells what became of the device.
"""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from hcall import numbers
from hcall.errors import IoError
from hcall.formats.lanes.ring import EVENT_IDX
from hcall.messages import Areas, Args

from ..bus.device import OpenDevice
from ..memory import Ram
from .ring import Ring

W = TypeVar("W")


class Client(Protocol[W]):
    """A guest, as its rings see it."""

    ram: Ram
    rings: Rings[W]

    def core(self, handle: int, number: int, *args: object) -> Awaitable[Any]:
        """Make a call of the core."""

    def post(self, handle: int, number: int, args: Args = ()) -> Awaitable[Any]:
        """Make a call, whatever becomes of those who wait for the answer."""

    def acknowledge(self, handle: int, vector: int, seen: int) -> None:
        """Say that *vector* was seen at the count *seen*."""

    def remake(self, handle: int, number: int, args: Args, areas: Areas, waiter: W) -> None:
        """Make the call of *waiter*, which was not made, by the socket."""

    def ring_call(self, ring: Ring[W], number: int, args: Args = (), areas: Areas = ()) -> Awaitable[Any]:
        """Make a call by *ring*."""

    def ring_linger(self, ring: Ring[W], number: int, args: Args = (), areas: Areas = ()) -> Awaitable[Any] | None:
        """The same, as `Guest.linger`."""

    def ring_push(self) -> None:
        """As `Guest.push`, calls in rings, too."""


class Rings(Generic[W]):
    """Those that are in use."""

    def __init__(self, client: Client[W]) -> None:
        self._client = client
        self.all: list[Ring[W]] = []

    def flush(self) -> None:
        """The host sees the calls that were put into them."""
        for each in self.all:
            if each.flush():
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
        if not answers:
            for each in self.all:
                if each.busy and not self.is_kicked(each):
                    each.rest()
            answers = self.take()
        if answers:
            self.flush()  # what waited for a slot
        return answers

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
            each.close()
        self.all.clear()
        return waiters

    def _leave(self, ring: Ring[W]) -> None:
        self.all.remove(ring)
        calls = ring.end()
        ring.close()
        for call in calls:
            self._client.remake(ring.device, *call)


async def by_ring(guest: Client[W], device: OpenDevice) -> None:
    """Give *device* a ring.  Raises MemoryError; the host's word if it has no rings."""
    ring: Ring[W] = Ring(guest.ram, device.handle)
    try:
        ring.handle = await guest.core(
            device.handle, numbers.ADD_RING, ring.size, *ring.addresses, EVENT_IDX, 0, 0
        )  # fmt: skip
        if type(ring.handle) is not int:
            raise IoError(f"the host names a ring by {ring.handle!r}")
    except BaseException:
        ring.close()
        raise
    guest.rings.all.append(ring)
    device.call = partial(guest.ring_call, ring)
    device.linger = partial(guest.ring_linger, ring)
    device.push = guest.ring_push
