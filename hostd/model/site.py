"""Where a device stands, as far as its model may know: the clock, its neighbours, and the guests, without a name."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol
from weakref import WeakValueDictionary

from hcall.clock import Clock


@dataclass(frozen=True)
class Ender:
    """Ends sessions of guests, now or when these have closed the device; two for the same guests are equal.

    `guests` are their numbers, which can be saved: another life of the host has the same guests.
    """

    guests: tuple[int, ...]
    expel: Callable[[int, str], None] = field(compare=False, repr=False)
    is_there: Callable[[int], bool] = field(compare=False, repr=False)

    @property
    def is_idle(self) -> bool:
        """Whether none of these sessions goes on: they have ended before."""
        return not any(map(self.is_there, self.guests))

    def __call__(self, text: str) -> None:
        """End them, with a sentence to each."""
        for guest in self.guests:
            self.expel(guest, text)


class Site(Protocol):
    """All that a device knows of where it stands."""

    @property
    def clock(self) -> Clock:
        """Its time; whatever a callback raises ends there."""

    @property
    def guest_clock(self) -> Clock:
        """The same, less what the host stood still for: whatever a guest is held to is counted by it."""

    @property
    def common(self) -> WeakValueDictionary[Hashable, Any]:
        """What the devices of one host share, while one of them has it."""

    @property
    def random(self) -> Callable[[int], bytes]:
        """So many bytes by chance, which is that of the host's identity and of this place."""

    used: bool  # since the last reset: a guest made a call that may change something, or something came for one

    @property
    def in_use(self) -> bool:
        """Whether a driver has set the device up: only then an interrupt reaches somebody."""

    def signal(self, vector: int) -> None:
        """Raise an interrupt on every handle that is set up."""

    def ender(self, guests: Iterable[int] | None = None) -> Ender:
        """What ends the sessions of those *guests*, or of those that have the device open now."""

    def complain(self, text: str) -> None:
        """*text*, about this device, is for the log: once, and then a count."""

    def shown(self) -> None:
        """A property has another value."""

    def fail(self) -> None:
        """The device is of no use until a reset of it succeeds."""


class Nowhere:
    """The site of a device that has not been plugged: it has no time, and nobody hears it."""

    in_use = used = False

    @property
    def clock(self) -> Clock:
        """Raises RuntimeError: a device has a clock from `start` on."""
        raise RuntimeError("a device that has not been plugged has no clock")

    guest_clock = clock

    def random(self, count: int) -> bytes:
        """Raises RuntimeError: chance comes with a place, too."""
        raise RuntimeError("a device that has not been plugged draws nothing by chance")

    def __init__(self) -> None:
        self.common: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()

    def signal(self, vector: int) -> None:
        """Nobody is there."""

    def ender(self, guests: Iterable[int] | None = None) -> Ender:
        """Ends nobody's session."""
        return Ender((), _nobody, bool)

    def complain(self, text: str) -> None:
        """Nobody hears it."""

    def shown(self) -> None:
        """Nobody looks."""

    def fail(self) -> None:
        """Nobody uses it."""


def _nobody(guest: int, text: str) -> None:
    """There are no guests."""
