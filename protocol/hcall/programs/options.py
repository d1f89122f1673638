"""Command-line options that both programs have.  Apart from command.py, so that a library never imports cyclopts."""

from __future__ import annotations

import os
from typing import Annotated

from cyclopts import Parameter


def _check_writable(_: object, fd: int | None) -> None:
    """Whether *fd* can be written, before anything is begun."""
    try:
        if fd is not None:
            os.write(fd, b"")
    except (OSError, OverflowError):
        raise ValueError(f"{fd} is no descriptor that can be written") from None


Socket = Annotated[
    str | None,
    Parameter(
        metavar="PATH",
        help="a socket of the host, or their directory; else $HOSTD_SOCKET, else the runtime directory",
    ),
]
Json = Annotated[bool, Parameter(name="--json", help="print JSON")]
ReadyFd = Annotated[int | None, Parameter(metavar="FD", validator=_check_writable)]
