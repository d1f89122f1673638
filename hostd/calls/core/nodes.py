"""The device tree, as open firmware walks it: first, child, next; and what changes."""

from __future__ import annotations

from hcall import numbers
from hcall.errors import NoMatch

from ...tree.tree import Change
from ..account import Account
from .registry import call


@call(numbers.FIRST)
def _first(guest: Account, handle: int) -> int:
    return guest.tree.root.handle


@call(numbers.CHILD)
def _child(guest: Account, handle: int) -> int:
    child = guest.first_child(guest.node(handle))
    return child.handle if child else 0


@call(numbers.NEXT)
def _next(guest: Account, handle: int) -> int:
    following = guest.next(guest.node(handle))
    return following.handle if following else 0


@call(numbers.PARENT)
def _parent(guest: Account, handle: int) -> int:
    parent = guest.node(handle).parent
    return parent.handle if parent else 0


@call(numbers.FIND)
def _find(guest: Account, handle: int, path: str) -> int:
    return guest.find(path).handle


@call(numbers.INFO)
def _info(guest: Account, handle: int) -> tuple[str, tuple[str, ...], tuple[int, int]]:
    node = guest.node(handle)
    return node.name, node.compatible, node.ids


@call(numbers.GETPROP)
def _getprop(guest: Account, handle: int, name: str) -> object:
    node = guest.node(handle)
    try:
        return node.properties()[name]
    except KeyError:
        raise NoMatch(f"{node.path} has no property {name!r}") from None


@call(numbers.NEXTPROP)
def _nextprop(guest: Account, handle: int, name: str) -> str:
    node = guest.node(handle)
    names = ["", *node.properties(), ""]
    if name not in names:
        raise NoMatch(f"{node.path} has no property {name!r}")
    return names[names.index(name) + 1]


@call(numbers.CHANGES)
def _changes(guest: Account, handle: int, since: int) -> tuple[int, tuple[Change, ...] | None]:
    return guest.changes(since)
