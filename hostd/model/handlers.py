"""What a model offers: its verbs and calls, read from their signatures once, when the class is made.

Annotations are the wire's types: dispatch checks arguments and the answer against them.
"""

from __future__ import annotations

import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from hcall.numbers import FIRST_CALL, VERBS
from hostd.model.areas import Data, Room

from .declared import Offer
from .later import Later

_SCALARS: Final = (int, bool, str, bytes, float)
_WORDS: Final = (int, bool, str, float)  # what somebody types
_AREAS: Final[tuple[tuple[type, ...], ...]] = ((), (Room,), (Data,), (Room, Data))
_ARGUMENTS: Final = "a Room and a Data first, if any, then int, bool, str, bytes or float"
_NO_HANDLER: Final = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
_VERBS: Final = {
    "read": ((Room, int), int), "write": ((Data, int), int), "sync": ((), type(None)), "map": ((int, int, int), Any),
}  # fmt: skip


_WRAPPED: Final[dict[type, str]] = {
    staticmethod: "__func__", classmethod: "__func__", property: "fget", functools.cached_property: "func",
    functools.partialmethod: "func",
}  # fmt: skip


class Handler(NamedTuple):
    """A verb or call as dispatch needs it."""

    name: str
    number: int
    areas: tuple[type, ...]
    kinds: tuple[type, ...]  # of the other arguments
    needs: int  # feature bits
    early: bool
    answer: Any  # what it returns, now or later: a type, or Any
    arguments: tuple[str, ...]  # their names, areas first
    again: bool = False  # it may be made again when its answer was lost
    defaults: tuple[Any, ...] = ()  # of an action's last arguments
    waits: bool = False  # its answer may come at any time, and until then it has changed nothing

    @property
    def signature(self) -> str:
        """As people read it: `count(times: int) -> int`."""
        kinds = (*self.areas, *self.kinds)
        said = [f"{name}: {kind.__name__}" for name, kind in zip(self.arguments, kinds, strict=True)]
        for n, default in enumerate(self.defaults, len(said) - len(self.defaults)):
            said[n] += f" = {default!r}"
        return f"{self.name}({', '.join(said)}) -> {type_name(self.answer)}"


def type_name(kind: Any) -> str:
    """A type as it is written in a source."""
    if kind in (types.NoneType, ...):
        return "None" if kind is types.NoneType else "..."
    inner = list(map(type_name, typing.get_args(kind)))
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return " | ".join(inner)
    name: str = getattr(kind, "__name__", repr(kind))
    return f"{name}[{', '.join(inner)}]" if inner else name


def find(members: Mapping[str, Any]) -> tuple[tuple[Handler, ...], list[tuple[str, str]]]:
    """The handlers among the *members* of a class, and what is wrong with others: (member, sentence)."""
    handlers: list[Handler] = []
    mistakes: list[tuple[str, str]] = []
    number = FIRST_CALL
    for name, method in members.items():
        if not _is_marked(method, "__hcall__") and not (name in VERBS and inspect.isfunction(method)):
            continue
        try:
            handlers.append(_handler(name, method, VERBS.get(name, number)))
        except (TypeError, NameError, AttributeError, SyntaxError) as error:
            mistakes.append((name, f"{getattr(method, '__qualname__', name)}: {error}"))
        number += name not in VERBS and not _offer(method).number
    return tuple(handlers), mistakes


def find_actions(members: Mapping[str, Any]) -> tuple[tuple[Handler, ...], list[tuple[str, str]]]:
    """The same for what the host's user may do."""
    actions: list[Handler] = []
    mistakes: list[tuple[str, str]] = []
    for name, method in members.items():
        if not _is_marked(method, "__action__"):
            continue
        try:
            actions.append(_action(name, method))
        except (TypeError, NameError, AttributeError, SyntaxError) as error:
            mistakes.append((name, f"{getattr(method, '__qualname__', name)}: {error}"))
    return tuple(actions), mistakes


def _is_marked(member: object, mark: str) -> bool:
    """Whether @call or @action stands above *member*, or below what wraps it, such as @staticmethod."""
    inner = getattr(member, _WRAPPED[type(member)], None) if type(member) in _WRAPPED else None
    return hasattr(member, mark) or hasattr(inner, mark)


def _handler(name: str, method: Callable[..., Any], number: int) -> Handler:
    """Raises TypeError with what is wrong, another error for an annotation that is none."""
    kinds, answer, arguments = _signature(method)
    areas = tuple(kind for kind in kinds if kind in (Room, Data))
    scalars = kinds[len(areas) :]
    if kinds[: len(areas)] not in _AREAS or any(kind not in _SCALARS for kind in scalars):
        raise TypeError(f"annotate every argument: {_ARGUMENTS}")
    if method.__defaults__:
        raise TypeError("an argument has no default: the wire has all or none")
    if name in _VERBS:
        expected, answers = _VERBS[name]
        if kinds != expected:
            raise TypeError(f"the verb {name} takes ({', '.join(kind.__name__ for kind in expected)})")
        if answer is Any:
            answer = answers
        elif answer != answers and answers is not Any:
            raise TypeError(f"the verb {name} returns {type_name(answers)}")
    if Room in areas and answer not in (int, Any):
        raise TypeError("a call with a Room returns int: how many bytes it put there")
    offer, answer = _offer(method), int if Room in areas else answer
    return Handler(
        name, offer.number or number, areas, scalars, offer.needs, offer.early, answer, arguments, offer.again,
        waits=offer.waits,
    )  # fmt: skip


def _offer(method: object) -> Offer:
    offer: Offer = getattr(method, "__hcall__", Offer())
    return offer


def _action(name: str, method: Callable[..., Any]) -> Handler:
    """Raises as `_handler` does."""
    kinds, answer, arguments = _signature(method, "int, bool, str or float")
    if any(kind not in _WORDS for kind in kinds):
        raise TypeError("an action takes int, bool, str or float")
    defaults = method.__defaults__ or ()
    for argument, kind, default in reversed([*zip(arguments[::-1], kinds[::-1], defaults[::-1], strict=False)]):
        if type(default) is not kind and not (kind is float and type(default) is int):
            raise TypeError(f"the default of {argument} is no {kind.__name__}: {default!r}")
    return Handler(name, 0, (), kinds, 0, False, answer, arguments, defaults=defaults)


def _signature(method: Callable[..., Any], takes: str = _ARGUMENTS) -> tuple[tuple[type, ...], Any, tuple[str, ...]]:
    """Types of the arguments, the answer's, and the arguments' names.  Raises as `_handler` does."""
    if not inspect.isfunction(method):
        raise TypeError(f"a handler is a plain def with self, no {getattr(method, 'sort', type(method).__name__)}")
    if _NO_HANDLER & method.__code__.co_flags:
        raise TypeError("a handler is a plain def; what takes time returns Later")
    hints = typing.get_type_hints(method)
    hints.pop("self", None)
    answer = _now_or_later(hints.pop("return", Any))
    code = method.__code__
    is_open = code.co_kwonlyargcount or code.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS)
    if len(hints) != code.co_argcount - 1 or is_open:
        raise TypeError(f"annotate every argument: {takes}")
    return tuple(hints.values()), answer, tuple(hints)


def _now_or_later(hint: Any) -> Any:
    """What `int | Later[int]` comes to: int."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return functools.reduce(operator.or_, map(_now_or_later, typing.get_args(hint)))
    if (typing.get_origin(hint) or hint) is Later:
        return (*typing.get_args(hint), Any)[0]
    return types.NoneType if hint is None else hint
