"""What a lane is: it brings one guest's bodies, and takes its answers and hints.

It owns slots and order, and knows no device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, TypeVar

from hcall.errors import Status

from ..calls.dispatch import Answer, Bodies, Dispatch
from ..calls.memory import Lending

#: The sentence of a call that an earlier life of the host began, and that must not be made again.
REPLACED: Final = "the host was replaced while it was at this call"

T = TypeVar("T")
Ticket = TypeVar("Ticket", contravariant=True)


class Lane(Protocol[Ticket]):
    """One way of a guest to its host.  *Ticket* is what an answer finds its call by."""

    handle: int  # 0 is the socket's, others are of the counter of all handles

    ended: float  # when `work` did so last

    def work(self, now: float, until: float) -> bool:
        """Make the calls that came, as long as there is time, and one at least; whether some are left."""

    def answer(self, ticket: Ticket, status: int, value: object) -> None:
        """Once for each ticket, in any order."""

    def hint(self, tag: int, vector: int, count: int) -> None:
        """*vector* of what *tag* names stands at *count*."""

    def lend(self, number: int, start: int, size: int, offset: int | None, then: Lending) -> None:
        """Give *then* the region that the descriptor is that the guest sent with *number*, in the order of these."""

    def stop(self, then: Callable[[], None]) -> None:
        """Take nothing more; *then* follows when all that was taken is answered."""

    def end(self, status: Status, text: str) -> None:
        """Say the last word, and be gone."""


class Carried(Protocol):
    """The guest of a lane, as its lane knows it."""

    name: str
    dispatch: Dispatch  # looked up for each turn: filters come and go

    def each(self, number: int, handle: int, bodies: Bodies) -> Iterator[Answer]:
        """See `calls.dispatch.each`."""

    def due(self, lane: Lane[Any]) -> None:
        """Calls of *lane* wait for their turn."""

    def acknowledge(self, handle: int, vector: int, seen: int) -> None:
        """The guest has seen *vector* at the count *seen*."""

    def may_repeat(self, number: int, handle: int) -> bool:
        """Whether a call that may have been made can be made again."""

    def overran(self, number: int, handle: int, seconds: float) -> None:
        """The call *number* took longer than a turn."""

    def carry(self, does: Callable[[], T], then: Callable[[T], None]) -> None:
        """Have *does*, which may wait for the guest, done by a thread; *then* gets what it gives."""

    def misfit(self, number: int, handle: int, value: object) -> None:
        """*value*, the answer of the call *number*, does not fit the lane: the guest is told INTERNAL."""
