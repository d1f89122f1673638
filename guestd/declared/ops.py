"""The calls and the interrupts of a device by name, and what a driver sees of the bus that carries them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

from hcall.errors import NoSuchCall
from hcall.messages import Areas, Args
from hcall.text import suggest

from ..memory import Ram

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Sleeper(Protocol):
    """The part of time that a driver may use."""

    def time(self) -> float:
        """Seconds, never backwards."""

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Until *seconds* have passed."""


class BusDevice(Protocol):
    """An opened device, whichever bus carries it."""

    name: str
    calls: dict[str, int]  # the hypercall table: numbers by name
    vectors: dict[str, int]
    features: frozenset[str]  # those that were negotiated
    ram: Ram
    clock: Sleeper

    def call(self, number: int, args: Args = (), areas: Areas = ()) -> Awaitable[Any]:
        """Make a call.  Raises the HcallError of its status."""

    def take_over(self, call: Awaitable[Any]) -> Awaitable[Any] | None:
        """*call*, which somebody has given up, to be waited for again; None: it is not made."""

    def interrupt(self, vector: int) -> Awaitable[None]:
        """Until *vector* has been raised since the last time it was asked for."""

    def set_mask(self, vectors: int) -> Awaitable[int]:
        """Mask these vectors, a bit set, and no others; the mask before."""

    def property(self, name: str, kind: type | None = None) -> Awaitable[Any]:
        """A property of the device's node, of this *kind* if one is given.  Errors: NoMatch; IoError for another."""


def number_of(dev: BusDevice, call: str) -> int:
    """The hypercall number of a call.  Raises NoSuchCall."""
    try:
        return dev.calls[call]
    except KeyError:
        near = suggest(call, dev.calls)
        raise NoSuchCall(f"{dev.name} has no call {call!r}{near}; it has {', '.join(dev.calls)}") from None


class Owner(Protocol):
    """A driver, for what its class declares."""

    dev: BusDevice


class Op(Generic[P, R]):
    """A call of the device, by name: `winsize = Op[[], tuple[int, int]]()`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, driver: None, owner: type) -> Op[P, R]: ...
    @overload
    def __get__(self, driver: Owner, owner: type) -> Callable[P, Awaitable[R]]: ...
    def __get__(self, driver: Owner | None, owner: type) -> Op[P, R] | Callable[P, Awaitable[R]]:
        if driver is None:
            return self
        call, number = driver.dev.call, number_of(driver.dev, self.name)

        def bound(*args: P.args, **named: P.kwargs) -> Awaitable[R]:
            if named:
                raise TypeError(f"{self.name} takes its arguments by position: the wire knows no names")
            return call(number, args)

        driver.__dict__[self.name] = bound  # found before this descriptor from now on
        return bound


class Signal:
    """An interrupt of the device, by name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, driver: None, owner: type) -> Signal: ...
    @overload
    def __get__(self, driver: Owner, owner: type) -> BoundSignal: ...
    def __get__(self, driver: Owner | None, owner: type) -> Signal | BoundSignal:
        if driver is None:
            return self
        vector = driver.dev.vectors.get(self.name)
        if vector is None:
            raise NoSuchCall(f"{driver.dev.name} has no interrupt {self.name!r}")
        bound = driver.__dict__[self.name] = BoundSignal(driver.dev, vector)
        return bound


class BoundSignal:
    """An interrupt vector of one device."""

    __slots__ = ("_dev", "_vector")

    def __init__(self, dev: BusDevice, vector: int) -> None:
        self._dev, self._vector = dev, vector

    def wait(self) -> Awaitable[None]:
        """Until it has been raised since the last wait ended; at once if it was."""
        return self._dev.interrupt(self._vector)
