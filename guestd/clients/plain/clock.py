"""How a program without an event loop waits: for a socket, or for a moment of a clock, whichever comes first."""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
import select
import socket
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from hcall import spin as spins
from hcall.clock import Clock, SystemClock, Timer
from hcall.spin import Spin


class BlockingClock(Clock, Protocol):
    """A clock whose callbacks are made by `fire`, in the thread that waits."""

    @property
    def armed(self) -> bool:
        """Whether there are moments to wait for."""

    def left(self) -> float | None:
        """Seconds until the next callback is due as far as that is known; None: see `signalled`."""

    def signalled(self) -> int | None:
        """A descriptor that can be read when something is due, if `left` cannot tell."""

    def fire(self) -> None:
        """Make the callbacks that are due."""

    def close(self) -> None:
        """Nobody waits any more."""


class WallClock:
    """The system's time."""

    def __init__(self) -> None:
        self.time = SystemClock().time
        self.armed = False
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        """As in the protocol."""
        entry = self.time() + delay, next(self._order), callback
        bisect.insort(self._timers, entry)
        self.armed = True
        return _WallTimer(self, entry)

    def forget(self, entry: tuple[float, int, Callable[[], object]]) -> None:
        """It was cancelled, or is due."""
        if entry in self._timers:
            self._timers.remove(entry)
        self.armed = bool(self._timers)

    def left(self) -> float | None:
        """As in the protocol."""
        return max(0.0, self._timers[0][0] - self.time()) if self._timers else None

    def signalled(self) -> int | None:
        """As in the protocol: `left` is exact."""
        return None

    def fire(self) -> None:
        """As in the protocol."""
        now = self.time()
        for entry in [entry for entry in self._timers if entry[0] <= now]:
            if entry in self._timers:  # the one before may have cancelled it
                self.forget(entry)
                entry[2]()

    def close(self) -> None:
        """As in the protocol."""
        self._timers.clear()


class _WallTimer:
    def __init__(self, clock: WallClock, entry: tuple[float, int, Callable[[], object]]) -> None:
        self._clock, self._entry = clock, entry

    def cancel(self) -> None:
        self._clock.forget(self._entry)


class HandedClock:
    """Any other clock, one that is turned by hand say, from wherever: its callbacks only wake the one who waits."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.time = clock.time
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._pending: set[_HandedTimer] = set()
        self._due: deque[_HandedTimer] = deque()

    @property
    def armed(self) -> bool:
        """As in the protocol."""
        return bool(self._pending)

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        """As in the protocol; without a delay it is due at once, even if the clock stands still."""
        timer = _HandedTimer(self._pending, callback)
        if delay > 0:
            timer.inner = self._clock.call_later(delay, lambda: self._ring(timer))
        else:
            self._ring(timer)
        return timer

    def _ring(self, timer: _HandedTimer) -> None:
        self._due.append(timer)
        if self._event >= 0:
            os.eventfd_write(self._event, 1)

    def left(self) -> float | None:
        """As in the protocol."""
        return 0.0 if self._due else None

    def signalled(self) -> int | None:
        """As in the protocol."""
        return self._event

    def fire(self) -> None:
        """As in the protocol."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        while self._due:
            timer = self._due.popleft()
            if timer in self._pending:
                self._pending.discard(timer)
                timer.callback()

    def close(self) -> None:
        """As in the protocol."""
        for timer in list(self._pending):
            timer.cancel()
        event, self._event = self._event, -1
        if event >= 0:
            os.close(event)


class _HandedTimer:
    inner: Timer | None = None

    def __init__(self, pending: set[_HandedTimer], callback: Callable[[], object]) -> None:
        self._pending, self.callback = pending, callback
        pending.add(self)

    def cancel(self) -> None:
        self._pending.discard(self)
        if self.inner is not None:
            self.inner.cancel()


def blocking(clock: Clock | None) -> BlockingClock:
    """*clock*, or the system's time, for a program that has no event loop."""
    return WallClock() if clock is None or isinstance(clock, SystemClock) else HandedClock(clock)


def wait(
    clock: BlockingClock, sock: socket.socket | None = None, events: int = 0, spin: Spin | None = None,
    others: Iterable[int] = (),
) -> int:  # fmt: skip
    """Until something of *events* happens at *sock*, or a callback of *clock* is due: what happened, 0 if nothing.

    Or until one of *others*, eventfds, can be read, and is.  It only looks, instead of sleeping, as long as *spin* says
    so.
    """
    poll = select.poll()
    if sock is not None:
        poll.register(sock, events)
    event = clock.signalled()
    if event is not None:
        poll.register(event, select.POLLIN)
    for each in others:
        poll.register(each, select.POLLIN)
    left = clock.left()
    ready: dict[int, int] = {}
    if spin is not None and (left is None or left > spins.SECONDS) and spin.came():
        while not (ready := dict(poll.poll(0))) and spin.again():
            pass
        left = clock.left()
    if not ready:
        ready = dict(poll.poll(None if left is None else left * 1000))
    for each in others:
        if each in ready:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(each)
    return ready.get(sock.fileno(), 0) if sock is not None else 0


def pause(clock: BlockingClock, seconds: float) -> None:
    """Do nothing for *seconds* of *clock*."""
    over: list[bool] = []
    timer = clock.call_later(seconds, lambda: over.append(True))
    try:
        while not over:
            wait(clock)
            clock.fire()
    finally:
        timer.cancel()
