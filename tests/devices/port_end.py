"""The device's end of a backing, for tests of backings by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from hcall.clock import LoopClock
from hostd.backings.named import AnyBacking as Backing

SECONDS = 10  # after which a test says that something hangs


class End:
    """The device's end of a backing: takes as much as `space` says."""

    def __init__(self, space: int = 1 << 20) -> None:
        self.space, self.clock = space, LoopClock()
        self.data = b""
        self.rooms = 0  # how often the backing said that it takes bytes again
        self.parts = 0  # how often a peer went
        self.gone = False
        self.errors: list[Exception] = []
        self._news = asyncio.Event()

    @property
    def ahead(self) -> int:
        return self.space

    awaited = None

    def filled(self, count: int) -> None:
        raise AssertionError("nobody waits")

    def send(self, data: bytes) -> int:
        assert 0 < len(data) <= self.space, "more than there is space for"
        self.data += data
        self.space -= len(data)
        self._news.set()
        return len(data)

    def transmit(self) -> None:
        self.rooms += 1
        self._news.set()

    def parted(self) -> None:
        self.parts += 1
        self._news.set()

    def hang_up(self) -> None:
        self.gone = True
        self._news.set()

    def failed(self, error: Exception) -> None:
        self.errors.append(error)
        self._news.set()

    async def news(self) -> None:
        async with asyncio.timeout(SECONDS):
            await self._news.wait()
        self._news.clear()


async def receive(peer: socket.socket, count: int) -> bytes:
    """That many bytes, or fewer and then the end."""
    data = b""
    async with asyncio.timeout(SECONDS):
        while len(data) < count:
            more = await asyncio.get_running_loop().sock_recv(peer, count - len(data))
            if not more:
                break
            data += more
    return data


async def leave(peer: socket.socket) -> None:
    """Go, and be seen to have gone."""
    peer.shutdown(socket.SHUT_WR)
    assert await receive(peer, 1) == b""


async def until(end: End, count: int) -> bytes:
    """What the device got, when it is so much."""
    while len(end.data) < count:
        await end.news()
    return end.data


async def write_all(backing: Backing, end: End, data: bytes) -> None:
    """As a stream does: the rest when the backing says so."""
    while data:
        rooms = end.rooms
        data = data[backing.write(data) :]
        if data:
            while end.rooms == rooms:
                await end.news()


@contextlib.asynccontextmanager
async def started(text: str, folder: Path, space: int = 1 << 24) -> AsyncIterator[tuple[Backing, End]]:
    backing, end = Backing.parse(text, folder), End(space)
    backing.start(end)
    try:
        yield backing, end
    finally:
        backing.stop()
