"""Devices by class: one that is free is claimed and bound; who finds none is told by the host when there may be one."""

from __future__ import annotations

import contextlib
from typing import Any

from hcall import numbers
from hcall.errors import Busy, HcallError, IoError, NoMatch

from ..bus.core import checked
from ..bus.device import OpenDevice
from ..driver import Driver
from ..probers import Found
from ..probers.claim import located
from .guest import Guest


async def bind_class(guest: Guest[Any], sort: str, *, waits: bool = True) -> Driver:
    """The driver of a free device of the class *sort*, a string that it is compatible with.

    It *waits* until one is free, or else raises what the host says: Busy, NoMatch or IoError.  Errors: the driver's.
    """
    root = await guest.core(0, numbers.FIRST)
    hints = _hints(guest, root)
    while True:
        cookie, before = next(guest._cookies), hints.counts[numbers.AVAILABLE]
        try:
            await _claim(guest, sort, cookie)
            break
        except (Busy, NoMatch, IoError):
            if not waits:
                raise
            if hints.counts[numbers.AVAILABLE] == before:  # else it was told meanwhile
                await guest.interrupt(hints, numbers.AVAILABLE)
    try:
        device = guest.devices[cookie]
        device.found = await located(guest.core, device.found.node, root)
        device.name = device.found.name
        driver_class = guest._driver_for(device.found)
        return await guest._bring_up(cookie, driver_class, driver_class.wants)
    except BaseException:
        await guest._undo(cookie)
        raise


async def _claim(guest: Guest[Any], sort: str, cookie: int) -> None:
    """Have a device of the class open, by *cookie*; whoever is cancelled meanwhile has closed it again."""

    def keep(reply: object) -> None:
        node, *opened = checked(numbers.CLAIM, reply)
        found = Found(node, sort, sort, (sort,), (0, 0))
        guest.devices[cookie] = OpenDevice(guest, found, cookie, tuple(opened))

    def close(reply: object) -> None:
        with contextlib.suppress(HcallError):
            guest.post(checked(numbers.CLAIM, reply)[1], numbers.CLOSE)

    await guest.claim(keep, close, 0, numbers.CLAIM, (sort, 0, cookie))


def _hints(guest: Guest[Any], root: int) -> OpenDevice:
    """What the host's hints about claims come to: as those of a device, whose handle is the root's."""
    if root not in guest.devices:
        found = Found(root, "/", "/", (), (0, 0))
        guest.devices[root] = OpenDevice(guest, found, root, (root, {}, {"available": numbers.AVAILABLE}, {}))
    return guest.devices[root]
