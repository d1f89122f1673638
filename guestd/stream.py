"""The driver's half of the vuart: waiting, masking, and going on after short counts.

Whoever waits may be cancelled at any moment.  What a read had taken by then is there for the next one; what was written
is written once, as far as it got, and a message whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine
from typing import Any, Final

from hcall.errors import HcallError, IoError, WouldBlock
from hcall.formats.vuart import DISCONNECT, RX, TX, Param
from hcall.wire import MAX_INLINE

from .declared.ops import as_bytes
from .declared.receiving import Receiving
from .declared.sending import Sending
from .driver import Buffer, BusDevice, Driver, Op, Signal, Taking, moved

__all__ = ["Op", "Signal", "StreamDriver"]

_QUIET: Final = RX | DISCONNECT
_CHUNK: Final = 64 * 1024  # bytes of guest memory for a transfer, as many as a buffer of the device


class _Outgoing:
    """Bytes to be written, and how many of them the device has taken."""

    __slots__ = ("data", "done")

    def __init__(self, data: bytes) -> None:
        self.data = data if type(data) is bytes else as_bytes(data)
        self.done = 0


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
        kind = type(self)  # one that reads or writes in a way of its own does not wait in that of the device
        self.__reading = Receiving(dev, kind.read is StreamDriver.read and kind.read_into is StreamDriver.read_into)
        self.__sending = Sending(dev, kind.write is StreamDriver.write and kind.write_from is StreamDriver.write_from)
        self.__messages: deque[_Outgoing] = deque()
        self.__writing: Taking[None] = Taking(dev)  # the first of them
        self.__is_at_it = False  # somebody is
        self.__writers = 0  # that wait for tx_ready
        self.__tx = False  # TX may be enabled

    async def probe(self) -> None:
        """Receive interrupts only."""
        await self.set_param(Param.INTERRUPT_MASK, _QUIET)

    async def set_triggers(self, tx_free: int, rx_waiting: int) -> None:
        """Interrupt when *tx_free* bytes may be written, and when *rx_waiting* bytes, 1 or more, wait to be read."""
        await self.set_param(Param.TX_TRIGGER, tx_free)
        await self.set_param(Param.RX_TRIGGER, await self.get_param(Param.RX_BUF_SIZE) - rx_waiting)

    # Reading.

    async def read(self, count: int, at: int = 0) -> bytes:
        """What there is now, up to *count* bytes, 4,096 at most; none at the end of the stream.  Errors: WouldBlock."""
        return await self.__reading.read(count)

    async def read_into(self, buffer: Buffer, at: int = 0) -> int:
        """Fill *buffer* with what there is now: how much.  Errors: WouldBlock.

        Whoever is cancelled leaves *buffer* alone, or frees it: the next read gets what came into it.
        """
        return await self.__reading.read_into(buffer)

    async def read_some(self, count: int = MAX_INLINE) -> bytes:
        """One byte or more, up to *count*, as soon as there are any; none at the end of the stream."""
        while True:
            if (data := await self.__reading.some(count)) is not None:
                return data
            try:
                return await (self.__read_much(count) if count > MAX_INLINE else self.read(count))
            except WouldBlock:
                await self.rx_ready.wait()

    async def __read_much(self, count: int) -> bytes:
        """What there is now.  Errors: WouldBlock."""
        try:
            buffer = self.dev.ram.alloc(min(count, _CHUNK))
        except MemoryError:
            return await self.read(MAX_INLINE)
        with buffer:
            return bytes(buffer.view[: await self.read_into(buffer)])

    async def read_exactly(self, count: int, at: int = 0) -> bytes:
        """*count* bytes, waiting for them.  Errors: IoError if the stream ends before."""
        pieces: list[bytes] = []
        left = count
        try:
            while left:
                pieces.append(piece := await self.read_some(left))
                left -= len(piece)
                if not piece:
                    raise IoError(f"{self.dev.name} ended {left} bytes early")
        except BaseException:
            self.__put_back(b"".join(pieces))
            raise
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def load(self, count: int, at: int = 0) -> bytes:
        """As `read_exactly`."""
        return await self.read_exactly(count)

    async def read_until(self, mark: bytes, limit: int = 1 << 20) -> bytes:
        """Everything up to and with *mark*.

        Errors: EOFError at the end of the stream, ValueError if *limit* bytes came without it.
        """
        data = b""
        try:
            while mark not in data:
                if (before := len(data)) > limit:
                    raise ValueError(f"no {mark!r} in {limit} bytes")
                data += await self.read_some()
                if len(data) == before:
                    raise EOFError(f"the stream ended before {mark!r}")
        except BaseException:
            self.__put_back(data)
            raise
        end = data.index(mark) + len(mark)
        self.__put_back(data[end:])
        return data[:end]

    # Writing.

    def write_all(self, data: bytes, at: int = 0) -> Coroutine[Any, Any, None]:
        """Write all of *data*, waiting for room in guest memory, from where the device takes it, in order and each byte
        once, whoever is cancelled.

        Up to 512 KiB are on their way, so that an error of theirs is raised by a later write, or by `settle`.
        """
        return self.__send(_Outgoing(data), None)  # a coroutine within another costs 0.2 us

    async def store(self, data: bytes, at: int = 0) -> None:
        """As `write_all`."""
        await self.write_all(data)

    async def write_message(self, data: bytes, wait: bool = True) -> None:
        """Write all of *data*, and nothing else in between, even if whoever waits for it is cancelled.

        What he has left goes on with the next write, or `settle`.  If somebody else writes one already, he writes this
        one as well, and it is not waited for.  Without *wait* it may be on its way still, as with `write_all`.
        """
        self.__messages.append(_Outgoing(data))
        await self.__send_messages()
        if wait and self.__sending.left:
            await self.__sending.all()

    async def settle(self) -> None:
        """Until the device has passed on all that was written; what waits in it is lost when it is closed.

        Errors: IoError if the other end went before, and what went wrong with what was written.
        """
        await self.__send_messages()
        await self.__sending.all()
        while True:
            try:
                return await super().settle()
            except WouldBlock:
                await self.tx_ready.wait()

    async def __send_messages(self) -> None:
        if self.__is_at_it:
            return
        self.__is_at_it = True
        try:
            while self.__messages:
                await self.__send(self.__messages[0], self.__writing)
                self.__messages.popleft()
        except HcallError:
            self.__messages.clear()  # the end of one that was begun has nowhere to go, nor have the others
            raise
        finally:
            self.__is_at_it = False

    async def __send(self, out: _Outgoing, calls: Taking[None] | None) -> None:
        """Write the rest of *out*: of a message, whose calls are left in *calls* if they are cancelled, or after all of
        them."""
        if calls is None and self.__messages:
            await self.__send_messages()
        data, sending = out.data, self.__sending
        size = len(data)
        sending.look()
        while not (calls is not None and calls.left):
            out.done = sending.put(data, out.done)
            if out.done == size or not sending.left:
                break
            await sending.one()
        if out.done < size:
            await self.__send_now(out, calls)
        if self.__tx and not self.__writers:  # else another writer still waits for it
            await self.set_param(Param.INTERRUPT_MASK, _QUIET)
            self.__tx = False

    async def __send_now(self, out: _Outgoing, calls: Taking[None] | None) -> None:
        """The same without a write that waits."""
        data = out.data
        size = len(data)
        start = end = 0  # in the buffer is what lies from start to end
        waiting = False
        buffer = self.__buffer() if size - out.done > MAX_INLINE else None
        try:
            while out.done < size:
                try:
                    if calls is not None and calls.left:
                        taken, _ = await calls.take_up()
                        if isinstance(taken, HcallError):
                            continue  # if it lasts, the next call says so
                    elif buffer is None:
                        piece = data[out.done : out.done + MAX_INLINE]
                        taken = await (self.write(piece) if calls is None else calls.call(None, self.write, piece))
                    else:
                        if out.done >= end:
                            start, end = out.done, min(out.done + _CHUNK, size)
                            buffer.view[: end - start] = data[start:end]
                        rest = (
                            buffer if end - out.done == buffer.size else buffer.part(out.done - start, end - out.done)
                        )
                        taken = await (
                            self.write_from(rest) if calls is None else calls.call(None, self.write_from, rest)
                        )
                    out.done += moved(self.dev, taken)
                except WouldBlock:
                    if not waiting:
                        waiting = True
                        self.__writers += 1
                        self.__tx = True
                        await self.set_param(Param.INTERRUPT_MASK, _QUIET | TX)
                    await self.tx_ready.wait()
        finally:
            if waiting:
                self.__writers -= 1
            if buffer is not None:
                buffer.free()  # what a call under way still uses is nobody else's

    # What they stand on.

    def __put_back(self, data: bytes | bytearray) -> None:
        """The next read gets *data* first."""
        self.__reading.kept = bytes(data) + self.__reading.kept

    def __buffer(self) -> Buffer | None:
        """Guest memory for one transfer; None if there is none."""
        try:
            return self.dev.ram.alloc(_CHUNK)
        except MemoryError:
            return None
