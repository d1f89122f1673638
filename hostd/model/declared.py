"""What the class of a model declares: keys of the machine file, properties, features, interrupts, calls, actions."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Protocol, TypeVar, overload

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

_REQUIRED: Final = object()


class Declared(Generic[T]):
    """A value of the device that its class declares."""

    name: str

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, device: None, owner: type) -> typing.Self: ...
    @overload
    def __get__(self, device: object, owner: type) -> T: ...
    def __get__(self, device: object, owner: type) -> typing.Self | T:
        if device is None:
            return self
        try:
            return typing.cast(T, device.__dict__[self.name])
        except KeyError:
            raise AttributeError(f"{owner.__name__}.{self.name} has no value yet") from None


class Config(Declared[T]):
    """A key of the device's table in the machine file.

    *kind* is bool, int, str, Path (relative to the machine file), or a class with `parse(text, folder)`.  Without a
    *default*, which is written as in the file, the key must be there.  An int may have *bounds*, such as range(1, 11).
    """

    def __init__(
        self,
        kind: type[T],
        default: object = _REQUIRED,
        help: str = "",  # noqa: A002  # as argparse
        bounds: range | None = None,
    ) -> None:
        self.kind, self.default, self.help, self.bounds = kind, default, help, bounds

    @property
    def required(self) -> bool:
        """Whether a machine file must have the key."""
        return self.default is _REQUIRED

    def mistake(self) -> str | None:
        """What is wrong with it as it was declared."""
        if self.kind not in (bool, int, str, Path):
            if not hasattr(self.kind, "parse"):
                return "a key is bool, int, str, Path or a class with parse(text, folder)"
            if inspect.isfunction(inspect.getattr_static(self.kind, "parse")):
                return f"{self.kind.__name__}.parse is a @classmethod, or a @staticmethod"
        if self.bounds is not None and self.kind is not int:
            return "only an int has bounds"
        try:
            if not self.required:
                self.convert(self.default, Path())
        except Exception as error:  # of the author's own parse
            return f"its default {error if isinstance(error, ValueError) else f'{type(error).__name__}: {error}'}"
        return None

    def convert(self, value: object, folder: Path) -> T:
        """*value*, as the machine file has it, as the device gets it.  Raises ValueError with a sentence."""
        kind: Any = self.kind
        wanted = kind if kind in (bool, int, str) else str
        if type(value) is not wanted:
            raise ValueError(f"must be {TOML_NAMES[wanted]}, not {TOML_NAMES.get(type(value), 'that')}")
        if self.bounds is not None and value not in self.bounds:
            raise ValueError(f"must be {self.bounds[0]} to {self.bounds[-1]}, not {value}")
        if kind is Path:
            return typing.cast(T, folder / typing.cast(str, value))
        return typing.cast(T, value if kind is wanted else kind.parse(value, folder))

    if TYPE_CHECKING:  # with a real one every read would come here, and not to the instance at once

        def __set__(self, device: object, value: T) -> None: ...


TOML_NAMES: Final = {
    bool: "true or false", int: "a whole number", str: "a string", float: "a number with a point", list: "an array",
    dict: "a table",
}  # fmt: skip


PROPERTY_KINDS: Final = (int, str, bytes, bool, float, tuple)


class Property(Declared[T]):
    """A value that the device tree shows: an int, str, bytes, bool or float, or a tuple of them."""

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind

    def __set__(self, device: object, value: T) -> None:
        if not isinstance(value, self.kind):
            raise TypeError(f"{self.name} is {self.kind.__name__}, not {type(value).__name__}")
        for item in value if isinstance(value, tuple) else ():
            if not isinstance(item, PROPERTY_KINDS[:-1]):
                raise TypeError(f"{self.name} has {type(item).__name__} in it, which no property has")
        device.__dict__[self.name] = value


class Feature:
    """A feature bit, 0 to 63, offered unless the device takes it out of `offered`."""

    name: str

    def __init__(self, bit: int) -> None:
        self.bit, self.mask = bit, 1 << bit

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


class Raises(Protocol):
    """A device, as far as its interrupts go."""

    irqs: ClassVar[tuple[str, ...]]

    def raise_vector(self, vector: int) -> None:
        """Raise an interrupt by number."""


class Irq:
    """A named interrupt vector.  `self.name()` raises it on every open handle of the device."""

    name: str
    vector: int

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, device: None, owner: type) -> Irq: ...
    @overload
    def __get__(self, device: Raises, owner: type) -> Callable[[], None]: ...
    def __get__(self, device: Raises | None, owner: type) -> Irq | Callable[[], None]:
        if device is None:
            return self
        bound = functools.partial(device.raise_vector, type(device).irqs.index(self.name))
        device.__dict__[self.name] = bound  # found before this descriptor from now on
        return bound


@overload
def call(method: F, /) -> F: ...
@overload
def call(*, needs: Feature | None = None, early: bool = False) -> Callable[[F], F]: ...
def call(method: F | None = None, /, *, needs: Feature | None = None, early: bool = False) -> F | Callable[[F], F]:
    """Offer a method to the guest: areas first (a Room, a Data), then int, bool, str, bytes or float arguments.

    It is there only if the driver accepted the feature *needs*; *early*: before the driver has negotiated, too.
    """

    def mark(method: F) -> F:
        return _marked(method, "__hcall__", (needs.mask if needs else 0, early))

    return mark if method is None else mark(method)


def action(method: F) -> F:
    """Offer a method to the host's user, `hostd act DEVICE NAME ARG ...`: a button, or paper that has run out.

    Arguments are int, bool, str or float; what it returns is shown.
    """
    return _marked(method, "__action__", True)


class Unfit:
    """In the place of what takes no mark, as a property: so that all mistakes of a class are told at once."""

    def __init__(self, sort: str) -> None:
        self.sort = sort


def _marked(method: F, mark: str, value: object) -> F:
    try:
        setattr(method, mark, value)
    except AttributeError:
        method = typing.cast(F, Unfit(type(method).__name__))
        setattr(method, mark, value)
    return method
