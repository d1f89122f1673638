"""A connection without an event loop.  Its rule: who writes must read, so to write never waits."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hcall.errors import NoHost
from hcall.spin import Spin

from .clock import BlockingClock, wait

_NOW: Final = int(socket.MSG_DONTWAIT)
READ = 65536  # four times that is half as fast: the buffer is made anew for each read


class BlockingLink:
    """A socket to the host, and what is to be written and is not yet."""

    def __init__(self, path: Path, spin: Spin | None = None) -> None:
        """Connect; *spin*, if given, is told of all that came.  Raises NoHost."""
        self._sock = socket.socket(socket.AF_UNIX)
        self.spin = spin
        self.rest: bytes | memoryview = b""  # of what was sent: the host has not taken it yet
        try:
            self._sock.connect(str(path))
        except OSError as error:
            self._sock.close()
            raise NoHost(error.errno, error.strerror or str(error), str(path)) from None
        except BaseException:
            self._sock.close()
            raise
        self.recv, self._send = self._sock.recv, self._sock.send
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        self._poll = self._either = poll.poll
        self._others: list[int] = []

    def greet(self, hello: bytes, fds: Sequence[int]) -> None:
        """Send HELLO and its descriptors."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused already: why is there to be read
            socket.send_fds(self._sock, [hello], fds)

    def send(self, out: list[bytes]) -> None:
        """Send the rest, or all of *out*, which is empty then: as far as the host takes it; the rest is left."""
        data: bytes | memoryview
        if self.rest:
            data, self.rest = self.rest, b""
        elif len(out) == 1:
            data = out.pop()
        else:
            data = b"".join(out)
            out.clear()
        try:
            done = self._send(data, _NOW)
            if done < len(data):
                self.rest = memoryview(data)[done:]
        except BlockingIOError:
            self.rest = data
        except (BrokenPipeError, ConnectionResetError):  # the host's last word may be there to be read
            out.clear()
        except BaseException:  # a signal handler's, and nobody knows how much went out: the next read tells
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            raise

    def look(self, spin: Spin) -> None:
        """Look for what comes, instead of sleeping until it does, as long as *spin* says so."""
        if spin.came():
            poll = self._poll
            while not poll(0) and spin.again():
                pass

    def heard(self, others: list[int], timeout: int | None = None) -> bool:
        """Wait until there is something to read, or one of *others*, eventfds, is written to; whether there is.

        *timeout* is in milliseconds.
        """
        if others is not self._others:
            poll = select.poll()
            for fd in (self.fileno(), *others):
                poll.register(fd, select.POLLIN)
            self._others, self._either = others, poll.poll
        mine, is_mine = self.fileno(), False
        for fd, _ in self._either(timeout):
            if fd == mine:
                is_mine = True
            else:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(fd)
        return is_mine

    def readable(self, clock: BlockingClock, out: list[bytes], others: Sequence[int] = ()) -> bool:
        """Wait until there is something to read, and the rest and *out* go out meanwhile; no, if *clock* rang first."""
        while True:
            if self.rest or out:
                self.send(out)
            events = wait(clock, self._sock, select.POLLIN | (select.POLLOUT if self.rest else 0), self.spin, others)
            if not events:
                return False
            if events & ~select.POLLOUT:
                return True

    def fileno(self) -> int:
        """Its descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Hang up."""
        self._sock.close()
