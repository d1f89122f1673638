"""The driver author's page: what a driver is made of.

A driver awaits calls of its device, `Signal.wait()` and `self.clock.sleep()`, nothing else, and never imports asyncio.
So the same file runs on the asyncio client and on the blocking one, and on whatever bus or carrier finds the device.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import ClassVar

from hcall.errors import IoError
from hcall.programs.plugins import Mistakes
from hcall.wire import MAX_INLINE

from .declared.device import BusDevice, Sleeper, number_of
from .declared.mistakes import mistakes
from .declared.ops import Data, Inline, Op, Room
from .declared.signals import BoundSignal, Signal
from .declared.taking import Reading, Taking
from .memory import Buffer

__all__ = [
    "MAX_INLINE", "BoundSignal", "Buffer", "BusDevice", "Data", "Driver", "Inline", "Op", "Reading", "Room", "Signal",
    "Sleeper", "Taking", "moved",
]  # fmt: skip

_CHUNK = 1 << 20  # bytes of guest memory that a large transfer uses


class Driver:
    """Base of all drivers.  The bus core has reset the device and negotiated its features before `probe`."""

    compatible: ClassVar[tuple[str, ...]] = ()
    ids: ClassVar[tuple[tuple[int, int], ...]] = ()  # 16-bit vendor and device, where no compatible string matches
    wants: ClassVar[tuple[str, ...]] = ()  # features to accept, by name, if the device offers them
    properties: ClassVar[tuple[str, ...]] = ()  # that `probe` reads: they come with the negotiation

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if found := list(mistakes(cls, Driver)):
            raise Mistakes(cls, found)

    def __init__(self, dev: BusDevice) -> None:
        self.dev, self.clock = dev, dev.clock
        self.__read, self.__write, self.__sync = map(dev.calls.get, ("read", "write", "sync"))

    async def probe(self) -> None:
        """Learn what there is to know.  If it raises, the device is closed again and the bus goes on."""

    async def remove(self) -> None:
        """The device is to be unplugged: finish.  It is closed next."""

    async def attend(self) -> None:
        """What the device wants of a guest that only holds it, such as pings for a watchdog; until cancelled."""

    def number(self, call: str) -> int:
        """The hypercall number of a call.  Raises NoSuchCall."""
        return number_of(self.dev, call)

    def read(self, count: int, at: int = 0) -> Awaitable[bytes]:
        """Up to *count* bytes, 4,096 at most, within the message."""
        return self.dev.call(self.__read or self.number("read"), (at,), (count,))

    def write(self, data: bytes, at: int = 0) -> Awaitable[int]:
        """Write *data*, 4,096 bytes at most, within the message; how much was taken."""
        return self.dev.call(self.__write or self.number("write"), (at,), (data,))

    def read_into(self, buffer: Buffer, at: int = 0) -> Awaitable[int]:
        """Fill *buffer*; how much came."""
        return self.dev.call(self.__read or self.number("read"), (at,), buffer.room)

    def write_from(self, buffer: Buffer, at: int = 0) -> Awaitable[int]:
        """Write all of *buffer*; how much was taken."""
        return self.dev.call(self.__write or self.number("write"), (at,), buffer.data)

    def sync(self) -> Awaitable[None]:
        """Until everything that was answered before is stable."""
        return self.dev.call(self.__sync or self.number("sync"))

    async def settle(self) -> None:
        """After the last write: until all of it is stable, if the device can tell."""
        if self.__sync:
            await self.sync()

    async def read_exactly(self, count: int, at: int = 0) -> bytes:
        """*count* bytes, in as many calls as it takes.  Errors: IoError if the device ends before."""
        room = (count if count <= MAX_INLINE else MAX_INLINE,)
        data: bytes = await self.dev.call(self.__read or self.number("read"), (at,), room)
        while len(data) < count:
            more = await self.read(min(count - len(data), MAX_INLINE), at + len(data))
            if not more:
                raise IoError(f"{self.dev.name} ended {count - len(data)} bytes early")
            data += more
        return data

    async def write_all(self, data: bytes, at: int = 0) -> None:
        """Write all of *data*, in as many calls as it takes."""
        done = 0
        while done < len(data):
            done += moved(self.dev, await self.write(data[done : done + MAX_INLINE], at + done))

    async def load(self, count: int, at: int = 0) -> bytes:
        """As `read_exactly`, through guest memory: the way for much."""
        pieces: list[bytes] = []
        with self.dev.ram.alloc(min(count, _CHUNK)) as buffer:
            left = count
            while left:
                moved = await self.read_into(buffer.part(0, min(left, buffer.size)), at + count - left)
                if not moved:
                    raise IoError(f"{self.dev.name} ended {left} bytes early")
                pieces.append(bytes(buffer.view[:moved]))
                left -= moved
        return b"".join(pieces)

    async def store(self, data: bytes, at: int = 0) -> None:
        """As `write_all`, through guest memory: the way for much."""
        with self.dev.ram.alloc(min(len(data), _CHUNK)) as buffer:
            for start in range(0, len(data), _CHUNK):
                piece = data[start : start + _CHUNK]
                buffer.view[: len(piece)] = piece
                done = 0
                while done < len(piece):
                    rest = buffer.part(done, len(piece) - done)
                    done += moved(self.dev, await self.write_from(rest, at + start + done))


def moved(dev: BusDevice, count: int) -> int:
    """The *count* that a call of *dev* answered with, if it is any progress.  Raises IoError."""
    if type(count) is not int or count < 1:
        raise IoError(f"{dev.name} takes nothing")
    return count
