"""What the class of a model declares: properties, features, interrupts, calls, actions; and keys, see `keys`."""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar, overload

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


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
        if (site := device.__dict__.get("site")) is not None:  # else it is not made yet
            site.shown()


class Feature:
    """A feature bit, 0 to 23 or 50 to 63, offered unless the device takes it out of `offered`."""

    name: str

    def __init__(self, bit: int) -> None:
        self.bit, self.mask = bit, 1 << bit

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


class _Named(Protocol):
    @property
    def irqs(self) -> tuple[str, ...]:
        """The names of the interrupts, in the order of their vectors."""


class Raises(Protocol):
    """A device, as far as its interrupts go."""

    @property
    def declares(self) -> _Named:
        """What it has."""

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
        bound = functools.partial(device.raise_vector, device.declares.irqs.index(self.name))
        device.__dict__[self.name] = bound  # found before this descriptor from now on
        return bound


class Offer(NamedTuple):
    """How a method is offered to the guest."""

    needs: int = 0  # feature bits
    early: bool = False
    again: bool = False
    waits: bool = False
    number: int = 0  # 0: the next one


@overload
def call(method: F, /) -> F: ...
@overload
def call(
    *, needs: Feature | None = None, early: bool = False, again: bool = False, waits: bool = False, number: int = 0
) -> Callable[[F], F]: ...
def call(
    method: F | None = None, /, *, needs: Feature | None = None, early: bool = False, again: bool = False,
    waits: bool = False, number: int = 0,
) -> F | Callable[[F], F]:  # fmt: skip
    """Offer a method to the guest: areas first (a Room, a Data), then int, bool, str, bytes or float arguments.

    It is there only if the driver accepted the feature *needs*; *early*: before the driver has negotiated, too.
    *again*: it changes nothing, so that it may be made again when its answer was lost.  A verb may say so, too.
    *waits*: its `Later` may come as late as the world outside likes, and until then the call has changed nothing.
    *number*: of a base of models, beyond those that are counted from 16 on, so that theirs stay what they are.
    """

    def mark(method: F) -> F:
        return _marked(method, "__hcall__", Offer(needs.mask if needs else 0, early, again, waits, number))

    return mark if method is None else mark(method)


def action(method: F) -> F:
    """Offer a method to the host's user, `hostd act DEVICE NAME ARG ...`: a button, or paper that has run out.

    Arguments are int, bool, str or float, and may have defaults; what it returns, now or `Later`, is shown.
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


def inherit(method: object, overridden: object) -> None:
    """What overrides a call or an action is one, too: nobody has to say so again."""
    for mark in ("__hcall__", "__action__"):
        if hasattr(overridden, mark) and not hasattr(method, mark):
            setattr(method, mark, getattr(overridden, mark))
