"""Coroutines side by side without an event loop: each goes on when what it waits for is there, or its time is over."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterable
from types import CoroutineType, TracebackType
from typing import Any, TypeVar

from hcall.clock import Clock
from hcall.errors import LinkLost

T = TypeVar("T")


class Awaited:
    """Something that coroutines wait for."""

    __slots__ = ("others", "task")

    def __init__(self) -> None:
        self.task: Task | None = None  # the first one that waits; most often there is no other
        self.others: tuple[Task, ...] = ()

    def __await__(self) -> Generator[Awaited, None, Any]:
        yield self

    def wake(self) -> None:
        """It is there: all who still wait for it go on."""
        task = self.task
        if task is not None and task.awaits is self:
            task.awaits = None
            task.ready.append(task)
        for task in self.others:
            if task.awaits is self:
                task.awaits = None
                task.ready.append(task)


class Task:
    """Where a coroutine stands that runs alone."""

    __slots__ = ("awaits", "error", "expired", "ready", "throw")
    is_alone = True  # nobody else could go on while it waits

    def __init__(self, ready: deque[Any]) -> None:
        self.ready = ready  # of its own run: an answer may come after that was interrupted
        self.awaits: Awaited | None = None
        self.throw: BaseException | None = None  # what it goes on with
        self.expired: tuple[_Expired, ...] = ()  # what it will go on with when it waits the next time
        self.error: BaseException | None = None  # that it ends by, whatever it does

    def go_on(self, error: BaseException) -> None:
        """With *error*, whatever it waits for."""
        self.throw = error
        if self.awaits is not None:
            self.awaits = None
            self.ready.append(self)


class OneOfMany(Task):
    """Where one stands that runs beside others, and how it ended."""

    __slots__ = ("coroutine", "over", "value")
    is_alone = False

    def __init__(self, coroutine: CoroutineType[Any, Any, Any], ready: deque[OneOfMany]) -> None:
        super().__init__(ready)
        self.coroutine = coroutine
        self.over = False
        self.value: Any = None


class Tasks:
    """What runs them."""

    def __init__(self, pump: Callable[[], object]) -> None:
        """*pump* waits until something has happened, and wakes those who wait for it.  It raises LinkLost."""
        self._pump = pump
        self.current: Task | None = None  # the one that runs
        self._first = Task(deque())  # of a `run` that is not within another: to make one takes 0.3 us

    def run(self, work: Awaitable[T]) -> T:
        """Run *work* to its end, as `run_all` does, in half the time.

        It waits for most of its calls by itself, see `Pending.__await__`, and need not come back here for that.
        """
        coroutine: CoroutineType[Any, Any, T] = work if type(work) is CoroutineType else _wait(work)  # type: ignore[assignment]  # `async def` makes them
        outer = self.current
        task = self._first if outer is None else Task(deque())
        ready = task.ready
        while True:
            try:
                self.current = task
                while True:
                    if task.throw is None:
                        awaited = coroutine.send(None)
                    else:
                        thrown, task.throw = task.throw, None
                        awaited = coroutine.throw(thrown)
                    if task is self._first:  # what it waits for knows it from now on, perhaps for long
                        self._first = Task(deque())
                    try:
                        if awaited.task is None and not task.expired:  # most often
                            awaited.task = task
                            task.awaits = awaited
                        else:
                            self._park(task, awaited)
                    except AttributeError:
                        self._park(task, awaited)
                    while not ready:
                        self._pump()
                    ready.clear()
            except StopIteration as stop:
                if task.error is not None:
                    self._first = Task(deque())
                    raise task.error from None
                return stop.value  # type: ignore[no-any-return]
            except BaseException as error:
                self._first = Task(deque())
                if coroutine.cr_frame is None:  # it has ended, and by that
                    raise
                if not isinstance(error, LinkLost):
                    task.error = task.error or error
                if task.error or not ready:  # else it has an answer, and hears of the end by itself
                    task.awaits, task.throw = None, error
                ready.clear()
            finally:
                self.current = outer

    def gather(self, work: Iterable[Awaitable[T]]) -> list[T]:
        """What all of *work* comes to, in its order.  Raises the first error when all have ended."""
        tasks = self.run_all(work)
        for task in tasks:
            if task.error is not None:
                raise task.error
        return [task.value for task in tasks]

    def run_all(self, work: Iterable[Awaitable[Any]]) -> list[OneOfMany]:
        """Run all of *work* to its end.

        LinkLost is raised where each of them waits.  So is what a signal handler raises, such as KeyboardInterrupt, and
        in the end here: they may clean up as in any `finally`, and wait for that.
        """
        ready: deque[OneOfMany] = deque()
        tasks = [OneOfMany(each if type(each) is CoroutineType else _wait(each), ready) for each in work]  # type: ignore[arg-type]  # `async def` makes them
        ready.extend(tasks)
        outer, left = self.current, len(tasks)
        stopped: BaseException | None = None
        while left:
            try:
                self._run(ready, left)
                left = 0
            except BaseException as error:
                if not isinstance(error, LinkLost):
                    stopped = stopped or error
                if stopped or not ready:  # else who waits for an answer has one, and hears of the end by itself
                    ready.clear()
                    for task in tasks:
                        if not task.over:
                            task.awaits, task.throw = None, error
                            ready.append(task)
                left = sum(not task.over for task in tasks)
            finally:
                self.current = outer
        if stopped is not None:
            raise stopped
        return tasks

    def _run(self, ready: deque[OneOfMany], left: int) -> None:
        """Until *left* tasks have ended."""
        pump = self._pump
        while True:
            while ready:
                self.current = task = ready.popleft()
                try:
                    if task.throw is None:
                        awaited = task.coroutine.send(None)
                    else:
                        thrown, task.throw = task.throw, None
                        awaited = task.coroutine.throw(thrown)
                except StopIteration as stop:
                    task.over, task.value = True, stop.value
                    left -= 1
                except BaseException as error:
                    if task.coroutine.cr_frame is not None:  # no: what interrupts all of them
                        raise
                    task.over, task.error = True, error
                    if not isinstance(error, Exception):
                        raise
                    left -= 1
                else:
                    try:
                        if awaited.task is None and not task.expired:  # most often
                            awaited.task = task
                            task.awaits = awaited
                        else:
                            self._park(task, awaited)
                    except AttributeError:
                        self._park(task, awaited)
            if not left:
                return
            pump()

    def _park(self, task: Task, awaited: object) -> None:
        """*task* waits for *awaited*, unless its time was over while it ran."""
        if task.expired:
            task.throw, task.expired = task.expired[0], task.expired[1:]
            task.ready.append(task)
        elif not isinstance(awaited, Awaited):
            task.throw = RuntimeError("a driver awaited something that is not its device, a signal or its clock")
            task.ready.append(task)
        else:
            awaited.task, awaited.others = awaited.task or task, (*awaited.others, task)
            task.awaits = awaited


async def _wait(work: Awaitable[T]) -> T:
    return await work


class Lock:
    """One at a time, in the order in which they ask."""

    def __init__(self) -> None:
        self._queue: deque[Awaited] = deque()  # the first one has it

    async def __aenter__(self) -> None:
        mine = Awaited()
        try:
            self._queue.append(mine)
            while self._queue[0] is not mine:
                await mine
        except BaseException:
            self._leave(mine)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave(self._queue[0])

    def _leave(self, one: Awaited) -> None:
        if one in self._queue:
            self._queue.remove(one)
        if self._queue:
            self._queue[0].wake()


class TaskClock:
    """The `Sleeper` of the blocking client."""

    def __init__(self, tasks: Tasks, clock: Clock) -> None:
        self._tasks, self._clock = tasks, clock
        self.time = clock.time

    async def sleep(self, seconds: float) -> None:
        """As in the protocol."""
        moment = Awaited()
        timer = self._clock.call_later(max(seconds, 0.0), moment.wake)
        try:
            await moment
        finally:
            timer.cancel()

    def timeout(self, seconds: float | None) -> Timeout:
        """As in the protocol."""
        return Timeout(self._tasks, self._clock, seconds)


class _Expired(BaseException):
    """What goes through a coroutine whose time is over, up to its `Timeout`: no driver catches it as an error."""

    def __init__(self, scope: Timeout) -> None:
        self.scope = scope


class Timeout:
    """The part of a coroutine that has so many seconds; ends in TimeoutError if it takes longer."""

    def __init__(self, tasks: Tasks, clock: Clock, seconds: float | None) -> None:
        self._tasks, self._clock, self._seconds = tasks, clock, seconds

    async def __aenter__(self) -> None:
        task = self._tasks.current
        if task is None:
            raise RuntimeError("a timeout is for a coroutine that the guest runs")
        self._task = task
        if self._seconds is None:
            self._timer = None
        elif self._seconds > 0:
            self._timer = self._clock.call_later(self._seconds, self._expire)
        else:
            self._timer = None
            self._expire()

    def _expire(self) -> None:
        task = self._task
        if task.awaits is None:  # it runs, or what it waited for is there: it may have that
            task.expired = (*task.expired, _Expired(self))
        else:
            task.go_on(_Expired(self))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._task.expired = tuple(each for each in self._task.expired if each.scope is not self)
        if isinstance(error, _Expired) and error.scope is self:
            raise TimeoutError(f"it took longer than {self._seconds:g} s") from None
