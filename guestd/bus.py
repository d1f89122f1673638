"""The bus core: which driver takes which device, and the steps between finding it and using it.

Match, open, reset, negotiate, probe.  A device that fails a step is closed again, and the next one is not concerned.
Everything here is I/O-free and runs on either client.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Iterable
from functools import partial
from typing import Any, Protocol

from protocol import hcall
from protocol.errors import NotAllowed
from protocol.features import DeviceStatus
from protocol.messages import Areas, Args

from . import drivers
from .driver import Driver, Sleeper
from .memory import Ram
from .probers import Found


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
        self.call = partial(guest.call, self.handle)  # (number, args, areas); raises the HcallError of its status
        self.counts = dict.fromkeys(self.vectors.values(), 0)  # by vector: as hinted or polled
        self.seen = dict(self.counts)  # by vector: as the driver has seen it

    def interrupt(self, vector: int) -> Awaitable[None]:
        """Until *vector* has been raised since the last time it was asked for."""
        return self.guest.interrupt(self, vector)

    def set_mask(self, vectors: int) -> Awaitable[int]:
        """Mask these vectors, a bit set, and no others; the mask before."""
        return self.guest.core(self.handle, hcall.SET_MASK, vectors)

    def property(self, name: str) -> Awaitable[Any]:
        """A property of the device's node.  Errors: NoMatch."""
        return self.guest.core(self.found.node, hcall.GETPROP, name)

    def close(self) -> Awaitable[int]:
        """Give the device back; its calls under way are answered with RESET."""
        return self.guest.core(self.handle, hcall.CLOSE)

    async def negotiate(self, wants: Iterable[str]) -> None:
        """Reset the device and agree on features (virtio 1.2, 3.1.1).  Raises NotAllowed if it does not."""
        core, handle = self.guest.core, self.handle
        await core(handle, hcall.SET_STATUS, 0)
        status = await core(handle, hcall.SET_STATUS, DeviceStatus.ACKNOWLEDGE.value)
        status = await core(handle, hcall.SET_STATUS, status | DeviceStatus.DRIVER)
        offered = await core(handle, hcall.GET_FEATURES)
        accepted = {name: 1 << self.offered[name] for name in wants if name in self.offered}
        accepted = {name: bit for name, bit in accepted.items() if bit & offered}
        await core(handle, hcall.SET_FEATURES, sum(accepted.values()))
        status = await core(handle, hcall.SET_STATUS, status | DeviceStatus.FEATURES_OK)
        if not status & DeviceStatus.FEATURES_OK:
            await core(handle, hcall.SET_STATUS, status | DeviceStatus.FAILED)
            raise NotAllowed(f"{self.name} refuses the features {', '.join(accepted)}")
        await core(handle, hcall.SET_STATUS, status | DeviceStatus.DRIVER_OK)
        self.features = frozenset(accepted)


def known_drivers() -> list[type[Driver]]:
    """The drivers in `guestd/drivers`."""
    found = []
    for module in pkgutil.iter_modules(drivers.__path__, f"{drivers.__name__}."):
        found += [
            member
            for member in vars(importlib.import_module(module.name)).values()
            if isinstance(member, type) and issubclass(member, Driver) and member.__module__ == module.name
        ]
    return found


def match(found: Found, candidates: Iterable[type[Driver]]) -> type[Driver] | None:
    """The driver for *found*: by its most specific compatible string that any has, else by ids.

    If two are equal, the name of the class decides, not the order in which they were loaded.
    """
    in_order = sorted(candidates, key=lambda driver: (driver.__name__, driver.__module__))
    for compatible in found.compatible:
        for driver in in_order:
            if compatible in driver.compatible:
                return driver
    for driver in in_order:
        if found.ids != (0, 0) and found.ids in driver.ids:
            return driver
    return None
