"""The guest: finds the devices of a host and runs drivers that do not know what carries them.

async with guestd.attach(socket) as guest: await guest["rng"].getrandom(16)
with guestd.attach_blocking(socket) as guest: guest["rng"].getrandom(16)
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clients.asynchronous import AsyncGuest, attach
    from .clients.blocking import BlockingGuest, attach_blocking

__all__ = ["AsyncGuest", "BlockingGuest", "attach", "attach_blocking"]
_HOMES = {
    "AsyncGuest": "clients.asynchronous", "BlockingGuest": "clients.blocking", "attach": "clients.asynchronous",
    "attach_blocking": "clients.blocking",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """A command shows its help without importing both clients: 60 ms."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
