"""Calls by rings, in an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from threading import get_ident
from typing import Any

from hcall.errors import LinkLost, ProtocolViolation
from hcall.messages import Areas, Args

from ...carriers.ring import Ring
from ...carriers.rings import Rings
from . import late
from .late import Waiter


class LoopRings(Rings[Waiter]):
    """Of a guest whose loop tells it when there are answers."""

    def add(self, ring: Ring[Waiter]) -> None:
        """See `Rings`."""
        super().add(ring)
        if ring.tell >= 0:
            asyncio.get_running_loop().add_reader(ring.tell, self._told, ring.tell)

    def gone(self, ring: Ring[Waiter]) -> None:
        """See `Rings`."""
        if ring.tell >= 0:
            asyncio.get_running_loop().remove_reader(ring.tell)
        super().gone(ring)

    def _told(self, fd: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(fd)
        self._client.rung()


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
            self._ringing = bool(self._loop.call_soon(self.rung))
        return future

    def ring_linger(self, ring: Ring[Waiter], number: int, args: Args = (), areas: Areas = ()) -> Waiter | None:
        """See `carriers.rings.Client`."""
        return self.ring_call(ring, number, args, areas) if ring.may_linger else None

    def ring_push(self) -> None:
        """See `carriers.rings.Client`: it goes out soon as it is."""

    def remake(self, handle: int, number: int, args: Args, areas: Areas, waiter: Waiter) -> None:
        """See `carriers.rings.Client`."""
        self.call(handle, number, args, areas, waiter)

    def rung(self) -> None:
        """Send and take by the rings."""
        self._ringing = False
        try:
            while answers := self.rings.turn():  # until it has said that it wants to be told
                late.give(answers)
        except ProtocolViolation as violation:
            self._end(LinkLost(f"the host broke the protocol: {violation}"))
        self._flush()
