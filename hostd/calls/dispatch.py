"""A body, `[number, handle, args]` with its areas, becomes a call of a handler.

For every carrier: one argument check, one failure path, one place to filter or capture.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hcall.errors import BadArea, BadArgument, NoSuchCall
from hcall.messages import Areas, Args
from hcall.numbers import CLASS_SHIFT

from hostd.model.areas import InlineRoom

from ..model.later import Later
from .account import Account
from .core import CORE
from .hold import DATA, NO_AREA, ROOM, Pending
from .outcome import OK, failed, finished


class Dispatcher(Account):
    """An account, and the one way into it."""

    __slots__ = ()

    def dispatch(self, number: int, handle: int, args: Args, areas: Areas) -> tuple[int, object] | Pending:
        """The answer, (status, value), or the Pending of one that comes later."""
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
                value = function(self, handle, *args) if args else function(self, handle)
            else:
                opened = self.opens.get(handle)
                if opened is None:
                    raise self.not_open(handle)
                entry = opened.table.get(number)
                if entry is None:
                    raise opened.missing(number)
                method, kinds, takes, expected = entry
                if len(args) == 1 == len(kinds):  # a verb, most often
                    if type(args[0]) is not kinds[0]:
                        args = _fitting(args, kinds)
                elif (*map(type, args),) != kinds:
                    args = _fitting(args, kinds)
                if takes == ROOM:
                    room = self.memory.room(areas)
                    # A call with * in it is not inlined by the interpreter: 0.1 us.
                    value = method(room, args[0]) if len(args) == 1 else method(room, *args)
                    if type(room) is InlineRoom and type(value) is int:  # most often; `finished` does the same
                        return OK, room.filled(value)
                elif takes == DATA:
                    data = self.memory.data(areas)
                    value = method(data, args[0]) if len(args) == 1 else method(data, *args)
                elif takes == NO_AREA:
                    if areas:
                        raise BadArea("this call takes no area")
                    value = method(*args)
                else:
                    room, data = self.memory.both(areas)
                    value = method(room, data, *args)
                if type(value) is Later:
                    return Pending(opened, value, room, data, expected)
                return finished(value, room, data, expected)
            if type(value) is Later:
                return Pending(None, value, None, None, Any)
            return OK, value
        except BaseException as error:  # a model may do anything: sys.exit(), too
            failing = self.opens.get(handle)
            return failed(error, room, data, failing.node if failing else None)


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
