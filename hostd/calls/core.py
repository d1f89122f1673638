"""The calls of class 0, the core: the tree, open handles, negotiation, interrupts, memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

from hcall import numbers
from hcall.errors import BadArgument, HcallError, NoMatch

from ..model.later import Later
from ..tree.tree import Change
from .account import Account
from .memory import Lent

#: By number: the function, called with the guest's account and the body's handle, and the types of its arguments.
CORE: Final[dict[int, tuple[Callable[..., Any], tuple[type, ...]]]] = {}
F = TypeVar("F", bound=Callable[..., Any])
OpenReply: TypeAlias = tuple[int, dict[str, int], dict[str, int], dict[str, int]]


def _call(number: int) -> Callable[[F], F]:
    def register(function: F) -> F:
        _, _, *kinds = (kind for name, kind in function.__annotations__.items() if name != "return")
        CORE[number] = function, tuple({"int": int, "str": str}[kind] for kind in kinds)
        return function

    return register


@_call(numbers.NOP)
def _nop(guest: Account, handle: int) -> None:
    return None


@_call(numbers.FIRST)
def _first(guest: Account, handle: int) -> int:
    return guest.tree.root.handle


@_call(numbers.CHILD)
def _child(guest: Account, handle: int) -> int:
    child = guest.first_child(guest.node(handle))
    return child.handle if child else 0


@_call(numbers.NEXT)
def _next(guest: Account, handle: int) -> int:
    following = guest.next(guest.node(handle))
    return following.handle if following else 0


@_call(numbers.PARENT)
def _parent(guest: Account, handle: int) -> int:
    parent = guest.node(handle).parent
    return parent.handle if parent else 0


@_call(numbers.FIND)
def _find(guest: Account, handle: int, path: str) -> int:
    return guest.find(path).handle


@_call(numbers.INFO)
def _info(guest: Account, handle: int) -> tuple[str, tuple[str, ...], tuple[int, int]]:
    node = guest.node(handle)
    return node.name, node.compatible, node.ids


@_call(numbers.GETPROP)
def _getprop(guest: Account, handle: int, name: str) -> object:
    node = guest.node(handle)
    try:
        return node.properties()[name]
    except KeyError:
        raise NoMatch(f"{node.path} has no property {name!r}") from None


@_call(numbers.NEXTPROP)
def _nextprop(guest: Account, handle: int, name: str) -> str:
    node = guest.node(handle)
    names = ["", *node.properties(), ""]
    if name not in names:
        raise NoMatch(f"{node.path} has no property {name!r}")
    return names[names.index(name) + 1]


@_call(numbers.CHANGES)
def _changes(guest: Account, handle: int, since: int) -> tuple[int, tuple[Change, ...] | None]:
    return guest.changes(since)


@_call(numbers.OPEN)
def _open(guest: Account, handle: int, cookie: int) -> OpenReply:
    node = guest.node(handle)
    hold = guest.open(node, cookie)
    device = hold.plugged.device
    vectors = {name: vector for vector, name in enumerate(device.declares.irqs)}
    return hold.handle, hold.plugged.calls, vectors, device.declares.features


@_call(numbers.CLOSE)
def _close(guest: Account, handle: int) -> int | Later[int]:
    return guest.hold(handle).close()


@_call(numbers.GET_STATUS)
def _get_status(guest: Account, handle: int) -> int:
    return guest.hold(handle).negotiation.status


@_call(numbers.SET_STATUS)
def _set_status(guest: Account, handle: int, status: int) -> int | Later[int]:
    return guest.hold(handle).write_status(status)


@_call(numbers.GET_FEATURES)
def _get_features(guest: Account, handle: int) -> int:
    hold = guest.holds.get(handle)
    return guest.offered(handle) if hold is None else hold.negotiation.offered


@_call(numbers.SET_FEATURES)
def _set_features(guest: Account, handle: int, features: int) -> None:
    guest.hold(handle).negotiation.accept(features)


@_call(numbers.SET_MASK)
def _set_mask(guest: Account, handle: int, vectors: int) -> int:
    hold = guest.hold(handle)
    if not 0 <= vectors < 1 << numbers.MAX_VECTORS:
        raise BadArgument(f"a mask has {numbers.MAX_VECTORS} bits")
    return hold.vectors.set_mask(vectors)


@_call(numbers.POLL)
def _poll(guest: Account, handle: int, after: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    chosen = sorted(handle for handle in guest.holds if handle > after)[: numbers.POLL_LIMIT]
    return tuple((handle, guest.holds[handle].counts) for handle in chosen)


def _add(guest: Account, fd_id: int, address: int, size: int, offset: int | None = None) -> Later[None]:
    later: Later[None] = Later()

    def lent(lent: Lent | BadArgument) -> None:
        try:
            if isinstance(lent, BadArgument):
                raise lent
            guest.memory.add(address, size, lent)
        except HcallError as error:
            later.fail(error)
        else:
            later.done(None)

    guest.owner.lend(fd_id, address, size, offset, lent)
    return later


@_call(numbers.ADD_MEMORY)
def _add_memory(guest: Account, handle: int, address: int, size: int, fd_id: int) -> Later[None]:
    return _add(guest, fd_id, address, size)


@_call(numbers.ADD_PART)
def _add_part(guest: Account, handle: int, address: int, size: int, offset: int, fd_id: int) -> Later[None]:
    return _add(guest, fd_id, address, size, offset)


@_call(numbers.REMOVE_MEMORY)
def _remove_memory(guest: Account, handle: int, address: int) -> None:
    guest.memory.remove(address)


@_call(numbers.DETACH)
def _detach(guest: Account, handle: int) -> Later[None]:
    later: Later[None] = Later()
    guest.owner.detach(lambda: later.done(None))
    return later
