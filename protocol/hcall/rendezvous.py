"""Where host and guest find each other: the runtime directory and its two sockets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

GUEST_SOCKET: Final = "guest.sock"
CONTROL_SOCKET: Final = "control.sock"
VARIABLE: Final = "HOSTD_SOCKET"


def runtime_dir(environ: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """The directory of the sockets if nobody names another: systemd's, the system's, the user's, a private one."""
    uid = os.getuid() if uid is None else uid
    if environ.get("RUNTIME_DIRECTORY"):
        return Path(environ["RUNTIME_DIRECTORY"].split(":")[0])
    if uid == 0:
        return Path("/run/hostd")
    if environ.get("XDG_RUNTIME_DIR"):
        return Path(environ["XDG_RUNTIME_DIR"], "hostd")
    return Path(f"/tmp/hostd-{uid}")


def find(named: str | None, socket: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The path of *socket*, GUEST_SOCKET or CONTROL_SOCKET, as every command finds it.

    *named* is what the user gave with `--socket`, else $HOSTD_SOCKET is used, else the runtime directory.  Either may
    name a socket, or the directory of both.
    """
    given = named or environ.get(VARIABLE)
    if not given:
        directory = runtime_dir(environ)
        check_private(directory)
        return directory / socket
    path = Path(given)
    if path.name in (GUEST_SOCKET, CONTROL_SOCKET):
        return path.with_name(socket)
    is_socket = path.is_socket() or (path.suffix == ".sock" and not path.is_dir())
    return path if is_socket else path / socket


def check_private(directory: Path) -> None:
    """Raises PermissionError if *directory* is in reach of everybody (/tmp) and is not this user's own."""
    try:
        info = directory.lstat()
    except FileNotFoundError:
        return
    if directory.parent == Path("/tmp") and (info.st_uid != os.getuid() or info.st_mode & 0o077):
        mend = "chmod 700 it, or " if info.st_uid == os.getuid() else ""
        raise PermissionError(f"{directory} is not yours alone; {mend}name another directory")
