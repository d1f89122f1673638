"""Receiving descriptors, all of them accounted for.

`socket.recv_fds` will not do: it drops its flags (CPython 3.11 to 3.13), so it blocks where it must not, and gives
descriptors that every command started here would inherit.

Whatever is not received is closed by the kernel, in the thread that reads past it or closes the socket; and whoever
closes somebody else's descriptor may wait for them.
"""

from __future__ import annotations

import array
import socket
from typing import Final

_MOST: Final = 253  # descriptors with one message: linux/include/net/scm.h, SCM_MAX_FD
_INT: Final = array.array("i").itemsize
_PASSRIGHTS: Final = 83  # Linux 6.16, asm-generic/socket.h
_PIDFD: Final = 4  # SCM_PIDFD: comes if whoever has the socket, too, sets SO_PASSPIDFD
# What may come besides, in front of them: credentials, a pidfd, a security label of 255 bytes.
_ROOM: Final = (
    socket.CMSG_SPACE(_MOST * _INT) + socket.CMSG_SPACE(12) + socket.CMSG_SPACE(_INT) + socket.CMSG_SPACE(256)
)


def receive(sock: socket.socket, size: int) -> tuple[bytes, list[int], bool]:
    """(data, descriptors, whether some were lost), without waiting.  The descriptors are the caller's to close.

    They are lost only where the process may have no more.  Raises BlockingIOError if there is nothing.
    """
    data, ancillary, flags, _ = sock.recvmsg(size, _ROOM, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind in (socket.SCM_RIGHTS, _PIDFD):
            fds.frombytes(payload[: len(payload) - len(payload) % _INT])
    return data, list(fds), bool(flags & socket.MSG_CTRUNC)


def peek(sock: socket.socket, size: int) -> tuple[bytes, bool]:
    """(what comes next, whether descriptors come with it); both stay there.  Raises BlockingIOError if nothing does."""
    data, _, flags, _ = sock.recvmsg(size, 0, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    return data, bool(flags & socket.MSG_CTRUNC)


def inline(sock: socket.socket) -> None:
    """Read urgent data of the stream socket *sock* like all others: else the kernel drops what comes with them."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def refuse(sock: socket.socket) -> bool:
    """Take no more descriptors by *sock*: whoever sends one gets EPERM.  False: this kernel cannot.

    What was sent before is still there.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _PASSRIGHTS, 0)
    except OSError:
        return False
    return True
