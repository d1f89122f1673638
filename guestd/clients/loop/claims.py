"""Calls whose answers must not be lost, in an event loop: a call that is cancelled has happened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from .late import Waiter, take_over


class Claims:
    """The calls that are claimed and whose tasks are cancelled, each with its handle."""

    def __init__(self, withdraw: Callable[[Waiter], bool]) -> None:
        """*withdraw*(call): do not make it, if it is not made yet; whether no answer will come."""
        self._withdraw = withdraw
        self.given_up: dict[Waiter, int] = {}

    async def take(self, call: Waiter, lost: Callable[[Any], object], handle: int) -> Any:
        """The answer of *call*, which was just made of *handle*; *lost* gets it if this is cancelled."""
        try:
            return await call
        except asyncio.CancelledError:
            again = take_over(call)
            if again is not None and (again.done() or not self._withdraw(call)):
                self.given_up[again] = handle
                again.add_done_callback(partial(self._answered, lost))
                await asyncio.wait([again])
            raise

    def _answered(self, lost: Callable[[Any], object], call: Waiter) -> None:
        del self.given_up[call]
        if call.exception() is None:
            lost(call.result())

    async def settle(self, handle: int) -> None:
        """Until what was claimed of *handle* by those who are cancelled is answered."""
        if before := [call for call, claimed_of in self.given_up.items() if claimed_of == handle]:
            await asyncio.wait(before)
