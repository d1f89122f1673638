"""A network card as an interface of the kernel, in the network namespace that `guestd` runs in.

Address, carrier and frames are the card's; its MTU and its IP addresses are set as those of any interface.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Final

from hcall.formats.frames import MAX_FRAME
from hcall.kernel.tap import check_name, open_tap, set_carrier

from ..clients.asynchronous import AsyncGuest
from ..driver import Driver
from ..drivers.net import NetDriver
from . import Export, Kind

_AT_ONCE: Final = 256  # frames in a batch
_NOT_NOW: Final = (errno.EIO, errno.EINVAL, errno.ENOBUFS)  # it is down, or the frame is none that the kernel takes


class TapExport(Export):
    """`tap:NAME`, such as tap:eth1."""

    kind = Kind("tap:", "NAME")
    takes = NetDriver

    def __init__(self, device: str, rest: str) -> None:
        super().__init__(device, check_name(rest))

    async def run(self, guest: AsyncGuest, driver: Driver, ready: Callable[[], None]) -> None:
        assert isinstance(driver, NetDriver)
        fd = open_tap(self.rest, driver.mac)
        work = [asyncio.ensure_future(each(driver, fd)) for each in (_to_card, _from_card, _carrier)]
        try:
            ready()
            await asyncio.gather(*work)
        except OSError as error:
            if error.errno == errno.EBADFD:
                raise OSError(error.errno, "the interface was deleted", self.rest) from None
            raise
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            os.close(fd)


async def _to_card(card: NetDriver, fd: int) -> None:
    while True:
        await _readable(fd)
        frames: list[bytes] = []
        try:
            while len(frames) < _AT_ONCE:
                frames.append(os.read(fd, MAX_FRAME))
        except BlockingIOError:
            pass
        # What is longer than the card can send is dropped, as a card does with what its driver should not give it.
        await card.send([frame for frame in frames if len(frame) <= card.max_frame])


async def _from_card(card: NetDriver, fd: int) -> None:
    while True:
        with await card.borrow() as frames:
            for frame in frames:
                _write(fd, frame)


def _write(fd: int, frame: memoryview) -> None:
    try:
        os.write(fd, frame)
    except BlockingIOError:
        pass  # the kernel is behind: it is lost
    except OSError as error:
        if error.errno not in _NOT_NOW:
            raise


async def _carrier(card: NetDriver, fd: int) -> None:
    while True:
        set_carrier(fd, await card.link_up())
        await card.link_changed.wait()


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
