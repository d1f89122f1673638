"""An answer that comes after its handler has returned: no task, no await."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar

from hcall.clock import Clock
from hcall.errors import Reset

T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]

SLICE_SECONDS: Final = 0.0005  # of one turn, and one step more


class Later(Generic[T]):
    """What a handler returns when the host itself bounds the work.  Only the first outcome counts."""

    __slots__ = ("_outcome", "_running", "_sink")

    def __init__(self) -> None:
        self._outcome: tuple[object] | None = None
        self._sink: Callable[[object], None] | None = None
        self._running: Callable[[], bool] | None = None  # cancels a worker; False if it can no longer be

    def done(self, value: T) -> None:
        """Answer with *value*."""
        self.settle(value)

    def fail(self, error: Exception) -> None:
        """Answer with the status of *error*."""
        self.settle(error)

    # The rest is for dispatch and for `Device.offload`.

    @property
    def taken(self) -> bool:
        """Whether somebody waits for the outcome: one call, no more."""
        return self._sink is not None and self._outcome is None

    def then(self, sink: Callable[[object], None]) -> None:
        """Give the outcome, a value or an exception, to *sink*: now, or when there is one."""
        if self._outcome is None:
            self._sink = sink
        else:
            sink(self._outcome[0])

    def runs(self, cancel: Callable[[], bool]) -> None:
        """A worker has the call's area; *cancel* stops it if it has not begun."""
        self._running = cancel

    def expire(self, error: Exception) -> None:
        """It takes too long: *error* is the answer, unless a worker has the area."""
        if self._running is None:
            self.settle(error)

    def abandon(self) -> None:
        """The device was reset.  RESET is the answer: at once, or when a worker that has the area is done."""
        if self._running is None or self._running():
            self.settle(Reset("the device was reset"))
        else:
            self._running = _finished

    def settle(self, outcome: object) -> None:
        """Answer with *outcome*, a value or an exception."""
        if self._outcome is not None:
            return
        if self._running is _finished:
            outcome = Reset("the device was reset")
        self._outcome = (outcome,)
        sink, self._sink, self._running = self._sink, None, None  # they know this one: a circle would stay for long
        if sink is not None:
            sink(outcome)


async def settled(later: Later[Any]) -> object:
    """Its outcome, a value or an exception, when there is one."""
    outcome: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    later.then(lambda value: None if outcome.done() else outcome.set_result(value))  # done: nobody waits any more
    return await outcome


def _finished() -> bool:
    """The cancel of a worker that is left to end by itself."""
    return False


class Advance(Protocol):
    """Does steps until a time: a method of the device, by which the guard knows whose they are."""

    def __call__(self, steps: Steps[T], until: float, /) -> tuple[T] | None:
        """What they return, when they are through."""


class Parts:
    """Long works of one device, each a generator that yields wherever others may have a turn, which costs 0.2 us.

    What is done within a slice is answered at once, and costs no more than that; the rest comes in the next turns of
    the loop.  Each begins when the one before it has ended.
    """

    def __init__(self, clock: Clock, advance: Advance) -> None:
        self._clock, self._advance = clock, advance
        self._works: deque[tuple[Steps[Any], Later[Any]]] = deque()
        self._due = False

    def begin(self, steps: Steps[T]) -> T | Later[T]:
        """What *steps* return, if that is at once.  Raises whatever they do then."""
        if not self._works:
            outcome = self._advance(steps, self._clock.time() + SLICE_SECONDS)
            if outcome is not None:
                return outcome[0]
        later: Later[T] = Later()
        work = steps, later
        later.runs(partial(self._drop, work))
        self._works.append(work)
        self._schedule()
        return later

    def _schedule(self) -> None:
        if self._works and not self._due:
            self._due = True
            self._clock.call_later(0, self._go_on)

    def _go_on(self) -> None:
        """One slice."""
        self._due = False
        if not self._works:  # they were dropped
            return
        work = self._works[0]
        try:
            outcome = self._advance(work[0], self._clock.time() + SLICE_SECONDS)
        except BaseException as error:  # a model may do anything: sys.exit(), too
            self._end(work, partial(work[1].settle, error))
            return
        if outcome is None:
            self._schedule()
        else:
            self._end(work, partial(work[1].settle, outcome[0]))

    def _end(self, work: tuple[Steps[Any], Later[Any]], answer: Callable[[], None]) -> None:
        """It is through; whatever its answer brings about, the next one begins in a turn of its own."""
        with contextlib.suppress(ValueError):  # it dropped itself: it has reset the device, say
            self._works.remove(work)
        self._schedule()
        answer()

    def _drop(self, work: tuple[Steps[Any], Later[Any]]) -> bool:
        """Nobody wants it any more: True, nothing of it is under way."""
        with contextlib.suppress(ValueError):
            self._works.remove(work)
        with contextlib.suppress(BaseException):  # it is over, whatever the model says to that
            work[0].close()
        return True
