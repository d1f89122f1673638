"""`SCHEME:REST`, the one grammar for what stands behind a device on the host, and what a guest makes of one.

    pty:  cmd:/bin/sh  file:out.log  unix:/run/x.sock  tcp:localhost:9100  nbd:unix:/tmp/disk.sock

docs/endpoints.md lists them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..text import suggest


class Kind(NamedTuple):
    """A sort of endpoint: its scheme, with the colon, and what may follow; a shape in brackets may be missing."""

    scheme: str  # "tcp:"
    shape: str  # "HOST:PORT", "[LINK]", or "" for nothing

    def __str__(self) -> str:
        if self.shape.startswith("["):
            return f"{self.scheme} or {self.scheme}{self.shape[1:-1]}"
        return f"{self.scheme}{self.shape}"


def split(text: str, kinds: Iterable[Kind], noun: str) -> tuple[Kind, str]:
    """(kind, rest) of *text*, which is one of *kinds*.  Raises ValueError that lists them; *noun* says what it is."""
    allowed = sorted(kinds, key=lambda kind: -len(kind.scheme))  # nbd:unix: before unix:
    for kind in allowed:
        if text.startswith(kind.scheme):
            rest = text[len(kind.scheme) :]
            if (rest or kind.shape.startswith("[")) if kind.shape else not rest:
                return kind, rest
            break
    *most, last = map(str, sorted(kinds))
    listed = f"{', '.join(most)} or {last}" if most else last
    schemes = tuple(kind.scheme for kind in kinds)
    near = "" if text.startswith(schemes) else suggest(text.partition(":")[0] + ":", schemes)
    raise ValueError(f"{text!r} is no {noun}{near}: {listed}")


def host_and_port(text: str) -> tuple[str, int]:
    """`HOST:PORT`, an IPv6 address in brackets.  Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 <= int(port) < 1 << 16:
        raise ValueError(f"{text!r} is no HOST:PORT, such as localhost:9100")
    return host.removeprefix("[").removesuffix("]"), int(port)
