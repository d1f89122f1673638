"""Connections of other users: only root can make them, and CI is root."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

ALICE: Final = 60_001  # nobody's, on any machine
BOB: Final = 60_002
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be another user")


def connect(path: Path, uid: int, gid: int | None = None, groups: Sequence[int] = ()) -> socket.socket:
    """A connection to the socket at *path* that a process of that user has made, as far as modes let it.

    The way there is root's: a test's folder is closed to others.  Raises OSError.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = os.fork()
        if child == 0:
            outcome, fds = b"\x01", []
            try:
                os.chdir(path.parent)
                os.setgroups(groups)
                os.setgid(uid if gid is None else gid)
                os.setuid(uid)
                made = socket.socket(socket.AF_UNIX)
                made.connect(path.name)
                outcome, fds = b"\x00", [made.fileno()]
            except OSError as error:
                outcome = bytes([error.errno or 1])
            finally:
                socket.send_fds(theirs, [outcome], fds)
                os._exit(0)
        outcome, fds, _, _ = socket.recv_fds(ours, 1, 1)
        os.waitpid(child, 0)
    if outcome != b"\x00":
        raise OSError(outcome[0], os.strerror(outcome[0]))
    return socket.socket(fileno=fds[0])
