"""A disk as an NBD server: for nbdcopy, nbdinfo, qemu-img, fio and whatever else speaks it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..clients.asynchronous import AsyncGuest
from ..driver import Driver
from ..drivers.block import BlockDriver
from . import Export, Kind
from .listening import listening_at
from .nbd_connection import CONNECTIONS, MEMORY, Connection
from .nbd_disk import Disk


class Nbd(Export):
    """`nbd:unix:PATH`, a Unix socket."""

    kind = Kind("nbd:unix:", "PATH")
    takes = BlockDriver

    async def run(self, guest: AsyncGuest, driver: Driver, ready: Callable[[], None]) -> None:
        assert isinstance(driver, BlockDriver)
        with listening_at(self.rest) as listener:
            await guest.grow(CONNECTIONS * MEMORY)
            disk = Disk(driver, self.device)
            loop = asyncio.get_running_loop()
            server = await loop.create_unix_server(lambda: Connection(disk), sock=listener)
            try:
                ready()
                while True:  # clients that come later see the new size
                    await driver.resized.wait()
                    await driver.look()
            finally:
                server.close()
                await disk.close()
