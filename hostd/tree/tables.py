"""The hypercall tables of one device: what may be called, by the features that a guest has accepted."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final, Protocol

from ..device import Device
from ..model.handlers import Handler
from .entries import Entry

_KEPT: Final = 8  # tables: a guest can accept one set of features after the other


class Stands(Protocol):
    """The device in its place."""

    device: Device
    used: bool  # since the last reset

    def number(self, handler: Handler) -> int:
        """The hypercall number of a verb or call here."""


class Tables:
    """All guests with the same features have the same table, as long as the device is there."""

    __slots__ = ("__dict__", "_stands", "_tables")

    def __init__(self, stands: Stands) -> None:
        self._stands = stands
        self._tables: dict[int | None, dict[int, Entry]] = {}  # by accepted features that matter, the last few

    def of(self, accepted: int | None) -> dict[int, Entry]:
        """What a guest with these *accepted* features may call; None: before it has negotiated."""
        if accepted is not None:
            accepted &= self._needed
        table = self._tables.get(accepted)
        if table is None:
            stands = self._stands
            table = {
                (number := stands.number(handler)): self._entries[number][stands.used]
                for handler in stands.device.declares.handlers
                if (handler.early if accepted is None else handler.needs & accepted == handler.needs)
            }
            if len(self._tables) == _KEPT:
                del self._tables[next(iter(self._tables))]
            self._tables[accepted] = table
        return table

    def method(self, number: int) -> Callable[..., Any]:
        """What the hypercall *number* calls, for who makes areas of its own.  Raises KeyError."""
        return self._methods[number][self._stands.used]

    def fill(self) -> None:
        """All tables are as they should be now: the device was used, or is as if nobody had."""
        for table in self._tables.values():
            table.update({number: self._entries[number][self._stands.used] for number in table})

    def clear(self) -> None:
        """Nothing may be called any more."""
        for table in self._tables.values():
            table.clear()

    @cached_property
    def _needed(self) -> int:
        """The features that some call needs: no other makes a table."""
        return functools.reduce(operator.or_, (each.needs for each in self._stands.device.declares.handlers), 0)

    @cached_property
    def _entries(self) -> dict[int, tuple[Entry, Entry]]:
        """Of all handlers, by hypercall number: what dispatch calls, before the first use and after it."""
        entries = {}
        for each in self._stands.device.declares.handlers:
            number = self._stands.number(each)
            first, other = self._methods[number]
            after = Entry(each, other)
            entries[number] = after if first is other else Entry(each, first), after
        return entries

    @cached_property
    def _methods(self) -> dict[int, tuple[Callable[..., Any], Callable[..., Any]]]:
        """What those entries call."""
        methods = {}
        for each in self._stands.device.declares.handlers:
            method = getattr(self._stands.device, each.name)
            methods[self._stands.number(each)] = method if each.again else self._noting(method), method
        return methods

    def _noting(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """*method*, which is the first use of the device by a guest: no other call has to note that, and pay for it."""

        @functools.wraps(method)
        def noted(*args: Any) -> Any:
            self._stands.used = True
            self.fill()
            return method(*args)

        return noted
