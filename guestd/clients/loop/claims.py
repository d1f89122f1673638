"""Calls whose answers must not be lost, in an event loop: a call that is cancelled has happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeAlias

Call: TypeAlias = "asyncio.Future[Any]"


class Claims:
    """The calls that are claimed, and those of them whose tasks are cancelled."""

    def __init__(self, withdraw: Callable[[Call], bool]) -> None:
        """*withdraw*(call): do not make it, if it is not made yet; whether no answer will come."""
        self._withdraw = withdraw
        self.lost: dict[Call, Callable[[Any], object]] = {}  # who gets the answer if nobody waits for it
        self.orphans: dict[Call, tuple[int, asyncio.Future[None]]] = {}  # (handle, when it is answered)

    async def take(self, call: Call, lost: Callable[[Any], object], handle: int) -> Any:
        """The answer of *call*, which was just made of *handle*."""
        self.lost[call] = lost  # beforehand: the answer may come between a cancellation and its arrival here
        try:
            value = await call
        except asyncio.CancelledError:
            if not call.cancelled():  # the answer had come, and was not taken yet
                del self.lost[call]
                if call.exception() is None:
                    lost(call.result())
            elif call in self.lost:
                await self._disown(call, handle)
            raise
        except BaseException:
            del self.lost[call]
            raise
        del self.lost[call]
        return value

    async def _disown(self, call: Call, handle: int) -> None:
        if self._withdraw(call):
            del self.lost[call]
            return
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.orphans[call] = handle, answered
        await asyncio.shield(answered)

    async def settle(self, handle: int) -> None:
        """Until what was claimed of *handle* by those who are cancelled is answered."""
        for claimed_of, answered in list(self.orphans.values()):
            if claimed_of == handle:
                await asyncio.shield(answered)

    def answered(self, call: Call, status: int, value: object) -> None:
        """There is an answer, and nobody waits for it."""
        lost = self.lost.pop(call)
        if status == 0:
            lost(value)
        if call in self.orphans:
            self.orphans.pop(call)[1].set_result(None)

    def end(self) -> None:
        """No more answers come."""
        for _, answered in self.orphans.values():
            answered.set_result(None)
        self.orphans.clear()
