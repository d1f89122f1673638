"""The threads of a device, for calls that block."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar, overload

from hcall.errors import Reset

from .later import Later, Steps

T = TypeVar("T")
P = ParamSpec("P")

_NICE: Final = 10  # beside the loop: a tenth of its time where they are on one core
_THREADS: Final = 4  # of one device: its slow disk must not hold up another device


class Workers:
    """A few threads, made when there is work; one does it in order."""

    def __init__(self, name: str, threads: int = _THREADS) -> None:
        self._name, self._threads = name, threads
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False

    @overload
    def submit(self, work: Callable[P, Steps[T]], *args: P.args, **kwargs: P.kwargs) -> Later[T]: ...
    @overload
    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Later[T]: ...
    def submit(self, work: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Later[Any]:
        """Run *work* in a thread; its outcome is the answer, see `Device.offload`."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix=self._name, initializer=_give_way)
        loop = asyncio.get_running_loop()
        later: Later[Any] = Later()
        unwanted = threading.Event()
        future = self._pool.submit(_through, unwanted, partial(work, *args, **kwargs))

        def cancel() -> bool:
            unwanted.set()
            return future.cancel()

        def finish() -> None:
            error = future.exception()
            if error is None:
                later.done(future.result())
            else:
                later.settle(error)

        def finished(_: object) -> None:
            if not future.cancelled() and not loop.is_closed():
                loop.call_soon_threadsafe(finish)

        later.runs(cancel)
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


def _give_way() -> None:
    """Let the loop go before a worker that copies much in the kernel: all guests wait for the loop."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + _NICE)


def _through(unwanted: threading.Event, work: Callable[[], Any]) -> Any:
    """What *work* returns, or all its steps, if it has some: those that are done before it is *unwanted*."""
    outcome = work()
    if not isinstance(outcome, Generator):
        return outcome
    try:
        while not unwanted.is_set():
            next(outcome)
    except StopIteration as end:
        return end.value
    outcome.close()
    raise Reset("the device was reset")
