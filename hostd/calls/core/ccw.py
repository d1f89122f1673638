"""The tree as a channel subsystem (`tree.faces.ccw`): which subchannels there are, and programs for their devices."""

from __future__ import annotations

from hcall import numbers
from hcall.errors import BadArgument
from hcall.formats import ccw

from ...tree.node import Node
from ..account import Account
from .registry import call


@call(numbers.STSCH)
def _store(guest: Account, handle: int, word: int) -> tuple[int, bytes]:
    place, node = _at(guest, word)
    if not guest.tree.ccw.exists(*place):
        return ccw.NOT_OPERATIONAL, b""
    if node is None:
        return ccw.DONE, ccw.Subchannel().encode()
    return ccw.DONE, ccw.Subchannel(place[1], *guest.channels.known(word, node)).encode()


@call(numbers.SSCH)
def _start(guest: Account, handle: int, word: int, parameter: int, program: int) -> int:
    _, node = _at(guest, word)
    if parameter >> 32 or program >> 32:
        raise BadArgument("a parameter and the address of a program are 32 bits, unsigned")
    if node is None:
        return ccw.NOT_OPERATIONAL
    begun = guest.channels.start(word, node, _identity(node), parameter, program)
    if isinstance(begun, int):
        return begun
    guest.attend()
    guest.owner.go_on(begun)
    return ccw.DONE


@call(numbers.TSCH)
def _test(guest: Account, handle: int, word: int) -> tuple[int, bytes]:
    _, node = _at(guest, word)
    if node is None:
        return ccw.NOT_OPERATIONAL, b""
    status = guest.channels.test(word, node)
    if status is None:
        return ccw.NOT_PENDING, ccw.Status().encode()
    return ccw.DONE, status.encode()


def _at(guest: Account, word: int) -> tuple[tuple[int, int], Node | None]:
    """Which subchannel that is, and what the guest finds there.  Raises BadArgument."""
    try:
        place = ccw.place(word)
    except ValueError as error:
        raise BadArgument(str(error)) from None
    node = guest.tree.ccw.at(*place)
    return place, node if node is not None and guest.sees(node) else None


def _identity(node: Node) -> bytes:
    """What SENSE ID answers: the control unit is the vendor's."""
    vendor, device = node.bus_ids
    return ccw.Identity((vendor, 0), (device, 0), ccw.words(node.handle)).encode()
