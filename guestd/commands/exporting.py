"""The command `guestd export`: a guest that holds one device, for others to use."""

from __future__ import annotations

import asyncio
import os
import signal

import uvloop

from hcall import numbers
from hcall.errors import StaleHandle
from hcall.programs.command import say

from ..clients.asynchronous import AsyncGuest, attach
from ..driver import Driver
from ..exports import choose
from ..probers import absolute


def export(
    socket: str | None, device: str, uri: str, drivers: list[type[Driver]], ready_fd: int | None, spin: bool
) -> None:  # fmt: skip
    """Export *device* as *uri* says until it ends, or SIGINT or SIGTERM.  Raises Failure, OSError or HcallError."""

    def ready(where: str) -> None:
        say("guestd", f"{device} is at {where}")
        if ready_fd is not None:
            os.write(ready_fd, b"ready\n")
            os.close(ready_fd)

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            async with attach(socket, drivers=drivers, spin=spin) as guest:
                driver = await guest.bind(device)
                chosen = choose(device, driver, uri)
                serving = asyncio.ensure_future(chosen.run(guest, driver, lambda: ready(chosen.where)))
                await _first(serving, asyncio.ensure_future(_unplugged(guest, device)))
        except asyncio.CancelledError:  # by the signal: that is how it ends
            pass

    uvloop.run(main())


async def _unplugged(guest: AsyncGuest, device: str) -> None:
    """Raises StaleHandle when *device* is taken away, LinkLost when the host is gone."""
    path = absolute(device)
    while True:
        for what, happened in await guest.happened():
            if what != numbers.ADDED and happened == path:
                raise StaleHandle(f"{device} was unplugged")


async def _first(*tasks: asyncio.Future[None]) -> None:
    """Until one of *tasks* is done; the others are cancelled."""
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
