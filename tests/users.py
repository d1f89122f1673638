"""Connections of other users: only root can make them, and CI is root."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest

ALICE: Final = 60_001  # nobody's, on any machine
BOB: Final = 60_002
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may be another user")


def connect(
    path: Path, uid: int, gid: int | None = None, groups: Sequence[int] = (), kind: int = socket.SOCK_STREAM
) -> socket.socket:
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
                made = socket.socket(socket.AF_UNIX, kind)
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


def run(uid: int, program: Callable[[], object], arguments: Sequence[str], before: Sequence[str]) -> tuple[int, str]:
    """What *program*, a command's `main`, does as that user, in no group: its exit code, and all that it said.

    A child that only changes its user: the interpreter may lie where others cannot read, so it does what *before* says
    as root, and has imported what it needs by then.
    """
    with tempfile.TemporaryFile("w+") as out, Path(os.devnull).open("r+") as nowhere:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                signal.alarm(60)  # if it hangs
                os.dup2(nowhere.fileno(), 0)
                _main(program, before, nowhere.fileno())
                os.setgroups([])
                os.setgid(uid)
                os.setuid(uid)
                code = _main(program, arguments, out.fileno())
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        out.seek(0)
        return os.waitstatus_to_exitcode(status), out.read()


def _main(program: Callable[[], object], arguments: Sequence[str], out: int) -> int:
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.argv = ["program", *arguments]
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    try:
        program()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
