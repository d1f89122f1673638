"""A device that was opened: its negotiation, and what a driver sees of it.  I/O-free: it runs on either client."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, Protocol

from hcall import numbers
from hcall.errors import HcallError, IoError, NotAllowed
from hcall.features import DeviceStatus
from hcall.messages import Areas, Args

from ..driver import Sleeper
from ..memory import Ram
from ..probers import Found
from .core import checked
from .places import Places

_NEEDS_RESET: Final = int(DeviceStatus.NEEDS_RESET)
_FEATURES_OK: Final = int(DeviceStatus.FEATURES_OK)
_FAILED: Final = int(DeviceStatus.FAILED)
# The status byte, step by step; several bits may be set at once.
_RESET, _DRIVER, _AGREED, _LIVE = 0, 3, 11, 15


class Caller(Protocol):
    """What a client offers to the bus: calls, interrupts and memory."""

    ram: Ram
    clock: Sleeper
    places: Places

    def call(self, handle: int, number: int, args: Args = (), areas: Areas = ()) -> Awaitable[Any]:
        """Make a call."""

    def linger(self, handle: int, number: int, args: Args = (), areas: Areas = ()) -> Awaitable[Any] | None:
        """Make a call that may wait for the world outside; None: too many do."""

    def push(self) -> None:
        """Calls that were made go out."""

    def answered(self, call: Awaitable[Any]) -> tuple[Any] | None:
        """What *call* was answered with, or the error of its status; None: not yet."""

    def take_over(self, call: Awaitable[Any]) -> Awaitable[Any] | None:
        """*call*, which somebody has given up, to be waited for again; None: it is not made."""

    def lock(self) -> AbstractAsyncContextManager[object]:
        """Something for `async with`, which one has at a time, in the order in which they ask."""

    def core(self, handle: int, number: int, *args: object) -> Awaitable[Any]:
        """Make a call of the core."""

    def post(self, handle: int, number: int, args: Args = ()) -> Awaitable[Any]:
        """Make a call, whatever becomes of those who wait for the answer; several in a row travel together."""

    def interrupt(self, device: OpenDevice, vector: int) -> Awaitable[None]:
        """Until *vector* of *device* is raised."""


class OpenDevice:
    """An opened device: the BusDevice of a driver."""

    def __init__(self, guest: Caller, found: Found, cookie: int, reply: tuple[Any, ...]) -> None:
        """*reply* is the answer to OPEN."""
        self.handle: int
        self.calls: dict[str, int]
        self.vectors: dict[str, int]
        self.offered: dict[str, int]  # feature bits by name
        self.handle, self.calls, self.vectors, self.offered = reply
        self.guest, self.found, self.name, self.cookie = guest, found, found.name, cookie
        self.ram, self.clock = guest.ram, guest.clock
        self.features: frozenset[str] = frozenset()
        self._fresh = True  # just opened, and so reset
        self.hinted: Awaitable[Any] | None = None  # the features that it offers, if they were asked for with OPEN
        self.asked: dict[str, Awaitable[Any]] = {}  # properties, with the negotiation; until the driver has probed
        self.gone = False  # closed, or unplugged
        self.leaving = False  # was asked for before its driver was bound
        self.call = partial(guest.call, self.handle)  # (number, args, areas); raises the HcallError of its status
        self.linger = partial(guest.linger, self.handle)  # the same, or None: see BusDevice
        self.push = guest.push
        self.take_over, self.answered, self.lock = guest.take_over, guest.answered, guest.lock
        self.counts = dict.fromkeys(self.vectors.values(), 0)  # by vector: as hinted or polled
        self.seen = dict(self.counts)  # by vector: as the driver has seen it

    def interrupt(self, vector: int) -> Awaitable[None]:
        """Until *vector* has been raised since the last time it was asked for."""
        return self.guest.interrupt(self, vector)

    def set_mask(self, vectors: int) -> Awaitable[int]:
        """Mask these vectors, a bit set, and no others; the mask before."""
        return self.guest.core(self.handle, numbers.SET_MASK, vectors)

    async def property(self, name: str, kind: type | None = None) -> Any:
        """A property of the device's node, of this *kind* if one is given.  Errors: NoMatch; IoError for another."""
        asked = self.asked.pop(name, None) if self.asked else None
        value = await (asked or self.guest.core(self.found.node, numbers.GETPROP, name))
        if kind is not None and type(value) is not kind:
            raise IoError(f"{self.name}: its property {name!r} is a {type(value).__name__}, and no {kind.__name__}")
        return value

    def close(self) -> Awaitable[int]:
        """Give the device back; its calls under way are answered with RESET."""
        return self.guest.post(self.handle, numbers.CLOSE)

    async def negotiate(self, wants: Iterable[str], properties: Iterable[str] = ()) -> None:
        """Reset the device and agree on features (virtio 1.2, 3.1.1): those of *wants* that it offers.

        All steps travel together: at once, if it is known what it offered a moment ago; again if that has changed.
        With them go the questions for *properties*, see `property`.
        Raises NotAllowed if it refuses what it offers, IoError if it has failed and cannot be reset.
        """
        bits = {name: 1 << self.offered[name] for name in wants if name in self.offered}
        if not self._fresh:
            await self.guest.core(self.handle, numbers.SET_STATUS, _RESET)  # its calls end, which may take a moment
        self._fresh = False
        wanted = sum(bits.values())
        before = await self._before() if wanted else 0
        features = self.guest.post(self.handle, numbers.GET_FEATURES) if wanted else None
        steps = [] if before is None else self._steps(wanted & before, properties)
        offered: int = 0 if features is None else checked(numbers.GET_FEATURES, await features)
        if before is None or wanted & (before ^ offered):
            steps = self._steps(wanted & offered, properties)
        *first, agreed, live = steps
        for step in first:
            await step
        reached: int = checked(numbers.SET_STATUS, await agreed)
        if reached & _NEEDS_RESET:
            raise IoError(f"{self.name} has failed, and cannot be reset; the host's log says why")
        bits = {name: bit for name, bit in bits.items() if bit & offered}
        if not reached & _FEATURES_OK:
            await self.guest.core(self.handle, numbers.SET_STATUS, _DRIVER | _FAILED)
            raise NotAllowed(f"{self.name} refuses the features {', '.join(bits)}")
        if live is not agreed:
            await live
        self.features = frozenset(bits)
        self.guest.places.note(self.found, offered if wanted else None)

    async def _before(self) -> int | None:
        """The feature bits that it offered when that was asked last, if it was."""
        before = self.guest.places.offered(self.found)
        if before is None and self.hinted is not None:
            with contextlib.suppress(HcallError):  # a host need not know it of a node
                before = checked(numbers.GET_FEATURES, await self.hinted)
        return before

    def _steps(self, accepted: int, properties: Iterable[str]) -> list[Awaitable[Any]]:
        """From the reset to DRIVER_OK; the last but one is FEATURES_OK."""
        post, handle = self.guest.post, self.handle
        steps = [post(handle, numbers.SET_STATUS, (_RESET,))]
        if accepted:
            steps.append(post(handle, numbers.SET_STATUS, (_DRIVER,)))
            steps.append(post(handle, numbers.SET_FEATURES, (accepted,)))
            steps.append(post(handle, numbers.SET_STATUS, (_AGREED,)))
        steps.append(post(handle, numbers.SET_STATUS, (_LIVE,)))
        if not accepted:  # there is nothing to refuse
            steps.append(steps[-1])
        if properties:
            self.asked = {name: post(self.found.node, numbers.GETPROP, (name,)) for name in properties}
        return steps
