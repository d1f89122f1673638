"""Command-line options that both programs have.  Apart from command.py, so that a library never imports cyclopts."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

Socket = Annotated[
    str | None,
    Parameter(
        metavar="PATH",
        help="a socket of the host, or their directory; else $HOSTD_SOCKET, else the runtime directory",
    ),
]
Json = Annotated[bool, Parameter(name="--json", help="print JSON")]
