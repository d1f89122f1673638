"""A socket of the host's where a datagram is a message, in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from hcall import rendezvous

from ...probers import Datagrams
from ..reaching import WELCOME_SECONDS, datagrams, hung_up, silent
from .clock import DriverClock

T = TypeVar("T")
_READ = 65536


def connector(host: Path, clock: DriverClock) -> Callable[[str], Datagrams]:
    """What connects to the socket of a name beside that of the *host*.  Raises OSError."""
    return partial(_Messages, host, clock)


class _Messages:
    def __init__(self, host: Path, clock: DriverClock, name: str) -> None:
        self._clock, self._path = clock, rendezvous.find(str(host), name)
        self._sock = datagrams(self._path)
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        """See `Datagrams`."""
        await self._in_time(self._loop.sock_sendall(self._sock, data))

    async def receive(self) -> bytes:
        """See `Datagrams`."""
        try:
            data = self._sock.recv(_READ)  # one in each turn of the loop would fall behind a bus that tells much
        except BlockingIOError:
            data = await self._in_time(self._loop.sock_recv(self._sock, _READ))
        return data or hung_up(self._path)

    async def _in_time(self, done: Awaitable[T]) -> T:
        try:
            async with self._clock.timeout(WELCOME_SECONDS):
                return await done
        except TimeoutError:
            raise silent(self._path) from None

    def close(self) -> None:
        """See `Datagrams`."""
        self._sock.close()
