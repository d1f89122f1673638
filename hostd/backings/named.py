"""The text that names a backing: `pty:`, `cmd:/bin/sh`, `unix:console.sock`; docs/endpoints.md says what each is."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hcall.programs.endpoint import Kind, split
from hostd.backing import Backing

from .files import LogFile
from .sockets import TcpConnection, TcpListener, UnixConnection, UnixListener
from .terminal import Command, Pty

_SORTS: Final[dict[Kind, type[Backing]]] = {
    Kind("pty:", "[LINK]"): Pty,
    Kind("cmd:", "COMMAND"): Command,
    Kind("file:", "PATH"): LogFile,
    Kind("unix:", "PATH"): UnixListener,
    Kind("tcp:", "HOST:PORT"): TcpListener,
    Kind("connect:unix:", "PATH"): UnixConnection,
    Kind("connect:tcp:", "HOST:PORT"): TcpConnection,
}


class AnyBacking(Backing):
    """The kind of a key that names a backing."""

    @classmethod
    def parse(cls, text: str, folder: Path) -> Backing:
        """The backing that *text* names; paths are relative to *folder*.  Raises ValueError with what is allowed."""
        kind, rest = split(text, _SORTS, "backing")
        return _SORTS[kind](rest, folder)
