"""Names that a base class of models has for itself: who takes one by accident is told when the class is made.

A base says which of its names it leaves to authors: `class Stream(Device, leaves=("written", "drained"))`.  All others
that it has, or sets, are its own.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from hcall.programs.members import attributes

from .declared import Declared

HOOKS: Final = ("check_keys", "check_isolated", "start", "ready", "reset", "stop", "tick", "save")
LEFT: Final = ("compatible", "ids", "class_code", "shared", *HOOKS, "load")  # by Device, and whatever stands on it
_SETTABLE: Final = ("offered",)  # its own, and a model says there what it has
_OWN: Final = "__own_names__"


def keep(base: type, members: Mapping[str, object], leaves: Iterable[str] = ()) -> None:
    """From now on *base* has the names of its *members* for itself, but for those that it *leaves*, or Device does."""
    names = {*members, *vars(base).get("__annotations__", ()), *attributes(members.values())}
    own = {name for name in names if not (name.startswith("__") and name.endswith("__"))}
    setattr(base, _OWN, frozenset(own.difference(leaves, LEFT)))


def own_names(base: type) -> frozenset[str]:
    """What *base*, and no base of it, has for itself."""
    own: frozenset[str] = vars(base).get(_OWN, frozenset())
    return own


def taken(cls: type, members: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Names of base classes that *cls*, whose own *members* are these, takes: (name, the base)."""
    owners: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        if each is not cls and (own := own_names(each)):
            owners.update(dict.fromkeys(own, each.__name__))
        elif each is cls:
            yield from _taken(cls, members, owners)
        elif not any(map(own_names, each.__mro__)):  # mixed in; other classes were looked at when they were made
            yield from _taken(cls, vars(each), owners)


def _taken(cls: type, members: Mapping[str, object], owners: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    values = {
        name for name, owner in owners.items()
        if isinstance(inspect.getattr_static(cls, name, None), Declared) and not name.startswith(f"_{owner}__")
    }  # fmt: skip
    stored = attributes(members.values(), owners).difference(members, values, _SETTABLE)
    for name in [*(name for name in members if name in owners), *sorted(stored)]:
        yield name, owners[name]
