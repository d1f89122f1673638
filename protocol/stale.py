"""What a process that was killed left behind: its Unix sockets."""

from __future__ import annotations

import socket
from pathlib import Path


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
