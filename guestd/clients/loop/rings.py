"""Calls by rings, in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import get_ident
from typing import Any

from hcall.errors import LinkLost, ProtocolViolation
from hcall.messages import Areas, Args

from ...carriers.ring import Ring
from ...carriers.rings import Rings
from . import late
from .late import Waiter


class Ringing:
    """A part of `AsyncGuest`."""

    rings: Rings[Waiter]
    _loop: asyncio.AbstractEventLoop
    _thread: int
    _lost: LinkLost | None
    _ringing: bool
    _flush: Callable[[], None]
    _end: Callable[[LinkLost], None]
    call: Callable[..., Any]

    def ring_call(self, ring: Ring[Waiter], number: int, args: Args = (), areas: Areas = ()) -> Waiter:
        """See `carriers.rings.Client`; calls that are made at once share a kick."""
        if ring.over or self._lost is not None or self._thread != get_ident():
            return self.call(ring.device, number, args, areas)  # type: ignore[no-any-return]  # which says so
        future = self._loop.create_future()
        ring.call(number, args, areas, future)
        if not self._ringing:
            self._ringing = bool(self._loop.call_soon(self._rung))
        return future

    def ring_linger(self, ring: Ring[Waiter], number: int, args: Args = (), areas: Areas = ()) -> Waiter | None:
        """See `carriers.rings.Client`."""
        return self.ring_call(ring, number, args, areas) if ring.may_linger else None

    def ring_push(self) -> None:
        """See `carriers.rings.Client`: it goes out soon as it is."""

    def remake(self, handle: int, number: int, args: Args, areas: Areas, waiter: Waiter) -> None:
        """See `carriers.rings.Client`."""
        self.call(handle, number, args, areas, waiter)

    def _rung(self) -> None:
        """Send and take by the rings."""
        self._ringing = False
        try:
            late.give(self.rings.turn())
        except ProtocolViolation as violation:
            self._end(LinkLost(f"the host broke the protocol: {violation}"))
        self._flush()
