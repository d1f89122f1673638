"""The driver's half of the vuart: waiting, masking, and going on after short counts."""

from __future__ import annotations

from typing import Final

from protocol.errors import IoError, WouldBlock
from protocol.wire import MAX_INLINE

from .driver import Driver, Op, Signal

__all__ = ["Op", "Signal", "StreamDriver"]

_TX_TRIGGER, _RX_TRIGGER, _INTERRUPT_MASK, _RX_BUF_SIZE = range(4)  # parameters, see docs/protocol.md
_TX, _RX, _DISCONNECT = 1, 2, 4
_QUIET: Final = _RX | _DISCONNECT


class StreamDriver(Driver):
    """Base of drivers of a bidirectional stream.

    Works until the device would block, and only then waits: no interrupt is missed.  TX is enabled only while a
    remainder waits, else it would come after every write.
    """

    rx_ready, tx_ready, disconnected = Signal(), Signal(), Signal()
    get_param = Op[[int], int]()
    set_param = Op[[int, int], None]()

    _kept = b""  # read already, and not yet asked for
    _writers = 0  # that wait for tx_ready

    async def probe(self) -> None:
        """Receive interrupts only."""
        await self.set_param(_INTERRUPT_MASK, _QUIET)

    async def set_triggers(self, tx_free: int, rx_waiting: int) -> None:
        """Interrupt when *tx_free* bytes may be written, and when *rx_waiting* bytes, 1 or more, wait to be read."""
        await self.set_param(_TX_TRIGGER, tx_free)
        await self.set_param(_RX_TRIGGER, await self.get_param(_RX_BUF_SIZE) - rx_waiting)

    async def read_some(self, count: int = MAX_INLINE) -> bytes:
        """One byte or more, up to *count*, as soon as there are any; none at the end of the stream."""
        if self._kept:
            data, self._kept = self._kept[:count], self._kept[count:]
            return data
        while True:
            try:
                return await self.read(min(count, MAX_INLINE))
            except WouldBlock:
                await self.rx_ready.wait()

    async def write_all(self, data: bytes, at: int = 0) -> None:
        """Write all of *data*, waiting for room."""
        done = 0
        waiting = False
        try:
            while done < len(data):
                try:
                    done += await self.write(data[done : done + MAX_INLINE])
                except WouldBlock:
                    if not waiting:
                        waiting = True
                        self._writers += 1
                        await self.set_param(_INTERRUPT_MASK, _QUIET | _TX)
                    await self.tx_ready.wait()
        finally:
            self._writers -= waiting
        if waiting and not self._writers:  # else another writer still waits for it
            await self.set_param(_INTERRUPT_MASK, _QUIET)

    async def read_exactly(self, count: int, at: int = 0) -> bytes:
        """*count* bytes, waiting for them.  Errors: IoError if the stream ends before."""
        data = b""
        try:
            while len(data) < count:
                more = await self.read_some(count - len(data))
                if not more:
                    raise IoError(f"{self.dev.name} ended {count - len(data)} bytes early")
                data += more
        except BaseException:
            self._kept = data + self._kept  # the next read gets it
            raise
        return data

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
            self._kept = data + self._kept  # the next read gets it
            raise
        end = data.index(mark) + len(mark)
        self._kept = data[end:] + self._kept
        return data[:end]
