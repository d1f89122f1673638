"""How long a guest tries to reach its host, and to leave it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

WELCOME_SECONDS: Final = 5.0
DETACH_SECONDS: Final = 5.0  # for the host to take leave, before a guest goes without it
_LONGEST_PAUSE: Final = 0.05  # seconds
PATIENCE_SECONDS: Final = 2.0  # for a host that does not answer before the session is given up


def pauses() -> Iterator[float]:
    """Seconds from one attempt to reach the host to the next: it may be there again at once, or take its time."""
    seconds = 0.001
    while True:
        yield seconds
        seconds = min(2 * seconds, _LONGEST_PAUSE)


def datagrams(path: Path) -> socket.socket:
    """A connection to the socket at *path* where a datagram is a message; nothing of it waits.  Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(str(path))
    except OSError as error:
        sock.close()
        hint = f"; a machine has it by [host] {path.stem} = true" if error.errno == errno.ENOENT else ""
        raise OSError(error.errno, f"{error.strerror}{hint}", str(path)) from None
    sock.setblocking(False)
    return sock


def hung_up(path: Path) -> NoReturn:
    """Nothing comes from *path* any more.  Raises OSError."""
    raise OSError(errno.ECONNRESET, "the host hung up, and its log says why", str(path))


def silent(path: Path) -> TimeoutError:
    """What to raise when the host at *path* does not say WELCOME."""
    return TimeoutError(errno.ETIMEDOUT, f"the host at {path} did not answer within {WELCOME_SECONDS:.0f} s")
