"""What a guest does with devices: open, negotiate, mask, poll, close; and nothing at all, NOP."""

from __future__ import annotations

from typing import TypeAlias

from hcall import numbers
from hcall.errors import BadArgument

from ...model.later import Later
from ..account import Account
from ..hold import Hold
from .registry import call

OpenReply: TypeAlias = tuple[int, dict[str, int], dict[str, int], dict[str, int]]


def opened(hold: Hold) -> OpenReply:
    """What its guest is told of a hold that is new."""
    device = hold.plugged.device
    vectors = {name: vector for vector, name in enumerate(device.declares.irqs)}
    return hold.handle, hold.plugged.calls, vectors, device.declares.features


@call(numbers.NOP)
def _nop(guest: Account, handle: int) -> None:
    return None


@call(numbers.OPEN)
def _open(guest: Account, handle: int, cookie: int) -> OpenReply:
    return opened(guest.open(guest.node(handle), cookie))


@call(numbers.CLOSE)
def _close(guest: Account, handle: int) -> int | Later[int]:
    return guest.hold(handle).close()


@call(numbers.GET_STATUS)
def _get_status(guest: Account, handle: int) -> int:
    return guest.hold(handle).negotiation.status


@call(numbers.SET_STATUS)
def _set_status(guest: Account, handle: int, status: int) -> int | Later[int]:
    return guest.hold(handle).write_status(status)


@call(numbers.GET_FEATURES)
def _get_features(guest: Account, handle: int) -> int:
    hold = guest.holds.get(handle)
    return guest.offered(handle) if hold is None else hold.negotiation.offered


@call(numbers.SET_FEATURES)
def _set_features(guest: Account, handle: int, features: int) -> None:
    guest.hold(handle).negotiation.accept(features)


@call(numbers.SET_MASK)
def _set_mask(guest: Account, handle: int, vectors: int) -> int:
    hold = guest.hold(handle)
    if not 0 <= vectors < 1 << numbers.MAX_VECTORS:
        raise BadArgument(f"a mask has {numbers.MAX_VECTORS} bits")
    return hold.vectors.set_mask(vectors)


@call(numbers.POLL)
def _poll(guest: Account, handle: int, after: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    chosen = sorted(handle for handle in guest.holds if handle > after)[: numbers.POLL_LIMIT]
    return tuple((handle, guest.holds[handle].counts) for handle in chosen)
