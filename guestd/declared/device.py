"""What a driver sees of the bus that carries its calls, whichever that is."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from hcall.errors import NoSuchCall
from hcall.messages import Areas, Args
from hcall.text import suggest

from ..memory import Ram


class Sleeper(Protocol):
    """The part of time that a driver may use."""

    def time(self) -> float:
        """Seconds, never backwards."""

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Until *seconds* have passed; others go on meanwhile."""

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[object]:
        """What is awaited in `async with self.clock.timeout(seconds)` has so many, or no bound.

        Raises TimeoutError when they are over: what is awaited then has ended, as if its task were cancelled.
        """


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

    def linger(self, number: int, args: Args = (), areas: Areas = ()) -> Awaitable[Any] | None:
        """Make a call whose answer may take as long as the world outside.

        None: too many such calls wait; one that does not wait will do.
        """

    def push(self) -> None:
        """Calls that were made, and nobody waits for, go out soon."""

    def answered(self, call: Awaitable[Any]) -> tuple[Any] | None:
        """What *call* was answered with, or the error of its status; None: not yet."""

    def take_over(self, call: Awaitable[Any]) -> Awaitable[Any] | None:
        """*call*, which somebody has given up, to be waited for again; None: it is not made."""

    def lock(self) -> AbstractAsyncContextManager[object]:
        """Something for `async with`, which one has at a time, in the order in which they ask."""

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
