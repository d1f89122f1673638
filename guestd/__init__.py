"""The guest: finds the devices of a host and runs drivers that do not know what carries them.

async with guestd.attach(socket) as guest: await guest["rng"].getrandom(16)
with guestd.attach_blocking(socket) as guest: guest["rng"].getrandom(16)
"""

from .blocking import BlockingGuest, attach_blocking
from .client import AsyncGuest, attach

__all__ = ["AsyncGuest", "BlockingGuest", "attach", "attach_blocking"]
