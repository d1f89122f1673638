"""Somebody who follows a host by its control socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import hostd

PATIENCE = 10.0  # seconds; what comes, comes at once
Event: TypeAlias = dict[str, Any]


class Follower:
    """A reader of events."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.reader = reader

    async def next(self) -> Event:
        """The next line, whatever it is."""
        async with asyncio.timeout(PATIENCE):
            line = await self.reader.readline()
        assert line.endswith(b"\n"), line
        event = json.loads(line)
        assert isinstance(event, dict)
        return event

    async def event(self, **fields: object) -> Event:
        """The next event that has these *fields*; what comes before it is not looked at."""
        while True:
            found = await self.next()
            if found.items() >= fields.items():
                return found


@contextlib.asynccontextmanager
async def following(host: hostd.Host, device: str | None = None) -> AsyncIterator[Follower]:
    """A follower, who sees what happens from now on."""
    reader, writer = await asyncio.open_unix_connection(str(host.socket.with_name("control.sock")))
    try:
        writer.write(json.dumps({"do": "trace", "device": device}).encode() + b"\n")
        follower = Follower(reader)
        assert (await follower.next()).keys() == {"ok"}
        yield follower
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
