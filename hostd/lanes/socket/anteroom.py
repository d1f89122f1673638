"""Those of one user who have connected, and have not said HELLO: the loop hears of all of them by one descriptor.

A thousand that speak at once, each with a reader of its own, would take 25 ms of one round of the loop only to be put
off until it is their user's turn.  An epoll of their own gives as many as there is time for, and keeps the rest.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Final

_AT_ONCE: Final = 4  # before time is looked at


class Anteroom:
    """Work of its user's: see `hostd.guests.turns.Worker`."""

    __slots__ = ("_epoll", "_is_due", "_loop", "_soon", "_time", "_waiting", "had")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, soon: Callable[[Anteroom], bool], time: Callable[[], float]
    ) -> None:
        """*soon* has it work for its user, now or in turn, by *time*."""
        self._loop, self._soon, self._time = loop, soon, time
        self._epoll: select.epoll | None = None  # while somebody waits
        self._waiting: dict[int, Callable[[], None]] = {}  # by descriptor
        self._is_due = False  # its turn comes: that there is something to read is known
        self.had = 0.0

    def watch(self, sock: socket.socket, readable: Callable[[], None]) -> None:
        """Call *readable* whenever there is something to read, in the user's turns.  Raises OSError."""
        if self._epoll is None:
            self._epoll = select.epoll()
            self._loop.add_reader(self._epoll.fileno(), self._readable)
        self._epoll.register(sock, select.EPOLLIN)
        self._waiting[sock.fileno()] = readable

    def forget(self, sock: socket.socket) -> None:
        """Not any more, if it is watched."""
        if self._epoll is None or self._waiting.pop(sock.fileno(), None) is None:
            return
        if self._waiting:
            self._epoll.unregister(sock)
        else:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _readable(self) -> None:
        if not self._is_due:
            self._is_due = True
            self._soon(self)

    def work(self, until: float) -> bool:
        """Read, as long as there is time; whether some is left."""
        while self._epoll is not None and (ready := self._epoll.poll(0, _AT_ONCE)):
            for fd, _ in ready:
                if (readable := self._waiting.get(fd)) is not None:  # else one before it had it closed
                    readable()
            if self._time() > until:
                return True
        self._is_due = False
        return False
