"""The threads of a device, for calls that block."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, ParamSpec, TypeVar

from .later import Later

T = TypeVar("T")
P = ParamSpec("P")

_THREADS: Final = 4  # of one device: its slow disk must not hold up another device


class Workers:
    """Up to four threads, made when there is work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Later[T]:
        """Run *work* in a thread; its outcome is the answer."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix=self._name)
        loop = asyncio.get_running_loop()
        later: Later[T] = Later()
        future = self._pool.submit(work, *args, **kwargs)

        def finish() -> None:
            error = future.exception()
            if error is None:
                later.done(future.result())
            else:
                later.settle(error)

        def finished(_: object) -> None:
            if not future.cancelled() and not loop.is_closed():
                loop.call_soon_threadsafe(finish)

        later.runs(future.cancel)
        future.add_done_callback(finished)
        if self._closed:  # what `stop` has begun ends, and its thread with it
            self.close()
        return later

    def close(self) -> None:
        """End them, without waiting for what has begun."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=False)
            self._pool = None
