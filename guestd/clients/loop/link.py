"""One connection of the asyncio client to the host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast


class Link(asyncio.Protocol):
    """Tells a guest what happens to it."""

    def __init__(
        self,
        received: Callable[[bytes], None],
        connected: Callable[[Link], None],
        disconnected: Callable[[Link, Exception | None], None],
    ) -> None:
        self.data_received = received  # type: ignore[assignment,method-assign]  # one call less for each read
        self._connected, self._disconnected = connected, disconnected
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self._connected(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._disconnected(self, error)
