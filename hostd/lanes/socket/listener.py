"""A listening socket, which lets in a few at a time, for 1 ms, and waits where there are no descriptors."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable
from typing import Final

from hcall.clock import Clock, Timer

log = logging.getLogger(__name__)

_AT_ONCE: Final = 64
_ROUND_SECONDS: Final = 0.001  # whoever they are of: the queue is one, and cannot be chosen from
_PAUSE_SECONDS: Final = 1.0
_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Listener:
    """Accepts connections, and gives each to *accepted*."""

    def __init__(self, sock: socket.socket, clock: Clock, accepted: Callable[[socket.socket], None]) -> None:
        """*sock* is closed at the end."""
        sock.setblocking(False)
        self._sock, self._clock, self._accepted = sock, clock, accepted
        self._retry: Timer | None = None
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._readable)

    def close(self) -> None:
        """Let nobody in any more."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()

    def _readable(self) -> None:
        until = self._clock.time() + _ROUND_SECONDS
        for _ in range(_AT_ONCE):
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                # The connection stays in the queue, and the listener readable: without a pause this would spin.
                log.warning("no guest can be let in: %s", error.strerror)
                self._loop.remove_reader(self._sock)
                self._retry = self._clock.call_later(_PAUSE_SECONDS, self._go_on)
                return
            sock.setblocking(False)
            self._accepted(sock)
            if self._clock.time() > until:
                return

    def _go_on(self) -> None:
        self._retry = None
        self._loop.add_reader(self._sock, self._readable)
