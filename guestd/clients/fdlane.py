"""The fd lane of a guest: what descriptors go to the host by, each with a number."""

from __future__ import annotations

import itertools
import socket


class FdLane:
    """A pair of sockets; the host gets *theirs* with HELLO."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._numbers = itertools.count(1)

    def send(self, fd: int) -> int:
        """Send *fd*: its number, by which a call names it."""
        number = next(self._numbers)
        socket.send_fds(self.ours, [number.to_bytes(4, "little")], [fd])
        return number

    def filenos(self) -> tuple[int, int]:
        """Both ends."""
        return self.ours.fileno(), self.theirs.fileno()

    def close(self) -> None:
        """Nothing more is sent."""
        self.ours.close()
        self.theirs.close()
