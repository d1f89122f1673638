"""Rings in guest memory: another way for the calls of a device that a guest has open."""

from __future__ import annotations

from hcall import numbers
from hcall.errors import BadArgument, NotAllowed
from hcall.formats.lanes import ring

from ...model.later import Later
from ..account import Account
from .registry import call


@call(numbers.ADD_RING)
def _add_ring(
    guest: Account, handle: int, size: int, descriptors: int, available: int, used: int, features: int, kick: int,
    tell: int,
) -> int | Later[int]:  # fmt: skip
    hold = guest.hold(handle)
    try:
        ring.check_size(size)
    except ValueError as error:
        raise BadArgument(str(error)) from None
    if features & ~ring.EVENT_IDX:
        raise NotAllowed(f"the only feature of a ring is {ring.EVENT_IDX:#x}")
    if min(descriptors, available, used) < 0:
        raise BadArgument("an address is no negative number")
    return guest.owner.rings.add(hold, size, (descriptors, available, used), features, kick, tell)


@call(numbers.REMOVE_RING)
def _remove_ring(guest: Account, handle: int) -> Later[None]:
    later: Later[None] = Later()
    guest.owner.rings.remove(handle, lambda: later.done(None))
    return later


@call(numbers.KICK)
def _kick(guest: Account, handle: int) -> None:
    guest.owner.rings.find(handle).kick()
