"""The interrupts of a device by name."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import overload

from hcall.errors import NoSuchCall

from .device import BusDevice, Owner


class Signal:
    """An interrupt of the device, by name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, driver: None, owner: type) -> Signal: ...
    @overload
    def __get__(self, driver: Owner, owner: type) -> BoundSignal: ...
    def __get__(self, driver: Owner | None, owner: type) -> Signal | BoundSignal:
        if driver is None:
            return self
        vector = driver.dev.vectors.get(self.name)
        if vector is None:
            raise NoSuchCall(f"{driver.dev.name} has no interrupt {self.name!r}")
        bound = driver.__dict__[self.name] = BoundSignal(driver.dev, vector)
        return bound


class BoundSignal:
    """An interrupt vector of one device."""

    __slots__ = ("_dev", "_vector")

    def __init__(self, dev: BusDevice, vector: int) -> None:
        self._dev, self._vector = dev, vector

    def wait(self, timeout: float | None = None) -> Awaitable[None]:
        """Until it has been raised since the last wait ended; at once if it was.

        Raises TimeoutError after *timeout* seconds; what is raised then is there for the next wait.
        """
        if timeout is None:
            return self._dev.interrupt(self._vector)
        return self._within(timeout)

    async def _within(self, seconds: float) -> None:
        async with self._dev.clock.timeout(seconds):
            await self._dev.interrupt(self._vector)
