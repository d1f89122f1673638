"""What was plugged and unplugged: the hints of nodes, the changes since, the devices that are given back for them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any, Final, Protocol

from hcall import numbers
from hcall.errors import IoError, NoMatch, StaleHandle

from ..bus.device import OpenDevice
from ..driver import Driver

log = logging.getLogger(__name__)
_MAX_HINTS: Final = 4096  # of different nodes between two looks: a host that makes tags up fills no memory


class Holder(Protocol):
    """A guest, and the devices that it holds."""

    drivers: dict[str, Driver]  # bound, by path
    devices: dict[int, OpenDevice]  # opened, by cookie

    def core(self, handle: int, number: int, *args: object) -> Awaitable[Any]:
        """Make a call of the core."""

    def unbind(self, path: str) -> Awaitable[None]:
        """Take the driver of *path* away and give the device back."""

    def let_go(self, driver: Driver) -> Awaitable[None]:
        """Give the device of *driver* back."""

    def acknowledge(self, handle: int, vector: int, seen: int) -> None:
        """Say that *vector* was seen at the count *seen*."""


class Hotplug:
    """Where a guest is in the log of changes."""

    def __init__(self, holder: Holder) -> None:
        self._holder = holder
        self.hints: dict[int, int] = {}  # nodes whose children changed: the count to acknowledge
        self._since = 0  # where CHANGES goes on

    async def begin(self) -> None:
        """Hear of what changes from now on."""
        self._since, _ = await self._holder.core(0, numbers.CHANGES, 0)

    def hinted(self, tag: int, vector: int, count: int) -> None:
        """What is below the node *tag* has changed, if it is one: it may be a device that was closed meanwhile."""
        if vector == 0 and (tag in self.hints or len(self.hints) < _MAX_HINTS):
            self.hints[tag] = count

    async def follow(self) -> list[tuple[int, str]]:
        """Take up what changed since the last time, see `Guest.follow`."""
        for node, count in self.hints.items():
            self._holder.acknowledge(node, 0, count)
        self.hints.clear()
        happened: list[tuple[int, str]] = []
        while True:
            since = self._since
            self._since, changes = await self._holder.core(0, numbers.CHANGES, since)
            if changes != () and self._since <= since:
                raise IoError("the host goes round in circles: the same changes again")
            if changes is None:  # too much: look at what is bound
                changes = [(numbers.REMOVED, device.found.node, 0) for device in list(self._holder.devices.values())
                           if not await self._is_there(device.found.node)]  # fmt: skip
            if not changes:
                return happened
            for what, node, _ in changes:
                path = await self._take_up(what, node)
                if path is not None:
                    happened.append((what, path))

    async def _take_up(self, what: int, node: int) -> str | None:
        if what == numbers.ADDED:
            return await self._path(node)
        for path, driver in list(self._holder.drivers.items()):
            device = driver.dev
            if isinstance(device, OpenDevice) and device.found.node == node:
                if what == numbers.LEAVING:
                    try:
                        await self._holder.unbind(path)
                    except NoMatch:
                        pass  # somebody did it just now
                    except Exception:  # the driver's, which is gone now: the next device is not concerned
                        log.exception("%s: the driver failed to let go", path)
                else:
                    del self._holder.drivers[path]
                    await self._holder.let_go(driver)
                return path
        for device in self._holder.devices.values():
            device.leaving |= device.found.node == node  # while it was being bound: that ends now
        return await self._path(node) if what == numbers.LEAVING else None

    async def _is_there(self, node: int) -> bool:
        try:
            await self._holder.core(node, numbers.INFO)
        except StaleHandle:
            return False
        return True

    async def _path(self, node: int) -> str | None:
        names: list[str] = []
        try:
            while parent := await self._holder.core(node, numbers.PARENT):
                if parent >= node:
                    raise IoError("the host goes round in circles: a node that is below itself")
                names.append((await self._holder.core(node, numbers.INFO))[0])
                node = parent
        except StaleHandle:
            return None
        return "/" + "/".join(reversed(names))
