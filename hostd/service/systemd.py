"""What the service manager is told: sd_notify(3) and its watchdog, without its library.

The variables it is reached by are taken out of the environment: they are not for the commands that a console runs.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import deque
from collections.abc import MutableMapping
from typing import Final, cast

from hcall.clock import Clock, Timer

log = logging.getLogger(__name__)

_MOST: Final = 64  # messages that wait while the service manager reads nothing


class Notifier:
    """Tells systemd, or whoever started this process, how it goes; nobody, if nobody wants to know."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        interval = environ.pop("WATCHDOG_USEC", "")
        mine = environ.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self._interval = int(interval) / 1e6 if mine and interval.isdecimal() else 0.0
        self._timer: Timer | None = None
        self._waiting: deque[str] = deque(maxlen=_MOST)  # to be told; nobody wants to know what was long ago
        self._sock: socket.socket | None = None  # while something waits
        self._loop: asyncio.AbstractEventLoop | None = None  # that looks whether there is room

    def tell(self, *fields: str) -> None:
        """Send *fields*, such as "READY=1", in one message: now, or as soon as there is room for it."""
        message = "\n".join(fields)
        if self._address and (not self._waiting or self._waiting[-1] != message):  # a ping, say
            self._waiting.append(message)
            if self._sock is None:
                self._send()

    def _send(self) -> None:
        while self._waiting:
            sock = self._sock
            try:
                if sock is None:
                    self._sock = sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                    sock.connect(self._address)
                sock.send(self._waiting[0].encode(), socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._loop = asyncio.get_running_loop()
                self._loop.add_writer(cast(socket.socket, sock), self._send)
                return
            except OSError as error:
                log.warning("the service manager cannot be told %s: %s", self._waiting[0].split("\n")[0], error)
            self._waiting.popleft()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._sock is not None:
            if self._loop is not None:
                self._loop.remove_writer(self._sock)
                self._loop = None
            self._sock.close()
            self._sock = None

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")  # which systemd compares with its own

    def ready(self, status: str) -> None:
        """Guests can attach; *status* says in one line how it goes."""
        self.tell("READY=1", f"STATUS={status}")

    def watch(self, clock: Clock) -> None:
        """Ping the watchdog, if there is one, from now on: twice in its interval, as sd_watchdog_enabled(3) has it."""
        if self._interval:
            self.tell("WATCHDOG=1")
            self._timer = clock.call_later(self._interval / 2, lambda: self.watch(clock))

    def close(self) -> None:
        """Ping no more, and forget what was not heard yet."""
        if self._timer is not None:
            self._timer.cancel()
        self._hang_up()
