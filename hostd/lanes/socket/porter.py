"""What guests bring and leave, descriptors and memory, is handled by threads: the loop never waits for it.

Whatever is done with somebody else's descriptor is a call into somebody else's code: close(2), fstat(2), and to read
past one that is in a socket's queue, may wait for a peer that does not read, fail, or never return.  And to unmap
gigabytes takes its time.  A few threads for each user do it, in turn: who makes them hang waits for them alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Protocol, TypeVar

from hcall.clock import Clock, timeout
from hcall.errors import Busy

T = TypeVar("T")

_EACH: Final = 2  # threads of one user, who may make them hang
_SPARE: Final = 2  # that wait for work
_BEHIND_SECONDS: Final = 1.0  # that work of a user may wait before more is refused
_GRAVES: Final = -2  # whose work it is to start processes that end: one thread's
_MEMORY: Final = -1  # whose work it is to unmap memory, which takes long but ends: one thread's


class Mapped(Protocol):
    """Memory of a guest."""

    def unmap(self) -> bool:
        """Free it, which takes long; False if somebody looks at it still."""

    def look(self) -> None:
        """See how much of it is there."""


class _Work:
    __slots__ = ("does", "since", "then", "thread", "whose")

    def __init__(self, whose: int, does: Callable[[], Any], then: Callable[[Any], None], since: float) -> None:
        self.whose, self.does, self.then, self.since = whose, does, then, since
        self.thread: threading.Thread | None = None


class _Crew:
    """Of one user."""

    __slots__ = ("busy", "waiting")

    def __init__(self) -> None:
        self.busy = 0
        self.waiting: deque[_Work] = deque()


class Porter:
    """Does in threads what may wait for a guest, or take long.  All its methods are the loop's."""

    def __init__(self, clock: Clock, time: Callable[[], float], changed: asyncio.Event) -> None:
        """*time* is what users have had; *changed* is set each time that something was done."""
        self._clock, self._time, self._changed = clock, time, changed
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Work | None] = SimpleQueue()
        self._threads: set[threading.Thread] = set()  # some of them may be about to end
        self._count = 0  # those that are not
        self._under_way: set[_Work] = set()
        self._crews: dict[int, _Crew] = {}  # by user, of those that have work
        self._graves: list[int] = []
        self._looked_at: list[tuple[Mapped, Callable[[], None]]] = []
        self._closed = False

    @property
    def is_busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._under_way)

    def carry(self, whose: int, does: Callable[[], T], then: Callable[[T], None] = lambda _: None) -> None:
        """Have *does* done by a thread of the user *whose*, in turn; *then* gets what it gives, in the loop."""
        crew = self._crews.setdefault(whose, _Crew())
        work = _Work(whose, does, then, self._time())
        if crew.busy < (_EACH if whose >= 0 else 1):
            self._begin(crew, work)
        else:
            crew.waiting.append(work)

    def close(self, whose: int, sock: socket.socket) -> None:
        """Close *sock*, a connection of the user *whose*, with whatever is in its queue."""
        if not self._is_behind(whose):
            self.discard(whose, [sock.detach()])
            return
        self._graves.append(sock.detach())  # else somebody who connects again and again would have all that we may open
        if len(self._graves) == 1:
            self.carry(_GRAVES, partial(_bury, self._graves))

    def _is_behind(self, whose: int) -> bool:
        crew = self._crews.get(whose)
        return bool(crew and crew.waiting and self._time() - crew.waiting[0].since > _BEHIND_SECONDS)

    def check(self, whose: int) -> None:
        """Raises Busy if the threads of the user *whose* hang, and nothing more should be given to them."""
        if self._is_behind(whose):
            raise Busy(f"descriptors that user {whose} sent before are still waited for: closing them does not end")

    def discard(self, whose: int, fds: Iterable[int]) -> None:
        """Close *fds*, which the user *whose* sent."""
        for fd in fds:  # one may hang, and the others need not
            self.carry(whose, partial(close, [fd]))

    def free(self, memory: Mapped, then: Callable[[], None]) -> None:
        """Unmap *memory* as soon as no call under way looks at it; *then* follows."""

        def tried(is_gone: bool) -> None:
            if is_gone:
                then()
            else:
                self._looked_at.append((memory, then))

        self.carry(_MEMORY, memory.unmap, tried)

    def look(self, memories: Iterable[Mapped], then: Callable[[], None]) -> None:
        """Have all of them looked at, one after the other with what is unmapped."""

        def does() -> None:
            for memory in memories:
                memory.look()

        self.carry(_MEMORY, does, lambda _: then())

    def again(self) -> None:
        """Calls were answered, perhaps: free what they looked at."""
        looked_at, self._looked_at = self._looked_at, []
        for memory, then in looked_at:
            self.free(memory, then)

    def _begin(self, crew: _Crew, work: _Work) -> None:
        crew.busy += 1
        self._under_way.add(work)
        if len(self._under_way) > self._count:
            thread = threading.Thread(target=self._run, name="porter", daemon=True)  # it may hang for ever
            self._threads.add(thread)
            self._count += 1
            thread.start()
        self._queue.put(work)
        if self._closed:
            self._dismiss()

    def _dismiss(self) -> None:
        """Let the thread go that has nothing to do next."""
        self._count -= 1
        self._queue.put(None)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            work.thread = threading.current_thread()
            outcome, error = None, None
            try:
                outcome = work.does()
            except BaseException as mistake:  # of ours: what may go wrong is an outcome
                error = mistake
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._ended, work, outcome, error)
            del work, outcome, error  # what they hold is not held until there is more to do
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._threads.discard, threading.current_thread())

    def _ended(self, work: _Work, outcome: Any, error: BaseException | None) -> None:
        self._under_way.remove(work)
        crew = self._crews[work.whose]
        crew.busy -= 1
        if crew.waiting:
            self._begin(crew, crew.waiting.popleft())
        elif not crew.busy:
            del self._crews[work.whose]
        if self._count - len(self._under_way) > _SPARE:
            self._dismiss()
        self._changed.set()
        if error is not None:
            raise error
        work.then(outcome)

    async def end(self, seconds: float) -> None:
        """Wait for what is under way, but for *seconds* at most: what hangs is left to the end of the process."""
        self.again()
        with contextlib.suppress(TimeoutError):
            async with timeout(self._clock, seconds):
                while self.is_busy:
                    self._changed.clear()
                    await self._changed.wait()
        self._closed = True
        hang = {work.thread for work in self._under_way}
        while self._count:
            self._dismiss()
        for thread in self._threads - hang:
            thread.join()  # at once


def _bury(socks: list[int]) -> None:
    """Close *socks*, Unix sockets, and what is in their queues: by the end of a process, for which that cannot wait."""
    buried = socks[:]
    del socks[: len(buried)]
    try:
        process = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=buried)
    except OSError:
        close(buried)
        return
    close(buried)  # which does nothing yet
    process.communicate()


def close(fds: Iterable[int]) -> None:
    """Close *fds*, all of them, whatever their close(2) says."""
    for fd in fds:
        with contextlib.suppress(OSError):  # it is closed all the same
            os.close(fd)
