"""The bytes of a stream whose device has a write that waits: whoever writes goes on while they are on their way.

They lie in guest memory until the device has taken them, in their order and whole; a few of them at a time.
"""

from __future__ import annotations

import weakref
from typing import Final, TypeAlias

from hcall.errors import HcallError, IoError
from hcall.wire import MAX_INLINE

from ..memory import Buffer
from .device import BusDevice
from .taking import Taking

DEPTH: Final = 8  # writes that are on their way
_CHUNK: Final = 64 * 1024  # bytes of one, as many as a buffer of the device
_Piece: TypeAlias = tuple[int, Buffer | None]  # bytes, and where they are


class Sending:
    """Writes of one device; whose error is that of the next one."""

    def __init__(self, dev: BusDevice, waits: bool) -> None:
        """*waits*: its writes may be those that wait, if it has them."""
        self._dev = dev
        self._number = dev.calls.get("wait_write", 0) if waits else 0
        self._calls: Taking[_Piece] = Taking(dev)
        self.left = self._calls.left  # the calls that are under way
        self._spare: list[Buffer] = []
        self._buffers: list[Buffer] = []  # all of them
        weakref.finalize(self, _free, self._buffers).atexit = False

    def __del__(self) -> None:
        for call, _ in self.left:
            if self._dev.answered(call) is None:
                self._dev.take_over(call)  # nobody looks at the answer

    def put(self, data: bytes, start: int) -> int:
        """Send what follows *start* of *data*, up to where is told: there no write may wait, or too many do."""
        size, left, spare, linger = len(data), self.left, self._spare, self._dev.linger
        while start < size and len(left) < DEPTH and self._number:
            count = size - start
            if count > MAX_INLINE and (spare or self._alloc()):
                count, buffer = min(count, _CHUNK), spare.pop()
                buffer.view[:count] = data if count == size else memoryview(data)[start : start + count]
                areas = buffer.data if count == _CHUNK else buffer.part(0, count).data
                if (call := linger(self._number, (), areas)) is None:
                    spare.append(buffer)
                    break
                left.append((call, (count, buffer)))
            else:
                count = min(count, MAX_INLINE)
                piece = data if count == size else data[start : start + count]
                if (call := linger(self._number, (), (piece,))) is None:
                    break
                left.append((call, (count, None)))
            start += count
        self._dev.push()
        return start

    def look(self) -> None:
        """Take up what is answered.  Raises the first error."""
        first, left, answered = None, self.left, self._dev.answered
        while left and (answer := answered(left[0][0])) is not None:
            error = self._taken(answer[0], left.popleft()[1])
            first = first or error
        if first is not None:
            raise first

    async def one(self) -> None:
        """Until the first one is taken.  Raises its error."""
        if (error := self._taken(*await self._calls.take_up())) is not None:
            raise error

    async def all(self) -> None:
        """Until there is none.  Raises the first error."""
        first = None
        while self.left:
            error = self._taken(*await self._calls.take_up())
            first = first or error
        if first is not None:
            raise first

    def _taken(self, count: object, piece: _Piece) -> HcallError | None:
        """What is wrong with the answer to the write of *piece*, which is at an end."""
        size, buffer = piece
        if buffer is not None:
            self._spare.append(buffer)
        if count == size:
            return None
        return (
            count if isinstance(count, HcallError) else IoError(f"{self._dev.name} has taken {count} of {size} bytes")
        )

    def _alloc(self) -> bool:
        """Whether there is memory for one more."""
        try:
            buffer = self._dev.ram.alloc(_CHUNK)
        except MemoryError:
            return False
        self._buffers.append(buffer)
        self._spare.append(buffer)
        return True


def _free(buffers: list[Buffer]) -> None:
    for buffer in buffers:
        buffer.free()
