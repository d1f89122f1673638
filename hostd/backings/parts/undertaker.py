"""The end of commands, each with all processes of its session: a thread's work, since it looks at all of the system's.

One thread for all that end at the same time, which looks once: however often a guest has a command ended, no more
than those of one look wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

log = logging.getLogger(__name__)

_KILL_MS: Final = 1000


class _Dying(NamedTuple):
    leader: int  # pid; it is ours to wait for, so the number is nobody else's
    pidfd: int
    said: str
    loop: asyncio.AbstractEventLoop
    then: Callable[[], None]


class _Undertaker:
    """The thread, while there is something to do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of what follows
        self._waiting: list[_Dying] = []
        self._works = False

    def take(self, dying: _Dying) -> None:
        with self._lock:
            self._waiting.append(dying)
            if not self._works:
                self._works = True
                threading.Thread(target=self._work, name="cmd:").start()

    def _work(self) -> None:
        while True:
            with self._lock:
                dying, self._waiting = self._waiting, []
                if not dying:
                    self._works = False
                    return
            _kill_sessions({each.leader for each in dying})
            for each in dying:
                _bury(each)


_UNDERTAKER: Final = _Undertaker()


def bury(leader: int, pidfd: int, said: str, loop: asyncio.AbstractEventLoop, then: Callable[[], None]) -> None:
    """Kill the session of *leader*, *said* for people, and wait for it; *then* is called in *loop*.

    *pidfd* is closed.
    """
    _UNDERTAKER.take(_Dying(leader, pidfd, said, loop, then))


def _bury(dying: _Dying) -> None:
    """Wait for the end of a process that was killed, or has ended."""
    gone = select.poll()
    gone.register(dying.pidfd, select.POLLIN)
    if gone.poll(_KILL_MS):
        with contextlib.suppress(ChildProcessError):  # it was another process that began it
            os.waitpid(dying.leader, 0)
    else:
        log.error("%s does not die", dying.said)
    os.close(dying.pidfd)
    with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
        dying.loop.call_soon_threadsafe(dying.then)


def _kill_sessions(leaders: set[int]) -> None:
    """Kill all their processes: a shell's background jobs have process groups of their own."""
    for name in (entry.name for entry in Path("/proc").iterdir()):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                if os.getsid(int(name)) in leaders:
                    os.kill(int(name), signal.SIGKILL)
