"""The calls and the interrupts of a device by name, and what a driver sees of the bus that carries them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, overload

from hcall.errors import NoSuchCall
from hcall.messages import Areas, Args

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

    def claim(self, lost: Callable[[Any], object], number: int, args: Args = (), areas: Areas = ()) -> Awaitable[Any]:
        """As `call`, for an answer that must not be lost, such as bytes that a read took away.

        A call that is cancelled has happened: if nobody waits for its answer any more, and it is not an error, it is
        given to *lost*.  A task that is cancelled waits for that, and what is claimed after it of the same device
        comes after it, so that whatever was read is in order.
        """

    def interrupt(self, vector: int) -> Awaitable[None]:
        """Until *vector* has been raised since the last time it was asked for."""

    def set_mask(self, vectors: int) -> Awaitable[int]:
        """Mask these vectors, a bit set, and no others; the mask before."""

    def property(self, name: str, kind: type | None = None) -> Awaitable[Any]:
        """A property of the device's node, of this *kind* if one is given.  Errors: NoMatch; IoError for another."""


class Owner(Protocol):
    """A driver, for what its class declares."""

    dev: BusDevice

    def number(self, call: str) -> int:
        """The hypercall number of a call.  Raises NoSuchCall."""


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
        call, number = driver.dev.call, driver.number(self.name)

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
