"""Binds and unbinds under way in an event loop: whoever asks for the same device waits for the same one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ...driver import Driver


class _Binding:
    def __init__(self, task: asyncio.Task[Driver]) -> None:
        self.task = task
        self.wanted = 0  # how many wait for it
        self.taken = False  # somebody has got the driver


class Bindings:
    """By path.  A bind that nobody waits for any more is undone; who asks next waits for that, or for an unbind."""

    def __init__(
        self, spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]], unbind: Callable[[str], Awaitable[None]]
    ) -> None:
        """*spawn* makes a task that ends with the guest."""
        self._spawn, self._unbind = spawn, unbind
        self._under_way: dict[str, _Binding] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._under_way or path in self._ending

    async def once(self, path: str, work: Callable[[], Coroutine[Any, Any, Driver]]) -> Driver:
        """The driver that *work* binds to *path*, in a task that all who ask meanwhile share."""
        while (ending := self._ending.get(path)) is not None:
            await asyncio.wait([ending])
        binding = self._under_way.get(path)
        if binding is None:
            binding = self._under_way[path] = _Binding(self._spawn(work()))
        binding.wanted += 1
        try:
            driver = await asyncio.shield(binding.task)
            binding.taken = True
            return driver
        except asyncio.CancelledError:
            if binding.wanted == 1 and not binding.taken:
                del self._under_way[path]
                await self.end(path, self._undo(binding.task, path))
            raise
        finally:
            binding.wanted -= 1
            if not binding.wanted and self._under_way.get(path) is binding:
                del self._under_way[path]

    def end(self, path: str, work: Coroutine[Any, Any, None]) -> Awaitable[None]:
        """Unbind by *work*, to its end even if whoever asks for it is cancelled."""
        task = self._spawn(work)
        if path not in self._ending:  # else this one finds nothing to do
            self._ending[path] = task
            task.add_done_callback(lambda _: self._ending.pop(path))
        return asyncio.shield(task)

    async def _undo(self, binding: asyncio.Task[Driver], path: str) -> None:
        binding.cancel()
        await asyncio.wait([binding])
        if not binding.cancelled() and binding.exception() is None:  # it was through already
            with contextlib.suppress(Exception):  # the driver's, or somebody has unbound it
                await self._unbind(path)
