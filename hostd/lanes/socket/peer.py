"""Who is at the other end of a Unix socket, as the kernel noted it when that end connected."""

from __future__ import annotations

import array
import errno
import functools
import socket
import struct
from typing import Final, NamedTuple

_PEERCRED: Final = struct.Struct("3i")  # pid, uid, gid
_PEERGROUPS: Final = 59  # SO_PEERGROUPS
_FEW: Final = 1024  # bytes, the most that Python asks for: 256 groups
_MOST: Final = 65536  # NGROUPS_MAX


class Peer(NamedTuple):
    """A user, with all the groups that they are in."""

    uid: int
    groups: tuple[int, ...]


def peer(sock: socket.socket) -> Peer:
    """The other end of *sock*."""
    _, uid, gid = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    others = array.array("I")
    try:
        others.frombytes(sock.getsockopt(socket.SOL_SOCKET, _PEERGROUPS, _FEW))
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        others = _many(sock)
    return _known(uid, tuple(dict.fromkeys((gid, *others))))


@functools.lru_cache(64)
def _known(uid: int, groups: tuple[int, ...]) -> Peer:
    """One for all guests of a user."""
    return Peer(uid, groups)


def _many(sock: socket.socket) -> array.array[int]:
    """The groups of somebody who is in more of them than Python makes room for."""
    import ctypes

    found, size = (ctypes.c_uint32 * _MOST)(), ctypes.c_uint32(4 * _MOST)
    if ctypes.CDLL(None).getsockopt(sock.fileno(), socket.SOL_SOCKET, _PEERGROUPS, found, ctypes.byref(size)):
        raise OSError(errno.ERANGE, "the groups of a peer cannot be told")
    return array.array("I", found[: size.value // 4])
