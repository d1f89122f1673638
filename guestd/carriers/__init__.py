"""Ways for the calls of an opened device.  A driver knows none of them: each gives its device another `call`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

from hcall.programs.mistakes import BadRequest
from hcall.text import suggest

from ..bus.device import OpenDevice
from .rings import by_ring

#: Sees to it that the calls of a device, which has just been negotiated with, go its way.
Carry: TypeAlias = Callable[[Any, OpenDevice], Awaitable[None]]


async def by_channel(guest: object, device: OpenDevice) -> None:
    """They go by the socket, as they do anyway."""


#: By name, as `attach(carrier=...)` takes it.
CARRIERS: Final[dict[str, Carry]] = {
    "channel": by_channel,
    "ring": by_ring,
}  # fmt: skip


def named(name: str) -> Carry:
    """The carrier *name*.  Raises BadRequest."""
    if name not in CARRIERS:
        raise BadRequest(f"no carrier {name!r}{suggest(name, CARRIERS) or ': there is ' + ', '.join(CARRIERS)}")
    return CARRIERS[name]
