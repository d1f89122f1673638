"""What may stand in front of a guest's calls, and of its hints: it looks, answers, changes, delays or drops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from hcall.messages import Args

from .dispatch import Deferred, Dispatch, WireOrReady

#: Tells a guest of an interrupt: tag, vector, count.
Hint: TypeAlias = Callable[[int, int, int], None]


class Filter(Protocol):
    """In front of one guest; put in and taken out while it is there."""

    def call(
        self, number: int, handle: int, args: Args, areas: WireOrReady, go_on: Dispatch
    ) -> tuple[int, object] | Deferred:
        """A body on its way in: what *go_on* with it answers, or something else.  Like a Dispatch it never raises."""

    def hint(self, tag: int, vector: int, count: int, go_on: Hint) -> None:
        """An interrupt on its way out, in the middle of a model's call: do not call the model back at once."""


def chain(filters: Sequence[Filter], dispatch: Dispatch) -> Dispatch:
    """*dispatch* behind all *filters*, the first one outermost; with none it is *dispatch* itself, at no cost."""
    for each in reversed(filters):
        dispatch = _behind(each, dispatch)
    return dispatch


def chain_hints(filters: Sequence[Filter], hint: Hint) -> Hint:
    """The same for *hint*: it comes to the last one first."""
    for each in filters:
        hint = _hint_behind(each, hint)
    return hint


def _behind(each: Filter, go_on: Dispatch) -> Dispatch:
    call = each.call

    def dispatch(number: int, handle: int, args: Args, areas: WireOrReady, /) -> tuple[int, object] | Deferred:
        return call(number, handle, args, areas, go_on)

    return dispatch


def _hint_behind(each: Filter, go_on: Hint) -> Hint:
    return lambda tag, vector, count: each.hint(tag, vector, count, go_on)
