"""An answer that comes after its handler has returned: no task, no await."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from hcall.errors import Reset

T = TypeVar("T")


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
        if self._sink is not None:
            self._sink(outcome)


def _finished() -> bool:
    """The cancel of a worker that is left to end by itself."""
    return False
