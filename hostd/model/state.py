"""What a device remembers: declared once, set back by every reset, saved, and loaded into another device.

What is saved is plain data that msgpack carries, see `hcall.saved`.  The kind of a state says how it comes back.
"""

from __future__ import annotations

import copy
import functools
import inspect
import types
import typing
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, overload

import msgspec

from hcall.saved import Saved

from .declared import Declared
from .handlers import type_name

T = TypeVar("T")

_MADE: Final[Any] = object()  # no default: what the kind makes
_FLAT: Final = (list, set, dict, bytearray, deque)  # that `copy` copies whole, if nothing in them can be changed
_AS_IT_IS: Final = (int, float, str, bytes, bool, types.NoneType)  # nothing can be changed in them
_KINDS: Final = (
    "a state is int, float, bool, str, bytes or bytearray, a list, dict, set, deque or tuple, of such if it says so, a "
    "NamedTuple, an Enum, a dataclass, or a class with save() and a @classmethod load(saved)"
)


class State(Declared[T]):
    """Something that a device remembers: an attribute with a value at power-on, which a reset sets back.

    *kind* is int, float, bool, str, bytes, bytearray, list[int], dict[str, bytes], set, deque or the like, an Enum, a
    NamedTuple, a dataclass, or a class with `save()`, which gives plain data, and a classmethod `load(saved)`.
    *default* is a value, of which each device and each reset gets a copy, or None, or a function that makes one, of
    nothing or of the device, which has its keys by then; without it the kind is called.

    *early*: what it has before any guest has used the device is kept for the first one.  *kept*: no reset sets it back.
    """

    @overload
    def __init__(
        self: State[T | None], kind: type[T], default: None, *, early: bool = False, kept: bool = False
    ) -> None: ...
    @overload
    def __init__(
        self,
        kind: type[T],
        default: T | Callable[[], T] | Callable[[Any], T] = _MADE,
        *,
        early: bool = False,
        kept: bool = False,
    ) -> None: ...
    def __init__(self, kind: Any, default: Any = _MADE, *, early: bool = False, kept: bool = False) -> None:
        self.kind: Any = kind | None if default is None and isinstance(kind, type | types.GenericAlias) else kind
        self.default: Any = float(default) if kind is float and type(default) is int else default
        self.early, self.kept = early, kept

    @functools.cached_property
    def make(self) -> Callable[[object], T] | None:
        """What makes a value for a device; None: the default itself will do, as nothing in it can be changed."""
        default = (typing.get_origin(self.kind) or self.kind) if self.default is _MADE else self.default
        if type(default) in _AS_IT_IS:
            return None
        if self._is_made:
            return default if _takes_one(default) else lambda device: default()
        if type(default) in _FLAT and all(type(item) in _AS_IT_IS for item in _items(default)):
            return lambda device: default.copy()
        return lambda device: copy.deepcopy(default)

    def fresh(self, device: object) -> T:
        """The value at power-on, one of its own for each device and each reset."""
        return typing.cast(T, self.default) if self.make is None else self.make(device)

    @property
    def _is_made(self) -> bool:
        return self.default is _MADE or (callable(self.default) and not _is(self.default, self.kind))

    def mistake(self) -> str | None:
        """What is wrong with it as it was declared."""
        try:
            customs = list(_customs(msgspec.inspect.type_info(self.kind)))
        except (TypeError, NameError):
            return _KINDS
        if any(custom is not deque and not (_has(custom, "save") and _has(custom, "load")) for custom in customs):
            return _KINDS
        if self.early and self.kept:
            return "what no reset sets back is kept for everybody: early, or kept"
        try:
            if self._is_made and self.default is not _MADE and _takes_one(self.default):
                return None  # of a device, which is not there yet
            value = self.fresh(None)
            if not _is(value, self.kind):
                return f"its default is no {type_name(self.kind)}: {value!r}"
            self.loaded(self.plain(value), None)
        except Exception as error:  # of the author's own
            said = f"{error}" if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            return f"its default cannot be saved and loaded: {said}"
        return None

    def plain(self, value: T) -> object:
        """*value*, to be saved.  Raises ValueError for what is no plain data."""
        try:
            return _copied(msgspec.to_builtins(value, builtin_types=(bytes, bytearray), str_keys=True, enc_hook=_saved))
        except TypeError as error:
            raise ValueError(str(error)) from None

    def loaded(self, saved: object, device: object) -> T:
        """The value that was *saved*.  Raises ValueError."""
        value = _of(self.kind, saved)
        if isinstance(value, deque):  # its bound is not saved
            return typing.cast(T, deque(value, self.fresh(device).maxlen))  # type: ignore[attr-defined]  # a deque, too
        return typing.cast(T, value)

    if TYPE_CHECKING:  # with a real one every read would come here, and not to the instance at once

        def __set__(self, device: object, value: T) -> None: ...


class _Plan(NamedTuple):
    """How some of the states of a class get their values: a reset has no time to ask each of them."""

    values: dict[str, Any]
    makers: tuple[tuple[str, Callable[[object], Any]], ...]

    @classmethod
    def of(cls, states: Mapping[str, State[Any]]) -> _Plan:
        """Of these."""
        makers = {name: state.make for name, state in states.items() if state.make is not None}
        return cls({name: state.default for name, state in states.items() if name not in makers}, tuple(makers.items()))

    def follow(self, device: object) -> None:
        """All of them have their first value."""
        values = device.__dict__
        values.update(self.values)
        for name, make in self.makers:
            values[name] = make(device)


class States(dict[str, State[Any]]):
    """All that the devices of a class remember, by name."""

    def power_on(self, device: object) -> None:
        """All of them have their first value."""
        self._all.follow(device)

    def set_back(self, device: object, used: bool) -> None:
        """So have all but what is kept, and what is early unless the device was *used*."""
        (self._guests if used else self._unused).follow(device)

    @functools.cached_property
    def _all(self) -> _Plan:
        return _Plan.of(self)

    @functools.cached_property
    def _guests(self) -> _Plan:
        return _Plan.of({name: state for name, state in self.items() if not state.kept})

    @functools.cached_property
    def _unused(self) -> _Plan:
        return _Plan.of({name: state for name, state in self.items() if not state.kept and not state.early})


def save(device: object, states: States) -> Saved:
    """All of them, as plain data.  Raises ValueError for a value that is not of its kind."""
    saved: Saved = {}
    for name, state in states.items():
        try:
            saved[name] = state.plain(device.__dict__[name])
            state.loaded(saved[name], device)
        except ValueError as error:
            raise ValueError(f"{type(device).__name__}.{name} cannot be saved: {error}") from None
    return saved


def load(device: object, states: States, saved: Saved) -> None:
    """Set all of them to what was *saved*, or none.  Raises ValueError for what was saved of another sort of device."""
    of = f"what was saved is of no {type(device).__name__} as it is now"
    if odd := [f"{name} is missing" for name in states.keys() - saved] + [
        f"it has no {name}" for name in saved.keys() - states
    ]:
        raise ValueError(f"{of}: {', '.join(sorted(odd))}")
    values = {}
    for name, state in states.items():
        try:
            values[name] = state.loaded(saved[name], device)
        except ValueError as error:
            raise ValueError(f"{of}: {name}: {error}") from None
    device.__dict__.update(values)


def _saved(value: Any) -> object:
    """Of what msgspec does not know."""
    if isinstance(value, deque):
        return list(value)
    if not _has(type(value), "save"):
        raise ValueError(f"there is a {type(value).__name__} in it, which has no save()")
    return value.save()


def _loaded(kind: Any, saved: object) -> object:
    if typing.get_origin(kind) is deque or kind is deque:
        return deque(_of(list[typing.get_args(kind)] if typing.get_args(kind) else list, saved))  # type: ignore[misc]
    return kind.load(saved)


def _of(kind: Any, saved: object) -> Any:
    """What was *saved* of a *kind*.  Raises ValueError."""
    return msgspec.convert(saved, kind, builtin_types=(bytes, bytearray), str_keys=True, dec_hook=_loaded)


def _copied(value: object) -> object:
    """*value*, none of which the device has any more.  Raises ValueError for what msgpack has no room for."""
    if isinstance(value, list | tuple):
        return [*map(_copied, value)]
    if isinstance(value, dict):
        return {str(key): _copied(item) for key, item in value.items()}
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"{value} has more than 64 bits")
    return bytes(value) if isinstance(value, bytearray) else value


def _is(value: object, kind: Any) -> bool:
    """Whether *value* is of *kind*, but for what is in it."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return any(_is(value, each) for each in typing.get_args(kind))
    kind = typing.get_origin(kind) or kind
    return isinstance(value, kind)


def _has(kind: type, method: str) -> bool:
    return callable(getattr(kind, method, None))


def _items(value: Any) -> Any:
    """What is in it, a map's keys aside: they cannot be changed."""
    return value.values() if isinstance(value, dict) else value


def _takes_one(make: Callable[..., object]) -> bool:
    """Whether *make* wants the device."""
    try:
        parameters = inspect.signature(make).parameters.values()
    except ValueError:  # of a type of Python's own
        return False
    return any(each.default is each.empty and each.kind is not each.VAR_POSITIONAL for each in parameters)


def _customs(info: Any, seen: tuple[object, ...] = ()) -> Iterator[type]:
    """The classes in a kind that msgspec does not know."""
    if isinstance(info, msgspec.inspect.CustomType):
        yield info.cls
    for name in info.__struct_fields__:
        value = getattr(info, name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, msgspec.inspect.Type | msgspec.inspect.Field) and each not in seen:
                yield from _customs(each, (*seen, each))
