"""A printer as a raw print queue, such as those at TCP port 9100: what a program sends until its end is a job."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from hcall.errors import HcallError, LinkLost, StaleHandle
from hcall.programs.command import say

from ..clients.asynchronous import AsyncGuest
from ..driver import Driver
from ..drivers.printer import PrinterDriver
from . import Export
from .listening import AtTcp, AtUnix

_CHUNK: Final = 64 * 1024  # bytes


class _JobsExport(Export):
    """Base: one job at a time, the others wait."""

    takes = PrinterDriver

    def opened(self) -> AbstractContextManager[socket.socket]:
        """Where peers come to.  Raises OSError."""
        raise NotImplementedError

    async def run(self, guest: AsyncGuest, driver: Driver, ready: Callable[[], None]) -> None:
        assert isinstance(driver, PrinterDriver)
        with self.opened() as listener:
            ready()
            while True:
                peer, _ = await asyncio.get_running_loop().sock_accept(listener)
                with peer:
                    peer.setblocking(False)
                    try:
                        await _print(driver, peer)
                    except (StaleHandle, LinkLost):
                        raise
                    except (HcallError, OSError) as error:  # of the job, or of the peer: the next may do better
                        reason = error.strerror if isinstance(error, OSError) else error
                        say("guestd", f"{self.device}: a job is lost: {reason}")


async def _print(driver: PrinterDriver, peer: socket.socket) -> None:
    """One job, until it is spooled; its peer is hung up on then.  Errors: those of the device, and OSError."""
    loop, size = asyncio.get_running_loop(), 0
    try:
        while data := await loop.sock_recv(peer, _CHUNK):
            await driver.write_all(data)
            size += len(data)
    except (HcallError, OSError):
        await driver.soft_reset()  # half a job is none
        raise
    if size:
        await driver.end_job()


class UnixJobs(AtUnix, _JobsExport):
    """`unix:PATH`, for a printer."""


class TcpJobs(AtTcp, _JobsExport):
    """`tcp:HOST:PORT`, for a printer."""
