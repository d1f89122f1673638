"""Moves bytes between a descriptor of a foreign program and a driver."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

_CHUNK = 4096  # bytes; of a tun, one packet


@contextlib.asynccontextmanager
async def pumped(
    fd: int, send: Callable[[bytes], Awaitable[object]], receive: Callable[[], Awaitable[bytes]]
) -> AsyncIterator[None]:
    """What can be read from *fd* goes to *send*, what *receive* gives is written there, until the end."""
    loop = asyncio.get_running_loop()
    said: asyncio.Queue[bytes] = asyncio.Queue()

    async def there() -> None:
        while True:
            await send(await said.get())

    async def back() -> None:
        while True:
            os.write(fd, await receive())

    loop.add_reader(fd, lambda: said.put_nowait(os.read(fd, _CHUNK)))
    tasks = [asyncio.create_task(there()), asyncio.create_task(back())]
    try:
        yield
    finally:
        loop.remove_reader(fd)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
