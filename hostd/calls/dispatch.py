"""A body, `[number, handle, args]` with its areas, becomes a call of a handler.

For every carrier: one argument check, one failure path, one place to filter or capture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeAlias

from hcall.errors import BadArea, NoSuchCall
from hcall.messages import Areas, Args
from hcall.numbers import CLASS_SHIFT

from ..model.later import Later
from ..tree.entries import fitting
from ..tree.outcome import OK, failed
from .account import Account
from .core import CORE
from .memory import ReadyAreas
from .pending import Pending


class Deferred(Protocol):
    """An answer that comes later."""

    @property
    def waits(self) -> bool:
        """Whether it waits for the world outside, and may be asked for again in another life of the host."""

    @property
    def size(self) -> int:
        """Bytes of a message that it may take, about; MAX_MESSAGE if nobody knows."""

    def then(self, answer: Callable[[int, object], None], /) -> None:
        """Give (status, value) to *answer*: now, or when there is one.  Called once."""


WireOrReady: TypeAlias = Areas | ReadyAreas
Answer: TypeAlias = tuple[int, object] | Deferred
Bodies: TypeAlias = Iterable[tuple[Args, WireOrReady]]


class Dispatch(Protocol):
    """The one way in, for every lane."""

    def __call__(self, number: int, handle: int, args: Args, areas: WireOrReady, /) -> Answer:
        """The answer, (status, value), or one that comes later.  Never raises, never waits.

        *areas* are as on the wire, or ready: looked at before, and not again.  Either are released with the answer.
        """


def each(dispatch: Dispatch, number: int, handle: int, bodies: Bodies) -> Iterator[Answer]:
    """The answers to calls of one number and handle, pairs of arguments and areas; each is made when it is asked for.

    It may end before the last one: what is to be called is another now.
    """
    for args, areas in bodies:
        yield dispatch(number, handle, args, areas)


class Dispatcher:
    """The way into the account of one guest."""

    __slots__ = ("_account", "_holds", "_memory")

    def __init__(self, account: Account) -> None:
        self._account, self._holds, self._memory = account, account.holds, account.memory

    def dispatch(self, number: int, handle: int, args: Args, areas: WireOrReady, /) -> Answer:
        """See `Dispatch`."""
        if number >> CLASS_SHIFT:
            hold = self._holds.get(handle)
            entry = hold.table.get(number) if hold is not None else None
            if entry is None:
                return self._missing(number, handle)
            return entry.call(hold, self._memory if type(areas) is tuple else areas, number, args, areas)  # type: ignore[arg-type, no-any-return]
        try:
            core = CORE.get(number)
            if core is None:
                raise NoSuchCall(f"the core has no call {number:#x}")
            function, kinds, late = core
            if areas:
                raise BadArea("calls of the core take no areas")
            if args or kinds:
                value = function(self._account, handle, *fitting(args, kinds))
            else:
                value = function(self._account, handle)
            if type(value) is Later:
                return Pending(self._account, number, value, None, None, late)
            return OK, value
        except BaseException as error:
            return failed(error, None, None, self._holds.get(handle) or self._account, number)

    def each(self, number: int, handle: int, bodies: Bodies) -> Iterator[Answer]:
        """See `each`: what is called is looked up once."""
        hold = self._holds.get(handle)
        entry = hold.table.get(number) if hold is not None else None
        if hold is None or entry is None or entry.calls is None:
            return each(self.dispatch, number, handle, bodies)
        return entry.calls(hold, self._memory, number, bodies)

    def _missing(self, number: int, handle: int) -> tuple[int, object]:
        """The answer where there is nothing to call."""
        hold = self._holds.get(handle)
        error = self._account.not_open(handle) if hold is None else hold.missing(number)
        return failed(error, None, None, hold or self._account, number)
