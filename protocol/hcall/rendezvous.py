"""Where host and guest find each other: the runtime directory and its two sockets."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

GUEST_SOCKET: Final = "guest.sock"
CONTROL_SOCKET: Final = "control.sock"
MSG_SOCKET: Final = "msg.sock"  # of the bus of virtio-msg, if there is one
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
    if path.name in (GUEST_SOCKET, CONTROL_SOCKET, MSG_SOCKET):
        return path.with_name(socket)
    is_socket = path.is_socket() or (path.suffix == ".sock" and not path.is_dir())
    return path if is_socket else path / socket


def check_private(directory: Path, serving: bool = False) -> None:
    """Raises PermissionError if others may put something of theirs into *directory*, or in its place.

    By modes and owners, whatever it is called: it is not writable for everybody.  One in reach of everybody, as in
    /tmp, is this user's alone; one for *serving* is this user's or root's, and nobody else writes to it.
    """
    try:
        info = directory.lstat()
    except FileNotFoundError:
        return
    is_link = stat.S_ISLNK(info.st_mode)
    there = directory.parent.resolve() / directory.name if is_link else directory.resolve()
    above = {each: each.stat().st_mode for each in there.parents}
    for each, mode in above.items():
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise PermissionError(f"{directory} is not yours alone: everybody may write to {each}")
    in_reach = above.get(there.parent, 0) & stat.S_IWOTH
    if is_link and not in_reach:
        info = directory.stat()
    owners = {os.getuid()} if in_reach else {os.getuid(), 0} if serving else {os.getuid(), 0, info.st_uid}
    closed = 0o077 if in_reach else 0o022 if serving else 0o002
    if info.st_uid not in owners or info.st_mode & closed:
        mine = info.st_uid == os.getuid() and not is_link
        mend = f"chmod go-{'rwx' if in_reach else 'w'} it, or " if mine else ""
        raise PermissionError(f"{directory} is not yours alone; {mend}name another directory")
