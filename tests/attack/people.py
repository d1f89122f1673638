"""Processes that do a piece of work as some user and tell what came of it."""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - others may not read this Python: what they need is here
import json
import os
import select
import signal
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any, Final

ALICE: Final = 60_001  # nobody's, on any machine
BOB: Final = 60_002
TWO_USERS: Final = os.geteuid() == 0  # only root can be others


class Failed(Exception):
    """What another process did failed: its traceback, or how it ended."""


class Person:
    """A process that runs *work*, with its end of a socket to this one, and tells what it returns, as JSON can."""

    def __init__(self, work: Callable[[socket.socket], Any], uid: int | None = None, nice: int = 0) -> None:
        """*uid* is None for our own user."""
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            self.sock.close()
            _live(work, theirs, uid, nice)
        theirs.close()

    def hear(self, seconds: float) -> Any:
        """The next thing that it says, within that time.  Raises Failed."""
        if not select.select([self.sock], [], [], max(0.0, seconds))[0]:
            raise Failed(f"not through after {seconds:.0f} s")
        said = self.sock.recv(1 << 18)
        if not said:
            raise Failed("it ended without a word")
        kind, value = json.loads(said)
        if kind == "failed":
            raise Failed(value)
        return value

    def tell(self) -> None:
        """Say that it may go on."""
        with contextlib.suppress(OSError):
            self.sock.send(b"go")

    def end(self) -> None:
        """Kill it, if it still lives."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.sock.close()
            self.pid = 0


def say(sock: socket.socket, value: Any, kind: str = "said") -> None:
    """Tell the other process *value*."""
    sock.send(json.dumps((kind, value)).encode())


def _live(work: Callable[[socket.socket], Any], sock: socket.socket, uid: int | None, nice: int) -> None:
    try:
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        if uid is not None:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        say(sock, work(sock))
    except BaseException:
        with contextlib.suppress(OSError):
            say(sock, traceback.format_exc()[-4000:], "failed")
    finally:
        os._exit(0)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether *condition* comes true within that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
