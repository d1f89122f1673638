"""Receiving descriptors, all of them accounted for.

`socket.recv_fds` will not do: it drops its flags (CPython 3.11 to 3.13), so it blocks where it must not, and gives
descriptors that every command started here would inherit.
"""

from __future__ import annotations

import array
import socket
from typing import Final

_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_INT: Final = array.array("i").itemsize


def receive(sock: socket.socket, size: int, most: int) -> tuple[bytes, list[int], bool]:
    """(data, descriptors, whether some did not fit), without waiting.  The descriptors are the caller's to close.

    The kernel installs those that fit, *most* of them, even when it says that the rest was cut off.  Raises
    BlockingIOError if there is nothing.
    """
    data, ancillary, flags, _ = sock.recvmsg(size, socket.CMSG_LEN(most * _INT), _FLAGS)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % _INT])
    return data, list(fds), bool(flags & socket.MSG_CTRUNC)
