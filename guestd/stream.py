"""The driver's half of the vuart: waiting, masking, and going on after short counts."""

from __future__ import annotations

import weakref
from typing import Final

from hcall.errors import IoError, WouldBlock
from hcall.formats.vuart import DISCONNECT, RX, TX, Param
from hcall.wire import MAX_INLINE

from .driver import Buffer, BusDevice, Driver, Op, Signal, moved

__all__ = ["Op", "Signal", "StreamDriver"]

_QUIET: Final = RX | DISCONNECT
_CHUNK: Final = 64 * 1024  # bytes of guest memory for a transfer, as many as a buffer of the device


class StreamDriver(Driver):
    """Base of drivers of a bidirectional stream.

    Works until the device would block, and only then waits: no interrupt is missed.  TX is enabled only while a
    remainder waits, else it would come after every write.
    """

    rx_ready, tx_ready, disconnected = Signal(), Signal(), Signal()
    get_param = Op[[int], int]()
    set_param = Op[[int, int], None]()

    def __init__(self, dev: BusDevice) -> None:
        super().__init__(dev)
        self.__kept = b""  # read already, and not yet asked for
        self.__writers = 0  # that wait for tx_ready
        self.__spare: list[Buffer] = []  # one at most: to allocate it takes longer than to fill it
        weakref.finalize(self, _free, self.__spare).atexit = False

    async def probe(self) -> None:
        """Receive interrupts only."""
        await self.set_param(Param.INTERRUPT_MASK, _QUIET)

    async def set_triggers(self, tx_free: int, rx_waiting: int) -> None:
        """Interrupt when *tx_free* bytes may be written, and when *rx_waiting* bytes, 1 or more, wait to be read."""
        await self.set_param(Param.TX_TRIGGER, tx_free)
        await self.set_param(Param.RX_TRIGGER, await self.get_param(Param.RX_BUF_SIZE) - rx_waiting)

    async def read_some(self, count: int = MAX_INLINE) -> bytes:
        """One byte or more, up to *count*, as soon as there are any; none at the end of the stream."""
        if self.__kept:
            data, self.__kept = self.__kept[:count], self.__kept[count:]
            return data
        buffer = self.__take_buffer() if count > MAX_INLINE else None
        done = False
        try:
            while True:
                try:
                    if buffer is None:
                        return await self.read(min(count, MAX_INLINE))
                    moved = await self.read_into(buffer if count >= buffer.size else buffer.part(0, count))
                    done = True
                    return bytes(buffer.view[:moved])
                except WouldBlock:
                    await self.rx_ready.wait()
        finally:
            if buffer is not None:
                self.__give_back(buffer, done)

    async def write_all(self, data: bytes, at: int = 0) -> None:
        """Write all of *data*, waiting for room; much of it goes through guest memory."""
        done = start = end = 0  # in the buffer is what lies from start to end
        waiting = False
        buffer = self.__take_buffer() if len(data) > MAX_INLINE else None
        try:
            while done < len(data):
                try:
                    if buffer is None:
                        done += moved(self.dev, await self.write(data[done : done + MAX_INLINE]))
                        continue
                    if done == end:
                        start, end = end, min(end + _CHUNK, len(data))
                        buffer.view[: end - start] = data[start:end]
                    rest = buffer if end - done == buffer.size else buffer.part(done - start, end - done)
                    done += moved(self.dev, await self.write_from(rest))
                except WouldBlock:
                    if not waiting:
                        waiting = True
                        self.__writers += 1
                        await self.set_param(Param.INTERRUPT_MASK, _QUIET | TX)
                    await self.tx_ready.wait()
        finally:
            self.__writers -= waiting
            if buffer is not None:
                self.__give_back(buffer, done == len(data))
        if waiting and not self.__writers:  # else another writer still waits for it
            await self.set_param(Param.INTERRUPT_MASK, _QUIET)

    async def settle(self) -> None:
        """Until the device has passed on all that was written; what waits in it is lost when it is closed.

        Errors: IoError if the other end went before.
        """
        while True:
            try:
                return await super().settle()
            except WouldBlock:
                await self.tx_ready.wait()

    def __take_buffer(self) -> Buffer | None:
        """Guest memory for one transfer; None if there is none."""
        if self.__spare:
            return self.__spare.pop()
        try:
            return self.dev.ram.alloc(_CHUNK)
        except MemoryError:
            return None

    def __give_back(self, buffer: Buffer, done: bool) -> None:
        """Keep one for the next transfer, if no call is under way that still uses it."""
        if done and not self.__spare:
            self.__spare.append(buffer)
        else:
            buffer.free()

    async def read_exactly(self, count: int, at: int = 0) -> bytes:
        """*count* bytes, waiting for them.  Errors: IoError if the stream ends before."""
        data = bytearray()
        try:
            while len(data) < count:
                more = await self.read_some(count - len(data))
                if not more:
                    raise IoError(f"{self.dev.name} ended {count - len(data)} bytes early")
                data += more
        except BaseException:
            self.__kept = bytes(data) + self.__kept  # the next read gets it
            raise
        return bytes(data)

    async def read_until(self, mark: bytes, limit: int = 1 << 20) -> bytes:
        """Everything up to and with *mark*.

        Errors: EOFError at the end of the stream, ValueError if *limit* bytes came without it.
        """
        data = b""
        try:
            while mark not in data:
                if len(data) > limit:
                    raise ValueError(f"no {mark!r} in {limit} bytes")
                more = await self.read_some()
                if not more:
                    raise EOFError(f"the stream ended before {mark!r}")
                data += more
        except BaseException:
            self.__kept = data + self.__kept  # the next read gets it
            raise
        end = data.index(mark) + len(mark)
        self.__kept = data[end:] + self.__kept
        return data[:end]


def _free(buffers: list[Buffer]) -> None:
    for buffer in buffers:
        buffer.free()
