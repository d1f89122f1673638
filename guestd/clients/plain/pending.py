"""A call that was made without a loop, and its answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any, Protocol

from hcall.errors import LinkLost, failure

from .clock import BlockingClock
from .tasks import Awaited, TaskClock, Tasks


class Pumping(Protocol):
    """A guest, as its calls see it."""

    timeout: float | None
    clock: TaskClock
    tasks: Tasks
    time: BlockingClock

    def pump(self) -> bool:
        """Wait until something has happened."""

    def within(self, seconds: float, done: Callable[[], bool]) -> bool:
        """Wait until *done*, at most *seconds*; whether it is."""


class Pending(Awaited):
    """A call that was made; awaiting it, or `guest.run`, gives its value."""

    __slots__ = ("_guest", "status", "value")
    is_bounded = True  # by the guest's `timeout`

    def __init__(self, guest: Pumping) -> None:
        self._guest = guest
        self.task = None
        self.others = ()
        self.status = -1  # none yet
        self.value: Any = None

    @property
    def answer(self) -> tuple[Any] | None:
        """Its value, or the error of its status; None: not yet."""
        if self.status < 0:
            return None
        return (failure(self.status, self.value) if self.status else self.value,)

    def result(self, timeout: float | None = None) -> Any:
        """Its value, waited for if need be.

        Raises the HcallError of its status; TimeoutError after *timeout* seconds (the guest's own timeout if not
        given): the call was made all the same, and its result can still be asked for.
        """
        guest = self._guest
        if timeout is None and (timeout := guest.timeout) is None:
            while self.status < 0:
                guest.pump()
        elif not guest.within(timeout, lambda: self.status >= 0):
            raise TimeoutError(f"no answer within {timeout:g} s")
        if self.status:
            raise failure(self.status, self.value)
        return self.value

    def __await__(self) -> Generator[Awaited, None, Any]:
        if self.status < 0:
            guest = self._guest
            task = guest.tasks.current
            if guest.timeout is not None and self.is_bounded:
                yield from self._bounded().__await__()
            elif task is None or not task.is_alone or guest.time.armed or task.expired:
                yield self
            else:  # as `result`: nobody else is to go on meanwhile, and no moment of the clock comes
                try:
                    while self.status < 0:
                        guest.pump()
                except LinkLost:
                    pass  # which is the answer to this call, too
                except BaseException as error:
                    task.error = task.error or error  # it ends by that, whatever it does now: see `Tasks.run`
                    raise
        if self.status:
            raise failure(self.status, self.value)
        return self.value

    async def _bounded(self) -> None:
        async with self._guest.clock.timeout(self._guest.timeout):
            await Unbounded(self)


class Lingering(Pending):
    """A call that waits for the world outside, as long as that takes."""

    __slots__ = ()
    is_bounded = False


class Unbounded:
    """That a call is answered, however long it takes, and whatever the answer is."""

    def __init__(self, pending: Pending) -> None:
        self._pending = pending

    def __await__(self) -> Generator[Awaited, None, None]:
        if self._pending.status < 0:
            yield self._pending


def give(answers: Iterable[tuple[Pending, int, Any]]) -> None:
    """Wake those who wait: of each answer the call, the status and the value."""
    for pending, status, value in answers:
        pending.value, pending.status = value, status  # in this order: see `result`
        task = pending.task
        if task is not None:
            if task.awaits is pending:
                task.awaits = None
                task.ready.append(task)
            if pending.others:
                pending.wake()
