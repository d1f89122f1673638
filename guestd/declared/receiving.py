"""The bytes of a stream whose device has a read that waits: one call at a time does, for whoever reads.

It may have a large room, of which readers get what they ask for.  So what came and was not asked for lies here, at most
as much as that room.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable
from typing import Any, Final

from hcall.errors import HcallError, WouldBlock
from hcall.wire import MAX_INLINE

from ..memory import Buffer
from .device import BusDevice, number_of
from .taking import Reading

_ROOM: Final = 256 * 1024  # bytes: more than a socket holds, and a host fills in one turn


class _Posted:
    """A read that waits."""

    __slots__ = ("buffer", "call")

    def __init__(self, call: Awaitable[Any], buffer: Buffer | None) -> None:
        self.call, self.buffer = call, buffer


class Receiving(Reading):
    """`Reading`, and `some`, which waits.

    A read that does not wait is made only while none waits: so all those that are left of it are older than that one.
    """

    def __init__(self, dev: BusDevice, waits: bool) -> None:
        """*waits*: its reads may be those that wait, if the device has them."""
        super().__init__(dev)
        self._waits = dev.calls.get("wait_read") if waits else None
        self._turn = dev.lock()  # to wait
        self._posted: _Posted | None = None
        self._view, self._at, self._end = memoryview(b""), 0, 0  # what has come, after what is kept
        self._much = False  # the last one came with all that there was room for
        self._buffers: list[Buffer] = []  # the room, once it is needed
        weakref.finalize(self, _free, self._buffers).atexit = False

    async def some(self, count: int) -> bytes | None:
        """One byte or more, up to *count*; none at the end.  None: it cannot wait, and `read` is the way."""
        while not self._is_here:
            async with self._turn:
                if self._is_here:
                    break
                if self._calls.left:
                    await self._catch_up()
                    continue
                posted = self._posted
                if posted is None and (posted := self._post(count)) is None:
                    return None
                await self._answered(posted)
                if posted is self._posted and not await self._take_up():
                    return b""
        return self.head(count)

    async def read(self, count: int) -> bytes:
        """What there is now, up to *count* bytes, 4,096 at most; none at the end.  Errors: WouldBlock."""
        if self._posted is not None and not self._is_here and not await self._look():
            return b""
        return self.head(count) if self._is_here else await super().read(count)

    async def read_into(self, buffer: Buffer) -> int:
        """Fill *buffer* with what there is now: how much.  Errors: WouldBlock."""
        if self._posted is not None and not self._is_here and not await self._look():
            return 0
        if self.kept or self._at == self._end:
            return await super().read_into(buffer)
        data = self.head(buffer.size)
        buffer.view[: len(data)] = data
        return len(data)

    def head(self, count: int) -> bytes:
        """Up to *count* bytes of what is here."""
        if self.kept:
            return super().head(count)
        at, end = self._at, self._end
        self._at = end = min(at + count, end)
        return bytes(self._view[at:end])

    @property
    def _is_here(self) -> bool:
        return bool(self.kept) or self._at < self._end

    def _post(self, count: int) -> _Posted | None:
        if self._waits is None:
            return None
        buffer = self._room() if self._much or count > MAX_INLINE else None
        call = self._dev.linger(self._waits, (), (MAX_INLINE,) if buffer is None else buffer.room)
        self._posted = None if call is None else _Posted(call, buffer)
        return self._posted

    def _room(self) -> Buffer | None:
        """It is empty, and no call fills it."""
        if not self._buffers:
            try:
                self._buffers.append(self._dev.ram.alloc(_ROOM))
            except MemoryError:
                return None
        return self._buffers[0]

    async def _answered(self, posted: _Posted) -> None:
        """Until it is; whoever gives up leaves it for the next one."""
        try:
            await posted.call
        except HcallError:
            pass  # which is told whoever takes it up
        except BaseException:
            if (again := self._dev.take_over(posted.call)) is not None:
                posted.call = again
            elif posted is self._posted:
                self._posted = None  # it was not made
            raise

    async def _look(self) -> bool:
        """Nothing is here, and a read waits: whether there is something now, False at the end.  Errors: WouldBlock.

        A read of nothing takes nothing; whatever came before has been answered when that is, and the next will be told.
        """
        if self._calls.left:
            await self._catch_up()
            if self.kept:
                return True
        posted = self._posted
        await self._dev.call(self._number or number_of(self._dev, "read"), (0,), (0,))
        if posted is None or posted is not self._posted:
            return True  # somebody else took it up
        if self._dev.answered(posted.call) is None:
            raise WouldBlock("nothing has come: wait for rx_ready")
        return await self._take_up() > 0

    async def _take_up(self) -> int:
        """What the read has brought that waited, and is answered: how much.  Raises the HcallError of its status."""
        posted, self._posted = self._posted, None
        assert posted is not None
        while self._calls.left:  # older, and so they are answered
            await self._keep_one()
        came = await posted.call
        if posted.buffer is None:
            self.kept += came
            self._much = len(came) == MAX_INLINE
            return len(came)
        self._view, self._at, self._end = posted.buffer.view, 0, came
        return self._end


def _free(buffers: list[Buffer]) -> None:
    for buffer in buffers:
        buffer.free()
