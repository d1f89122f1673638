"""A device that was opened: its negotiation, and what a driver sees of it.  I/O-free: it runs on either client."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from functools import partial
from typing import Any, Protocol

from hcall import numbers
from hcall.errors import IoError, NotAllowed
from hcall.features import DeviceStatus
from hcall.messages import Areas, Args

from ..driver import Sleeper
from ..memory import Ram
from ..probers import Found


class Caller(Protocol):
    """What a client offers to the bus: calls, interrupts and memory."""

    ram: Ram
    clock: Sleeper

    def call(self, handle: int, number: int, args: Args = (), areas: Areas = ()) -> Awaitable[Any]:
        """Make a call."""

    def core(self, handle: int, number: int, *args: object) -> Awaitable[Any]:
        """Make a call of the core."""

    def interrupt(self, device: OpenDevice, vector: int) -> Awaitable[None]:
        """Until *vector* of *device* is raised."""


class OpenDevice:
    """An opened device: the BusDevice of a driver."""

    def __init__(self, guest: Caller, found: Found, reply: tuple[Any, ...]) -> None:
        self.handle: int
        self.calls: dict[str, int]
        self.vectors: dict[str, int]
        self.offered: dict[str, int]  # feature bits by name
        self.handle, self.calls, self.vectors, self.offered = reply
        self.guest, self.found, self.name = guest, found, found.name
        self.ram, self.clock = guest.ram, guest.clock
        self.features: frozenset[str] = frozenset()
        self.gone = False  # closed, or unplugged
        self.leaving = False  # was asked for before its driver was bound
        self.call = partial(guest.call, self.handle)  # (number, args, areas); raises the HcallError of its status
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
        value = await self.guest.core(self.found.node, numbers.GETPROP, name)
        if kind is not None and type(value) is not kind:
            raise IoError(f"{self.name}: its property {name!r} is a {type(value).__name__}, and no {kind.__name__}")
        return value

    def close(self) -> Awaitable[int]:
        """Give the device back; its calls under way are answered with RESET."""
        return self.guest.core(self.handle, numbers.CLOSE)

    async def negotiate(self, wants: Iterable[str]) -> None:
        """Reset the device and agree on features (virtio 1.2, 3.1.1).  Raises NotAllowed if it does not."""
        core, handle = self.guest.core, self.handle
        await core(handle, numbers.SET_STATUS, 0)
        status = await core(handle, numbers.SET_STATUS, DeviceStatus.ACKNOWLEDGE.value)
        if status & DeviceStatus.NEEDS_RESET:
            raise IoError(f"{self.name} has failed, and cannot be reset; the host's log says why")
        status = await core(handle, numbers.SET_STATUS, status | DeviceStatus.DRIVER)
        offered = await core(handle, numbers.GET_FEATURES)
        accepted = {name: 1 << self.offered[name] for name in wants if name in self.offered}
        accepted = {name: bit for name, bit in accepted.items() if bit & offered}
        await core(handle, numbers.SET_FEATURES, sum(accepted.values()))
        status = await core(handle, numbers.SET_STATUS, status | DeviceStatus.FEATURES_OK)
        if not status & DeviceStatus.FEATURES_OK:
            await core(handle, numbers.SET_STATUS, status | DeviceStatus.FAILED)
            raise NotAllowed(f"{self.name} refuses the features {', '.join(accepted)}")
        await core(handle, numbers.SET_STATUS, status | DeviceStatus.DRIVER_OK)
        self.features = frozenset(accepted)
