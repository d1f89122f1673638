"""Calls that take something away from a device, such as bytes that came: none of it is lost with whoever gives up."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Generic, ParamSpec, TypeVar

from hcall.errors import HcallError

from ..memory import Buffer
from .device import BusDevice, number_of
from .ops import Answer

P = ParamSpec("P")
R = TypeVar("R")
W = TypeVar("W")


class Taking(Generic[W]):
    """Such calls of one device, each with what it needs until it is answered: the buffer that it fills, say.

    A call that is cancelled has happened.  It is `left` for the next one who wants something, who takes it up before he
    calls himself.
    """

    __slots__ = ("_dev", "left")

    def __init__(self, dev: BusDevice) -> None:
        self._dev = dev
        self.left: deque[tuple[Awaitable[Any], W]] = deque()

    async def call(self, beside: W, make: Callable[P, Awaitable[R]], *args: P.args, **named: P.kwargs) -> R:
        """The answer to the call that *make* makes, which needs *beside*.  Raises the HcallError of its status."""
        call = None
        try:
            call = make(*args, **named)
            return await call
        except HcallError:
            raise
        except BaseException:
            if call is not None and (again := self._take_over(call)) is not None:
                self.left.append((again, beside))
            raise

    async def take_up(self) -> tuple[Any, W]:
        """The answer to the first call that is left, or the error of its status, and what was beside it."""
        call, beside = self.left.popleft()
        try:
            return await call, beside
        except HcallError as error:
            return error, beside
        except BaseException:
            if (again := self._take_over(call)) is not None:
                self.left.appendleft((again, beside))
            raise

    def _take_over(self, call: Awaitable[R]) -> Awaitable[R] | None:
        if not isinstance(call, Answer):
            return self._dev.take_over(call)
        again = self._dev.take_over(call.call)
        return None if again is None else call.taken_over(again)


class Reading:
    """The bytes that come from a device as a stream, by its verb `read`."""

    __slots__ = ("_calls", "_dev", "_number", "_unit", "kept")

    def __init__(self, dev: BusDevice, unit: int = 1) -> None:
        """They come in whole *unit*s of bytes."""
        self._dev, self._unit = dev, unit
        self._number = dev.calls.get("read")
        self._calls: Taking[memoryview | None] = Taking(dev)  # each with the memory that it fills
        self.kept = b""  # read already, and not yet asked for

    async def read(self, count: int) -> bytes:
        """What there is now, up to *count* bytes, 4,096 at most; none at the end.  Errors: WouldBlock."""
        if self.kept or self._calls.left:
            await self._catch_up()
            if self.kept:
                return self.head(count)
        number = self._number or number_of(self._dev, "read")
        return await self._calls.call(None, self._dev.call, number, (0,), (count,))

    async def read_into(self, buffer: Buffer) -> int:
        """Fill *buffer* with what there is now: how much.  Errors: WouldBlock."""
        if self.kept or self._calls.left:
            await self._catch_up()
            if self.kept:
                data = self.head(buffer.size)
                buffer.view[: len(data)] = data
                return len(data)
        number, view = self._number or number_of(self._dev, "read"), buffer.view[:]  # nobody else's while we look at it
        return await self._calls.call(view, self._dev.call, number, (0,), buffer.room)

    def head(self, count: int) -> bytes:
        """Up to *count* bytes of what is kept."""
        count -= count % self._unit
        data, self.kept = self.kept[:count], self.kept[count:]
        return data

    async def _catch_up(self) -> None:
        """Keep what those have read who were cancelled."""
        while self._calls.left and not self.kept:
            await self._keep_one()

    async def _keep_one(self) -> None:
        came, view = await self._calls.take_up()
        if not isinstance(came, HcallError):
            self.kept += came if view is None else bytes(view[:came])
