"""The disk of an NBD export, which all its connections share."""

from __future__ import annotations

import asyncio
from typing import Protocol

from hcall.formats import nbd
from hcall.formats.nbd import Command, Error, Flag, Request

from ..drivers.block import BlockDriver


class Client(Protocol):
    """A connection, as the disk knows it."""

    def abort(self) -> None:
        """Cut it."""


class Disk:
    """What all connections share."""

    def __init__(self, driver: BlockDriver, name: str) -> None:
        self.driver, self.name = driver, name.strip("/")
        self.read_number, self.write_number = driver.number("read"), driver.number("write")
        features = driver.dev.features
        self.flags = Flag.HAS_FLAGS | Flag.CAN_MULTI_CONN  # all connections are one guest: a flush is everybody's
        self.flags |= Flag.READ_ONLY if driver.read_only else Flag(0)
        self.flags |= Flag.SEND_FLUSH | Flag.SEND_FUA if "FLUSH" in features else Flag(0)
        self.flags |= Flag.SEND_TRIM if "DISCARD" in features else Flag(0)
        self.flags |= Flag.SEND_WRITE_ZEROES if "WRITE_ZEROES" in features else Flag(0)
        self.connections: set[Client] = set()
        self._gone = asyncio.Event()

    def forget(self, connection: Client) -> None:
        """It is gone, and nothing of it is under way."""
        self.connections.discard(connection)
        if not self.connections:
            self._gone.set()

    async def close(self) -> None:
        """End all connections."""
        for connection in list(self.connections):
            connection.abort()
        while self.connections:
            self._gone.clear()
            await self._gone.wait()

    def wrong(self, request: Request) -> Error | None:
        """Why *request* cannot be done."""
        flags, command, _, offset, length = request
        needs = {Command.WRITE: 0, Command.TRIM: Flag.SEND_TRIM, Command.WRITE_ZEROES: Flag.SEND_WRITE_ZEROES}
        allowed = nbd.FUA if self.flags & Flag.SEND_FUA else 0
        if command == Command.FLUSH:
            return None if self.flags & Flag.SEND_FLUSH and not flags & ~allowed else Error.EINVAL
        if command in needs:
            if self.flags & Flag.READ_ONLY:
                return Error.EPERM
            allowed |= nbd.NO_HOLE if command == Command.WRITE_ZEROES else 0
            if needs[Command(command)] & ~self.flags or flags & ~allowed:
                return Error.EINVAL
            return Error.ENOSPC if offset + length > self.driver.capacity else None
        if command != Command.READ or flags & ~allowed or length > nbd.MAX_PAYLOAD:
            return Error.EINVAL
        return Error.EINVAL if offset + length > self.driver.capacity else None
