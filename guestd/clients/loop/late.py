"""Answers that come when whoever waited for them was cancelled: a cancelled call has happened.

A task that is cancelled cancels the future that it waits for, and its call is under way all the same.  Another future
takes the place of that one: the answer is there for whoever takes the call over, before it comes or after.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterable
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

from hcall.errors import failure

Waiter: TypeAlias = "asyncio.Future[Any]"

_instead: Final[WeakKeyDictionary[Waiter, Waiter]] = WeakKeyDictionary()  # of one that was cancelled
_dropped: Final[WeakSet[Waiter]] = WeakSet()  # their calls were not made


def waiter(call: Waiter) -> Waiter:
    """Who waits for *call*: it is that itself, until it is cancelled."""
    while call.cancelled():
        instead = _instead.get(call)
        if instead is None:
            instead = _instead[call] = call.get_loop().create_future()
            instead.add_done_callback(_retrieved)
        call = instead
    return call


def drop(call: Waiter) -> bool:
    """Before *call* is made: whether it need not be, as nobody waits for it."""
    if not call.cancelled() or call in _instead:
        return False
    _dropped.add(call)
    return True


def take_over(call: Waiter) -> Waiter | None:
    """*call*, which somebody has given up, to be waited for again; None: it is not made."""
    if call in _dropped:
        return None
    if not call.cancelled():
        call.add_done_callback(_retrieved)
    return waiter(call)


def give(answers: Iterable[tuple[Waiter, int, Any]]) -> None:
    """Tell those who wait: of each answer the waiter, the status and the value."""
    for call, status, value in answers:
        if call.done() and (call := waiter(call)).done():
            continue
        if status == 0:
            call.set_result(value)
        else:
            call.set_exception(failure(status, value))


class Heard:
    """In the place of a future, of who makes many calls: it is told at once, and nobody cancels it."""

    __slots__ = ()

    def set_result(self, value: Any) -> None:
        """The call went well."""
        raise NotImplementedError

    def set_exception(self, error: BaseException) -> None:
        """It did not."""
        raise NotImplementedError

    def done(self) -> bool:
        """Not before it is told."""
        return False

    cancelled = done

    def exception(self) -> None:
        """Nobody else has to look."""


class Posted:
    """A call that is made whoever is cancelled; whoever waits for it gets its answer."""

    __slots__ = ("_call",)

    def __init__(self, call: Waiter) -> None:
        self._call = call
        call.add_done_callback(_retrieved)  # whoever posted it may never look

    def __await__(self) -> Generator[Any, None, Any]:
        call = self._call
        return (call if call.done() else asyncio.shield(call)).__await__()


def _retrieved(call: Waiter) -> None:
    """Nobody has to be waiting."""
    if not call.cancelled():
        call.exception()
