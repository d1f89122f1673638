"""One process of a device, from its launch to its end: what the kernel has of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hcall.clock import SystemClock

from .channel import Channel
from .output import Output

_PROGRAM: Final = "hostd.machine.isolated"


class Program:
    """Runs until it has ended and was reaped."""

    def __init__(self, path: str, readable: Callable[[], None], ended: Callable[[], None]) -> None:
        """Launch it for the device at *path*; *readable* is called for its messages, *ended* when it has.

        Raises OSError.
        """
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        ours, theirs = zip(*pairs, strict=True)
        numbers = [sock.fileno() for sock in theirs]
        reads, writes = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reads, False)
        paths = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", _PROGRAM, *map(str, [os.getpid(), *numbers])],
                stdin=subprocess.DEVNULL, stdout=writes, stderr=writes, pass_fds=numbers,
                env={**os.environ, "PYTHONPATH": paths}, process_group=0,
            )  # fmt: skip
        except OSError:
            for sock in ours:
                sock.close()
            os.close(reads)
            raise
        finally:
            for sock in theirs:
                sock.close()
            os.close(writes)
        self.pid = self._popen.pid
        self._loop = asyncio.get_running_loop()
        self.channel, self.output = Channel(*ours), Output(reads, path, self._loop)
        self._gone = os.pidfd_open(self.pid)
        self._loop.add_reader(self.channel.sock, readable)
        self._loop.add_reader(self._gone, ended)

    def deaf(self) -> None:
        """Its messages are no longer waited for: there are none any more."""
        self._loop.remove_reader(self.channel.sock)

    def kill(self) -> None:
        """End it."""
        self._popen.kill()

    def reap(self) -> str:
        """It has ended, or is about to: how it did.  All of it is gone then, but for the messages in the channel."""
        code = self._popen.wait()
        self.output.close()
        self.deaf()
        self._loop.remove_reader(self._gone)
        os.close(self._gone)
        if code >= 0:
            return f"exit code {code}"
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"

    def wait(self, done: Callable[[], bool], seconds: float, hear: Callable[[], object]) -> bool:
        """Without the loop: *hear* what comes until *done*, for so many *seconds*; False: it is not, or has ended."""
        clock = SystemClock()
        until = clock.time() + seconds
        poll = select.poll()
        poll.register(self.channel.sock, select.POLLIN)
        poll.register(self.output.fd, select.POLLIN)
        poll.register(self._gone, select.POLLIN)
        while not done():
            ready = dict(poll.poll(max(0.0, until - clock.time()) * 1000))
            if not ready or self._gone in ready:
                return False
            if self.output.fd in ready and not self.output.read():
                poll.unregister(self.output.fd)
            if self.channel.sock.fileno() in ready:
                try:
                    hear()
                except EOFError:  # it is about to end
                    poll.unregister(self.channel.sock)
        return True

    @property
    def has_ended(self) -> bool:
        """Whether it is to be reaped."""
        return bool(select.select([self._gone], [], [], 0)[0])
