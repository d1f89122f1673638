"""Turns: who has work is given time, users in turn, then their guests, each as much as it has not had.

Work is done at once as long as its user has not used up its time (`User.free`): so a guest that is alone, or asks for
little, never waits in a queue.  Who has, or has work left, waits for its user's next turn: one user's for each round of
the loop, so that between two turns whatever has come is read and new connections are let in.  Within a user's turn the
guest that had the least time comes first, for a part of the turn; one that had none for long is not owed for that,
and one that had much does not owe much.  What the host does to many guests at once has turns like a user's (`Chores`).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, Protocol, TypeVar

T = TypeVar("T")
TURN: Final = 0.0005  # seconds of one user, and one call more: others wait meanwhile
PART: Final = TURN / 16  # of one of its guests, at least, if there are many
_HOST: Final = -1  # whose chores are: no user


class Works(Protocol):
    """Something of a guest's that works in turns: a lane, say."""

    ended: float  # when `work` did so last

    def work(self, now: float, until: float) -> bool:
        """Work as long as there is time, a little at least; whether some is left."""


class Worker(Protocol):
    """Something of a user's: a guest, say."""

    had: float  # seconds, as `User` counts them

    def work(self, until: float) -> bool:
        """Work as long as there is time, a little at least; whether some is left."""


class Turns:
    """The turns of all users."""

    def __init__(self, time: Callable[[], float]) -> None:
        """*time* is that of a clock, by which turns end."""
        self.time = time
        self._users: dict[int, User] = {}
        self.waiting: deque[User] = deque()  # who have work, the next one first
        self._called = False

    def of(self, uid: int) -> User:
        """The turns of the user *uid*."""
        user = self._users.get(uid)
        if user is None:
            user = self._users[uid] = User(self)
        return user

    def add(self, user: User) -> None:
        """*user* has work, and had none."""
        self.waiting.append(user)
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        user = self.waiting[0]  # it stays there meanwhile: what else is due of it waits
        try:
            user.turn()
        finally:
            self.waiting.popleft()
            if user.queue:
                self.waiting.append(user)
            self._called = bool(self.waiting)
            if self._called:
                asyncio.get_running_loop().call_soon(self._turn)


class User:
    """The turns of one user."""

    __slots__ = ("_order", "_turns", "free", "had", "others", "queue", "used")

    def __init__(self, turns: Turns) -> None:
        self._turns, self.others = turns, turns.waiting
        self._order = itertools.count()
        self.queue: list[tuple[float, int, Worker]] = []  # a heap: who had the least comes first
        self.had = 0.0  # seconds, of the worker whose turn it was last: who comes now is not owed more
        self.used = 0.0  # seconds in all
        self.free = float("-inf")  # when it may work without waiting in turn

    def charge(self, begun: float, ended: float) -> None:
        """It has worked meanwhile: twice that, and once for each other user who waits, is everybody's."""
        used = ended - begun
        self.used += used
        self.free = max(self.free, begun - TURN) + used * (2 + len(self.others))

    def do(self, worker: Worker) -> bool:
        """Have *worker*, which is not in the queue, work: now, which is told, or in turn."""
        now = self._turns.time()
        if self.queue or self.free > now:
            self.enter(worker)
            return False
        if worker.work(now + TURN):
            self.enter(worker)
        self.charge(now, self._turns.time())
        return True

    def enter(self, worker: Worker) -> None:
        """*worker*, which is not in the queue, has work.

        It waits for a part of the others at most, whatever it had: that was the machine's time perhaps, not its own.
        """
        is_first = not self.queue
        heapq.heappush(self.queue, (max(self.had, min(worker.had, self.had + PART)), next(self._order), worker))
        if is_first and self not in self._turns.waiting:
            self._turns.add(self)

    def turn(self) -> None:
        """Have those who wait work, for a turn."""
        queue, time = self.queue, self._turns.time
        begun = now = time()
        until = begun + TURN
        part = max(PART, TURN / len(queue))
        while queue and now <= until:
            self.had, _, worker = heapq.heappop(queue)
            left = False
            try:
                left = worker.work(min(until, now + part))
            finally:
                before, now = now, time()
                worker.had = self.had + now - before
                if left:
                    heapq.heappush(queue, (worker.had, next(self._order), worker))
        self.free = begun - TURN  # a round of the loop has passed
        self.charge(begun, now)


class Once:
    """Work that is done at once, when it is its turn."""

    def __init__(self, does: Callable[[], object]) -> None:
        self._does, self.had = does, 0.0

    def work(self, until: float) -> bool:
        """See `Worker`."""
        self._does()
        return False


class Chores:
    """What the host does in steps, one thing after the other: to all who have a device open, say."""

    def __init__(self, turns: Turns) -> None:
        self._turns, self.had = turns, 0.0
        self._steps: deque[Iterator[None]] = deque()  # the first is under way

    def add(self, steps: Iterator[None]) -> None:
        """Do *steps* after all that came before: at once, as far as there is time."""
        self._steps.append(steps)
        if len(self._steps) == 1:
            self._turns.of(_HOST).do(self)

    async def do(self, steps: Iterator[None]) -> None:
        """Add *steps*, and wait until they are done."""
        done = asyncio.Event()

        def all_of_them() -> Iterator[None]:
            try:
                yield from steps
            finally:
                done.set()

        self.add(all_of_them())
        await done.wait()

    async def gather(self, makes: Iterable[T]) -> list[T]:
        """All of what *makes* gives, each in a step of its own.  Raises what it raises."""
        made: list[T] = []
        failed: list[BaseException] = []

        def each() -> Iterator[None]:
            try:
                for one in makes:
                    made.append(one)
                    yield
            except Exception as error:
                failed.append(error)

        await self.do(each())
        for error in failed:
            raise error
        return made

    def work(self, until: float) -> bool:
        """See `Worker`."""
        while self._steps:
            try:
                if any(self._turns.time() > until for _ in self._steps[0]):
                    return True
            except Exception as error:  # of ours: what comes after it is done all the same
                asyncio.get_running_loop().call_exception_handler({"message": "a chore failed", "exception": error})
            self._steps.popleft()
        return False

    def finish(self) -> None:
        """Do all that is left, now."""
        self.work(float("inf"))


class Steps:
    """Work in small steps: the end of a guest, say."""

    def __init__(
        self, steps: Iterator[None], time: Callable[[], float], batch: Callable[[Callable[[], bool]], bool]
    ) -> None:
        """*batch* does some of them; what they send goes out in one write."""
        self._steps, self._time, self._batch = steps, time, batch
        self.ended = 0.0

    def work(self, now: float, until: float) -> bool:
        """See `Works`."""
        left = self._batch(partial(self._some, until))
        self.ended = self._time()
        return left

    def _some(self, until: float) -> bool:
        return any(self._time() > until for _ in self._steps)
