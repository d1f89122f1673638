"""What can be wrong with the class of a driver, found when the class is made.

What the classes below it take is theirs: an author who uses one of these names by chance would be told by a traceback
from somewhere else.  A method of theirs may be overridden by one that takes what it takes; the state of `Driver` and
`StreamDriver` has names with two underscores, which nobody meets.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any, Final, get_origin

from hcall.programs.members import attributes

from .ops import Op
from .signals import Signal

_HOOKS: Final = ("probe", "remove", "attend")
_GIVEN: Final = ("dev", "clock")  # by the bus, before `probe`
_STRINGS: Final = {
    "compatible": ': ("vendor,name",)', "wants": ' of names of features: ("FLUSH",)',
    "properties": ' of names of properties: ("capacity",)',
}  # fmt: skip
_OURS: Final = __name__.partition(".")[0]


def mistakes(cls: Any, base: type) -> Iterator[tuple[str, str]]:
    """What is wrong with *cls*, a class of drivers below *base*: (member, sentence)."""
    name = cls.__name__
    for attribute, sort in _STRINGS.items():
        strings: object = getattr(cls, attribute)
        if not isinstance(strings, tuple) or not all(isinstance(each, str) for each in strings):
            yield attribute, f"{name}.{attribute} is a tuple{sort}"
    ids: Any = cls.ids
    if not isinstance(ids, tuple) or not all(map(_is_id, ids)):
        yield "ids", f"{name}.ids is a tuple of pairs of 16 bits each: ((vendor, device),)"
    own = _own(cls, base)
    for each, member in list(own.items()):
        if (get_origin(member) or member) in (Op, Signal):
            yield each, f"{name}.{each}: the () behind it is missing"
            del own[each]
        elif isinstance(member, Op) and (wrong := member.mistake()) is not None:
            yield each, f"{name}.{each}: {wrong}"
    taken = _taken(cls, base)
    stored = attributes(own.values(), taken)
    for each in sorted(taken.keys() & (own.keys() | stored)):
        taking = _wrong(each, own.get(each), vars(taken[each]).get(each), each in stored)
        if taking is not None:
            yield each, f"{name}.{each}: the name is {taken[each].__name__}'s own{taking}"


def _is_id(pair: object) -> bool:
    return isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(n, int) and 0 <= n < 1 << 16 for n in pair)


def _own(cls: type, base: type) -> dict[str, object]:
    """The members of *cls*, and of those that it is made of and that are no drivers."""
    mixed = [each for each in cls.__mro__[1:-1] if not issubclass(each, base)]
    return {name: member for each in (*reversed(mixed), cls) for name, member in vars(each).items()}


def _taken(cls: type, base: type) -> dict[str, type]:
    """The names that the classes below *cls* take, those of ours, each with its class."""
    below = [each for each in reversed(cls.__mro__[1:-1]) if _is_ours(each)]
    taken = {name: each for each in below for name, member in vars(each).items() if _is_public(name, member)}
    if not _is_ours(cls):
        taken |= {name: each for each in below for name in _private(each)}
    return taken | dict.fromkeys(_GIVEN, base)


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == _OURS


def _is_public(name: str, member: object) -> bool:
    is_named = not name.startswith("_") or name == "__init__"
    return is_named and (inspect.isfunction(member) or isinstance(member, Op | Signal))


@functools.cache
def _private(cls: type) -> set[str]:
    """The names that *cls* has for itself alone."""
    names = vars(cls).keys() | attributes(vars(cls).values())
    return {name for name in names if name.startswith("_") and not name.endswith("__")}


def _wrong(name: str, mine: object, theirs: object, is_stored: bool) -> str | None:
    """Why *name* cannot be *mine*, or be set, where it is *theirs*; None: it can.  Either is None if there is none."""
    if isinstance(theirs, Op | Signal):
        if not is_stored and type(mine) is type(theirs):
            return None
        return f", {'an Op' if isinstance(theirs, Op) else 'a Signal'}"
    if (name.startswith("_") and name != "__init__") or not inspect.isfunction(theirs):
        return ""
    if not is_stored and _fits(mine, theirs, name in _HOOKS):
        return None
    _, *rest = inspect.signature(theirs).parameters.values()
    said = ", ".join(each.name if each.default is each.empty else f"{each.name}={each.default!r}" for each in rest)
    return f", {'an async def' if name in _HOOKS else 'a method'} that takes ({said})"


def _fits(member: object, theirs: Any, waits: bool) -> bool:
    """Whether *member* can be called as *theirs* is; it has to be a coroutine function if it *waits*."""
    if not inspect.isfunction(member) or (waits and not inspect.iscoroutinefunction(inspect.unwrap(member))):
        return False
    most = theirs.__code__.co_argcount
    signature = inspect.signature(member)
    try:
        for count in range(most - len(theirs.__defaults__ or ()), most + 1):
            signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
