"""A body, `[number, handle, args]` with its areas, becomes a call of a handler.

For every carrier: one argument check, one failure path, one place to filter or capture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias, cast

from hcall.errors import BadArea, BadArgument, NoSuchCall
from hcall.messages import Areas, Args
from hcall.numbers import CLASS_SHIFT

from ..model.areas import InlineRoom
from ..model.later import Later
from ..tree.plugged import DATA, NO_AREA, ROOM
from .account import Account
from .core import CORE
from .memory import ReadyAreas
from .outcome import OK, failed, finished
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


class Dispatch(Protocol):
    """The one way in, for every lane."""

    def __call__(self, number: int, handle: int, args: Args, areas: WireOrReady, /) -> tuple[int, object] | Deferred:
        """The answer, (status, value), or one that comes later.  Never raises, never waits.

        *areas* are as on the wire, or ready: looked at before, and not again.  Either are released with the answer.
        """


class Dispatcher:
    """The way into the account of one guest."""

    __slots__ = ("_account", "_holds", "_memory")

    def __init__(self, account: Account) -> None:
        self._account, self._holds, self._memory = account, account.holds, account.memory

    def dispatch(self, number: int, handle: int, args: Args, areas: WireOrReady, /) -> tuple[int, object] | Deferred:
        """See `Dispatch`."""
        room = data = None
        try:
            if number >> CLASS_SHIFT == 0:
                core = CORE.get(number)
                if core is None:
                    raise NoSuchCall(f"the core has no call {number:#x}")
                function, kinds = core
                if areas:
                    raise BadArea("calls of the core take no areas")
                if len(args) != len(kinds) or (args and (*map(type, args),) != kinds):
                    raise _wrong_arguments(args, kinds)
                value = function(self._account, handle, *args) if args else function(self._account, handle)
            else:
                hold = self._holds.get(handle)
                if hold is None:
                    raise self._account.not_open(handle)
                entry = hold.table.get(number)
                if entry is None:
                    raise hold.missing(number)
                method, kinds, takes, expected = entry
                if len(args) == 1 == len(kinds):  # a verb, most often
                    if type(args[0]) is not kinds[0]:
                        args = _fitting(args, kinds)
                elif (*map(type, args),) != kinds:
                    args = _fitting(args, kinds)
                memory = self._memory if type(areas) is tuple else cast(ReadyAreas, areas)
                if takes == ROOM:
                    room = memory.room(areas)
                    # A call with * in it is not inlined by the interpreter: 0.1 us.
                    value = method(room, args[0]) if len(args) == 1 else method(room, *args)
                    if type(room) is InlineRoom and type(value) is int:  # most often; `finished` does the same
                        return OK, room.filled(value)
                elif takes == DATA:
                    data = memory.data(areas)
                    value = method(data, args[0]) if len(args) == 1 else method(data, *args)
                elif takes == NO_AREA:
                    if areas:
                        raise BadArea("this call takes no area")
                    value = method(*args)
                else:
                    room, data = memory.both(areas)
                    value = method(room, data, *args)
                if type(value) is Later:
                    return Pending(hold, number, value, room, data, expected, hold)
                return finished(value, room, data, expected)
            if type(value) is Later:
                return Pending(self._account, number, value, None, None, Any)
            return OK, value
        except BaseException as error:  # a model may do anything: sys.exit(), too
            return failed(error, room, data, self._holds.get(handle) or self._account, number)


def _fitting(args: Args, kinds: tuple[type, ...]) -> Args:
    """*args*, a whole number made a float where one is taken (PEP 484; 1.0 is 1 in JavaScript).  Raises BadArgument."""
    fitting = tuple(float(value) if kind is float and type(value) is int else value
                    for value, kind in zip(args, kinds, strict=False))  # fmt: skip
    if len(args) != len(kinds) or (*map(type, fitting),) != kinds:
        raise _wrong_arguments(args, kinds)
    return fitting


def _wrong_arguments(args: Args, kinds: tuple[type, ...]) -> BadArgument:
    return BadArgument(f"this call takes {_names(kinds)}, not {_names(map(type, args))}")


def _names(kinds: Iterable[type]) -> str:
    return f"({', '.join('None' if kind is type(None) else kind.__name__ for kind in kinds)})"
