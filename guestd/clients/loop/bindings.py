"""Binds under way in an event loop: whoever asks for the same device waits for the same one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

from ...driver import Driver


class _Binding:
    def __init__(self, task: asyncio.Task[Driver]) -> None:
        self.task = task
        self.wanted = 0  # how many wait for it
        self.undoing: asyncio.Task[None] | None = None  # since nobody waits any more


class Bindings:
    """By path.  One that nobody waits for any more is undone, and the next who asks waits for that, too."""

    def __init__(
        self, spawn: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]], unbind: Callable[[str], Awaitable[None]]
    ) -> None:
        """*spawn* makes a task that ends with the guest."""
        self._spawn, self._unbind = spawn, unbind
        self._under_way: dict[str, _Binding] = {}

    def __contains__(self, path: str) -> bool:
        return path in self._under_way

    async def once(self, path: str, work: Callable[[], Coroutine[Any, Any, Driver]]) -> Driver:
        """The driver that *work* binds to *path*, in a task that all who ask meanwhile share."""
        while (binding := self._under_way.get(path)) is not None and binding.undoing is not None:
            await asyncio.wait([binding.undoing])
        if binding is None:
            binding = self._under_way[path] = _Binding(self._spawn(work()))
            binding.task.add_done_callback(partial(self._through, path))
        binding.wanted += 1
        try:
            return await asyncio.shield(binding.task)
        except asyncio.CancelledError:
            if binding.wanted == 1 and self._under_way.setdefault(path, binding) is binding:
                binding.undoing = self._spawn(self._undo(binding, path))
                await asyncio.shield(binding.undoing)
            raise
        finally:
            binding.wanted -= 1

    def _through(self, path: str, _: object) -> None:
        if self._under_way[path].undoing is None:
            del self._under_way[path]

    async def _undo(self, binding: _Binding, path: str) -> None:
        binding.task.cancel()
        try:
            await asyncio.wait([binding.task])
            if not binding.task.cancelled() and binding.task.exception() is None:  # it was through already
                with contextlib.suppress(Exception):  # the driver's, or somebody has unbound it
                    await self._unbind(path)
        finally:
            del self._under_way[path]
