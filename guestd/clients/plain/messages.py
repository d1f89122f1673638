"""A socket of the host's where a datagram is a message, without an event loop."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hcall import rendezvous

from ...probers import Datagrams
from ..reaching import WELCOME_SECONDS, datagrams, hung_up, silent
from .clock import BlockingClock, wait

_READ = 65536


def connector(host: Path, clock: BlockingClock) -> Callable[[str], Datagrams]:
    """What connects to the socket of a name beside that of the *host*.  Raises OSError."""
    return partial(_Messages, host, clock)


class _Messages:
    def __init__(self, host: Path, clock: BlockingClock, name: str) -> None:
        self._clock, self._path = clock, rendezvous.find(str(host), name)
        self._sock = datagrams(self._path)

    async def send(self, data: bytes) -> None:
        """See `Datagrams`."""
        while True:
            try:
                self._sock.send(data, socket.MSG_NOSIGNAL)
                return
            except BlockingIOError:
                self._wait(select.POLLOUT)

    async def receive(self) -> bytes:
        """See `Datagrams`."""
        while True:
            try:
                return self._sock.recv(_READ) or hung_up(self._path)
            except BlockingIOError:
                self._wait(select.POLLIN)

    def _wait(self, events: int) -> None:
        over: list[bool] = []
        timer = self._clock.call_later(WELCOME_SECONDS, lambda: over.append(True))
        try:
            while not wait(self._clock, self._sock, events):
                self._clock.fire()
                if over:
                    raise silent(self._path)
        finally:
            timer.cancel()

    def close(self) -> None:
        """See `Datagrams`."""
        self._sock.close()
