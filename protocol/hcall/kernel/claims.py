"""What is at a path: somebody's, or left behind by a process that was killed."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path


def claim(path: Path) -> socket.socket:
    """Until it is closed nobody else can claim *path*.  Raises OSError, with *path*.

    It is an abstract Unix name, which is free again when its process is killed; what is at the path stays.
    """
    claimed = socket.socket(socket.AF_UNIX)
    try:
        claimed.bind(f"\0hostd claim {hashlib.sha256(os.fsencode(path.absolute())).hexdigest()}")
    except OSError as error:
        claimed.close()
        raise OSError(error.errno, error.strerror, str(path)) from None
    return claimed


def link_terminal(link: Path, name: str) -> None:
    """Make *link*, which is claimed, lead to the terminal *name*.  Raises OSError, with *link*.

    One that led to another terminal is replaced; anything else stays.
    """
    try:
        if link.is_symlink() and str(link.readlink()).startswith("/dev/pts/"):
            link.unlink()
        link.symlink_to(name)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(link)) from None


def unlink_terminal(link: Path, name: str) -> None:
    """Remove *link* if it still leads to the terminal *name*."""
    if link.is_symlink() and str(link.readlink()) == name:
        link.unlink()


def remove_stale(path: Path) -> None:
    """Remove the Unix socket at *path* if nobody has it any more.  Raises OSError.

    What is somebody's, or is no socket, is left for `bind` to complain about.
    """
    if path.is_symlink() or not path.is_socket():
        return
    # A stream that listens has the wrong type for it, and is not disturbed; a socket that nobody has refuses.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError:
            pass
