"""What a guest may be told at the start, whichever client it has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

from ..driver import Driver


class Options(TypedDict, total=False):
    """What a guest may be told at the start."""

    name: str | None  # for people: shows in the host's status
    memory: int  # bytes that it lends the host at once
    drivers: Iterable[type[Driver]]  # instead of all that are installed
    prober: str  # how it finds devices: one of `guestd.probers.PROBERS`, "tree" if none is named
    carrier: str  # how calls of devices travel: one of `guestd.carriers.CARRIERS`, "channel" if none is named
    patience: float  # seconds that it tries to reach a host that does not answer
    token: bytes  # TOKEN_BYTES that the host knows it by, and nobody else does; else chance decides
    spin: bool  # it looks again for up to 100 us before it sleeps, where that pays: see `hcall.spin`
