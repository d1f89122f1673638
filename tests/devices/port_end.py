"""The device's end of a backing, for tests of backings by themselves."""

from __future__ import annotations

import asyncio

SECONDS = 10  # after which a test says that something hangs


class End:
    """The device's end of a backing: takes as much as `space` says."""

    def __init__(self, space: int = 1 << 20) -> None:
        self.space = space
        self.data = b""
        self.rooms = 0  # how often the backing said that it takes bytes again
        self.gone = False
        self._news = asyncio.Event()

    def send(self, data: bytes) -> int:
        assert 0 < len(data) <= self.space, "more than there is space for"
        self.data += data
        self.space -= len(data)
        self._news.set()
        return len(data)

    def transmit(self) -> None:
        self.rooms += 1
        self._news.set()

    def hang_up(self) -> None:
        self.gone = True
        self._news.set()

    async def news(self) -> None:
        async with asyncio.timeout(SECONDS):
            await self._news.wait()
        self._news.clear()
