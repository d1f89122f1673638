"""A call of a device as a hypercall table has it: what is looked at once is looked at when the table is made.

There is one sort for each set of areas that a handler may take, so that none asks again, at each call, what its
handler is like; and one that makes many reads: a frame of the interpreter and its names cost a quarter of a short one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

from hcall.errors import BadArea, BadArgument
from hcall.messages import Args

from ..model.areas import Data, InlineRoom, Room
from ..model.handlers import Handler
from ..model.later import Later
from .outcome import OK, Caller, failed, finished


class Areas(Protocol):
    """The areas of a call, made of what it brought: a guest's memory, or what a lane has ready."""

    def room(self, areas: Any, /) -> Any:
        """The one Room that they are.  Raises BadArea."""

    def data(self, areas: Any, /) -> Any:
        """The one Data that they are.  Raises BadArea."""

    def both(self, areas: Any, /) -> tuple[Any, Any]:
        """The Room and the Data that they are.  Raises BadArea."""


class Opened(Caller, Protocol):
    """Who has the device open: a hold."""

    @property
    def table(self) -> Mapping[int, Any]:
        """What may be called as things stand."""

    def wait(self, number: int, later: Later[Any], room: Any, data: Any, expected: Any) -> Any:
        """The answer to *number* comes later.  Raises Misbehaved."""


#: Makes a call: who has the device open, whose areas, the hypercall's number, its arguments, its areas as they came.
Call: TypeAlias = Callable[[Opened, Areas, int, Args, Any], Any]
#: Makes calls, pairs of arguments and areas, each when its answer is asked for.  It ends where the table is another.
Calls: TypeAlias = Callable[[Opened, Areas, int, Iterable[tuple[Args, Any]]], Iterator[Any]]


class Entry:
    """How a handler is called.  Neither way raises: whatever a model does becomes an answer."""

    __slots__ = ("call", "calls")

    def __init__(self, handler: Handler, method: Callable[..., Any]) -> None:
        """*method* is that of *handler*."""
        self.call: Call = _CALLS[handler.areas](method, handler.kinds, handler.answer)
        self.calls: Calls | None = None
        if handler.areas == (Room,) and len(handler.kinds) == 1:
            self.calls = _reads(method, handler.kinds, handler.answer)


def _reads(method: Callable[..., Any], kinds: tuple[type, ...], expected: Any) -> Calls:
    (kind,) = kinds

    def calls(hold: Opened, memory: Areas, number: int, bodies: Iterable[tuple[Args, Any]]) -> Iterator[Any]:
        table = hold.table
        for args, areas in bodies:
            if hold.table is not table or not table:  # what was called last has ended, or changed, all this
                return
            room = None
            try:
                if len(args) != 1 or type(args[0]) is not kind:
                    args = fitting(args, kinds)  # noqa: PLW2901
                room = (memory if type(areas) is tuple else areas).room(areas)  # a lane's may be ready
                value = method(room, args[0])
                if type(value) is int and type(room) is InlineRoom:
                    answer: Any = OK, room.filled(value)
                elif type(value) is Later:
                    answer = hold.wait(number, value, room, None, expected)
                else:
                    answer = finished(value, room, None, expected)
            except BaseException as error:  # a model may do anything: sys.exit(), too
                answer = failed(error, room, None, hold, number)
            yield answer

    return calls


def _with_room(method: Callable[..., Any], kinds: tuple[type, ...], expected: Any) -> Call:
    kind = kinds[0] if len(kinds) == 1 else None  # a verb, most often

    def call(hold: Opened, memory: Areas, number: int, args: Args, areas: Any) -> Any:
        room = None
        try:
            if len(args) != 1 or type(args[0]) is not kind:
                args = fitting(args, kinds)
            room = memory.room(areas)
            # A call with * in it is not inlined by the interpreter: 0.1 us.
            value = method(room, args[0]) if len(args) == 1 else method(room, *args)
            if type(room) is InlineRoom and type(value) is int:  # most often; `finished` does the same
                return OK, room.filled(value)
            if type(value) is Later:
                return hold.wait(number, value, room, None, expected)
            return finished(value, room, None, expected)
        except BaseException as error:
            return failed(error, room, None, hold, number)

    return call


def _with_data(method: Callable[..., Any], kinds: tuple[type, ...], expected: Any) -> Call:
    kind = kinds[0] if len(kinds) == 1 else None

    def call(hold: Opened, memory: Areas, number: int, args: Args, areas: Any) -> Any:
        data = None
        try:
            if len(args) != 1 or type(args[0]) is not kind:
                args = fitting(args, kinds)
            data = memory.data(areas)
            value = method(data, args[0]) if len(args) == 1 else method(data, *args)
            if type(value) is Later:
                return hold.wait(number, value, None, data, expected)
            return finished(value, None, data, expected)
        except BaseException as error:
            return failed(error, None, data, hold, number)

    return call


def _with_both(method: Callable[..., Any], kinds: tuple[type, ...], expected: Any) -> Call:
    def call(hold: Opened, memory: Areas, number: int, args: Args, areas: Any) -> Any:
        room = data = None
        try:
            args = fitting(args, kinds)
            room, data = memory.both(areas)
            value = method(room, data, *args)
            if type(value) is Later:
                return hold.wait(number, value, room, data, expected)
            return finished(value, room, data, expected)
        except BaseException as error:
            return failed(error, room, data, hold, number)

    return call


def _without(method: Callable[..., Any], kinds: tuple[type, ...], expected: Any) -> Call:
    kind = kinds[0] if len(kinds) == 1 else None

    def call(hold: Opened, memory: Areas, number: int, args: Args, areas: Any) -> Any:
        try:
            if (args or kinds) and (len(args) != 1 or type(args[0]) is not kind):
                args = fitting(args, kinds)
            if areas:
                raise BadArea("this call takes no area")
            value = method(args[0]) if len(args) == 1 else method(*args)
            if type(value) is Later:
                return hold.wait(number, value, None, None, expected)
            return finished(value, None, None, expected)
        except BaseException as error:
            return failed(error, None, None, hold, number)

    return call


_CALLS: dict[tuple[type, ...], Callable[[Callable[..., Any], tuple[type, ...], Any], Call]] = {
    (): _without, (Room,): _with_room, (Data,): _with_data, (Room, Data): _with_both,
}  # fmt: skip


def fitting(args: Args, kinds: tuple[type, ...]) -> Args:
    """*args*, a whole number made a float where one is taken (PEP 484; 1.0 is 1 in JavaScript).  Raises BadArgument."""
    if (*map(type, args),) == kinds:
        return args
    fits = tuple(float(value) if kind is float and type(value) is int else value
                 for value, kind in zip(args, kinds, strict=False))  # fmt: skip
    if len(args) != len(kinds) or (*map(type, fits),) != kinds:
        raise BadArgument(f"this call takes {_names(kinds)}, not {_names(map(type, args))}")
    return fits


def _names(kinds: Iterable[type]) -> str:
    return f"({', '.join('None' if kind is type(None) else kind.__name__ for kind in kinds)})"
