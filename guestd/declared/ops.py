"""The calls of a device by name: what they take, and what they answer."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Generator
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Generic, ParamSpec, TypeAlias, TypeVar, Union, get_args, get_origin, overload

import msgspec

from hcall.errors import IoError
from hcall.messages import Areas

from ..memory import Buffer
from .device import BusDevice, Owner, number_of

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

#: The areas of a call, which come before its other arguments, as in a model.
Inline: TypeAlias = Annotated[int, "so many bytes, 4,096 at most, in the answer"]
Room: TypeAlias = Annotated[Buffer, "filled by the device"]
Data: TypeAlias = Annotated[Buffer | bytes, "read by the device; bytes: 4,096 at most"]

_AREAS: Final = ((), (Inline,), (Room,), (Data,), (Room, Data))
_FILLED: Final[dict[Any, type]] = {Inline: bytes, Room: int}  # by the first area: what such a call answers
_SCALARS: Final = (int, bool, str, bytes, float)
_ANSWERS: Final = (*_SCALARS, NoneType, tuple, list, dict, Enum)


def _can_come(kind: Any) -> bool:
    """Whether the wire can bring *kind*."""
    if kind in (Any, ...):
        return True
    sort = get_origin(kind) or kind
    if sort is Annotated:
        return _can_come(get_args(kind)[0])
    if sort not in (Union, UnionType) and not (isinstance(sort, type) and issubclass(sort, _ANSWERS)):
        return False
    return all(map(_can_come, get_args(kind)))


def as_bytes(data: object) -> bytes:
    """*data* as it is now.  Raises TypeError: of a number, `bytes` would make so many zeroes."""
    return data if type(data) is bytes else bytes(memoryview(data))  # type: ignore[arg-type]  # it says so itself


class Answer(msgspec.Struct, Generic[R_co], eq=False):  # made in half the time of another class
    """An answer that is to come, and has to be of the type that the driver's class says."""

    call: Awaitable[Any]
    kind: Any
    check: Callable[[Any], R_co]

    def __await__(self) -> Generator[Any, Any, R_co]:
        value = yield from self.call.__await__()
        return value if type(value) is self.kind else self.check(value)

    def taken_over(self, call: Awaitable[Any]) -> Answer[R_co]:
        """The same answer, of the *call* that was taken over."""
        return Answer(call, self.kind, self.check)


@functools.cache
def _holder(kind: Any) -> type[msgspec.Struct]:
    """What holds a *kind*: msgspec reads a class once, but `tuple[...]` with each answer, in 0.5 us."""
    return msgspec.defstruct("Answer", [("value", kind)], array_like=True)


def checker(dev: BusDevice, call: str, kind: Any) -> Callable[[Any], Any]:
    """What looks at the answers to *call*: it gives them as *kind*, or raises IoError."""
    name, answer = dev.name, _holder(kind)

    def check(value: Any) -> Any:
        try:
            return msgspec.convert((value,), answer).value  # type: ignore[attr-defined]  # its only one
        except msgspec.ValidationError as error:
            said, _, where = str(error).rpartition("$[0]")
            said = f"{said}${where}".removesuffix(" - at `$`")
            raise IoError(f"{name} answers {call} with what is none: {said}") from None

    return check


class Op(Generic[P, R]):
    """A call of the device: `winsize = Op[[], tuple[int, int]]()`, or `Op[...]("winsize")` under a name of its own.

    In brackets are its arguments, areas first as in the model, and its answer, which is checked: int and float, bool,
    str, bytes and None, tuples and NamedTuples of them, or Any.  A call with `Inline` answers with bytes, one with
    `Room` with a count.
    """

    def __init__(self, call: str = "") -> None:
        self.call = call

    def __set_name__(self, owner: type, name: str) -> None:
        self.name, self.call = name, self.call or name
        takes, self._kind = get_args(getattr(self, "__orig_class__", None)) or (..., Any)
        self._kind = type(None) if self._kind is None else self._kind
        self._takes: tuple[Any, ...] = () if takes is ... else tuple(takes)
        self._areas = sum(get_origin(kind) is Annotated for kind in self._takes)

    @property
    def is_unchecked(self) -> bool:
        """Whether any answer will do."""
        return self._kind is Any

    def mistake(self) -> str | None:
        """What is wrong with it as it was declared."""
        areas, others = self._takes[: self._areas], self._takes[self._areas :]
        if areas not in _AREAS or not all(isinstance(kind, type) and issubclass(kind, _SCALARS) for kind in others):
            return "it takes Inline, Room, Data, or Room and Data first, then int, bool, str, bytes or float"
        if not _can_come(self._kind):
            return "it is answered with int, float, bool, str, bytes, None, tuples and NamedTuples of them, or Any"
        filled = _FILLED.get(areas[0], Any) if areas else Any
        if filled not in (Any, self._kind):
            return f"what it fills is answered with {filled.__name__}"
        return None

    @overload
    def __get__(self, driver: None, owner: type) -> Op[P, R]: ...
    @overload
    def __get__(self, driver: Owner, owner: type) -> Callable[P, Awaitable[R]]: ...
    def __get__(self, driver: Owner | None, owner: type) -> Op[P, R] | Callable[P, Awaitable[R]]:
        if driver is None:
            return self
        dev, areas, kind, name = driver.dev, self._takes[: self._areas], self._kind, self.name
        count = len(areas)
        call, number, check = dev.call, number_of(dev, self.call), checker(dev, self.call, kind)

        def bound(*args: P.args, **named: P.kwargs) -> Awaitable[R]:
            if named:
                raise TypeError(f"{name} takes its arguments by position: the wire knows no names")
            pending = call(number, args[count:], _laid_out(areas, args)) if count else call(number, args)
            return pending if kind is Any else Answer(pending, kind, check)

        driver.__dict__[name] = bound  # found before this descriptor from now on
        return bound


def _laid_out(kinds: tuple[Any, ...], args: tuple[Any, ...]) -> Areas:
    """The areas, of these *kinds*, at the front of *args*."""
    areas: Areas = ()
    for kind, given in zip(kinds, args):  # noqa: B905  # one that is missing is for the host to tell
        if isinstance(given, Buffer):
            areas += given.room if kind is Room else given.data
        else:
            areas += (given if kind is Inline else as_bytes(given),)
    return areas
