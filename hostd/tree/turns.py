"""Callbacks that are due at once: one of them in each turn of the loop, so that guests have theirs between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hcall.clock import Clock


class Turns:
    """Of all devices of a host."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: deque[_Piece] = deque()

    def put(self, callback: Callable[[], object]) -> _Piece:
        """Call *callback* when all before it were called; this is a `Timer`."""
        piece = _Piece(callback)
        self._due.append(piece)
        if len(self._due) == 1:
            self._clock.call_later(0, self._turn)
        return piece

    def _turn(self) -> None:
        while self._due and self._due[0].callback is None:
            self._due.popleft()
        if not self._due:
            return
        try:
            self._due[0].call()
        finally:
            self._due.popleft()
            if self._due:
                self._clock.call_later(0, self._turn)


class _Piece:
    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def call(self) -> None:
        """Unless it was cancelled."""
        if self.callback is not None:
            self.callback()

    def cancel(self) -> None:
        """Do not call; nothing happens if it was called already."""
        self.callback = None
