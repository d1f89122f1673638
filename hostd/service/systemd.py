"""What the service manager is told: sd_notify(3) and its watchdog, without its library.

The variables it is reached by are taken out of the environment: they are not for the commands that a console runs.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

from hcall.clock import Clock, Timer

log = logging.getLogger(__name__)

_PATIENCE: Final = 1.0  # seconds: everything here waits while the service manager reads nothing


class Notifier:
    """Tells systemd, or whoever started this process, how it goes; nobody, if nobody wants to know."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        interval = environ.pop("WATCHDOG_USEC", "")
        mine = environ.pop("WATCHDOG_PID", "") in ("", str(os.getpid()))
        self._interval = int(interval) / 1e6 if mine and interval.isdecimal() else 0.0
        self._timer: Timer | None = None

    def tell(self, *fields: str) -> None:
        """Send *fields*, such as "READY=1", in one message."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_PATIENCE)
                sock.sendto("\n".join(fields).encode(), self._address)
        except OSError as error:
            log.warning("the service manager cannot be told %s: %s", fields[0], error)

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
        """Ping no more."""
        if self._timer is not None:
            self._timer.cancel()
