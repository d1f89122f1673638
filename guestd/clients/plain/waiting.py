"""How the client without a loop waits for more than one call; and its calls by rings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hcall.errors import LinkLost, ProtocolViolation
from hcall.messages import Areas, Args
from hcall.spin import Spin

from ...carriers.ring import Ring
from ...carriers.rings import Rings
from .clock import BlockingClock
from .pending import Lingering, Pending, give

_TURNS: Final = 16  # by rings, after which the socket is looked at: what takes 0.6 us


class PlainRings(Rings[Pending]):
    """Of a guest that looks at them each time that something has come."""

    def __init__(self, client: Any, spin: Spin | None) -> None:
        """*spin* says when to look again."""
        super().__init__(client)
        self._spin, self._turns = spin, 0
        self.tells: list[int] = []  # eventfds by which the host says that there are answers

    def add(self, ring: Ring[Pending]) -> None:
        """See `Rings`."""
        super().add(ring)
        if ring.tell >= 0:
            self.tells = [*self.tells, ring.tell]

    def gone(self, ring: Ring[Pending]) -> None:
        """See `Rings`."""
        self.tells = [fd for fd in self.tells if fd != ring.tell]
        super().gone(ring)

    def look(self) -> bool:
        """See `Rings`."""
        spin = self._spin
        busy = [each for each in self.all if each.busy] if spin is not None else []
        if spin is None or not busy or not spin.came():
            return False
        while True:
            for each in busy:
                if each.has_come:
                    return True
            if not spin.again():
                return False

    def is_often(self) -> bool:
        """Something has come by a ring: whether the socket need not be looked at now, as it was of late."""
        self._turns = (self._turns + 1) % _TURNS
        return self._turns != 0

    @staticmethod
    def is_kicked(ring: Ring[Pending]) -> bool:
        """See `Rings`: until its KICK is answered."""
        return ring.kicked is not None and ring.kicked.status < 0


class Waiting:
    """A part of `BlockingGuest`."""

    time: BlockingClock
    rings: Rings[Pending]
    _lost: LinkLost | None
    pump: Callable[[], bool]
    push: Callable[[], None]
    _enter: Callable[[], None]
    _end: Callable[[LinkLost], LinkLost]
    _at: int
    call: Callable[..., Any]

    def wait(self, timeout: float | None = None) -> bool:
        """Until something comes from the host, an interrupt say, at most *timeout* seconds; whether it did."""
        over: list[bool] = []
        timer = None if timeout is None else self.time.call_later(max(timeout, 0.0), lambda: over.append(True))
        try:
            while not self.pump():
                if over:
                    return False
            return True
        finally:
            if timer is not None:
                timer.cancel()

    def within(self, seconds: float, done: Callable[[], bool]) -> bool:
        """Wait until *done*, at most *seconds*; whether it is."""
        over: list[bool] = []
        timer = self.time.call_later(max(seconds, 0.0), lambda: over.append(True))
        try:
            while not done():
                if over:
                    return False
                self.pump()
            return True
        finally:
            timer.cancel()

    # Rings.

    def ring_call(
        self, ring: Ring[Pending], number: int, args: Args = (), areas: Areas = (), pending: Pending | None = None
    ) -> Pending:
        """See `carriers.rings.Client`."""
        if self._at:
            self._enter()
        if self._lost is not None:
            raise self._lost
        if pending is None:
            pending = Pending(self)  # type: ignore[arg-type]
        if ring.over:
            return self.call(ring.device, number, args, areas, pending)  # type: ignore[no-any-return]
        ring.call(number, args, areas, pending)
        return pending

    def ring_linger(self, ring: Ring[Pending], number: int, args: Args = (), areas: Areas = ()) -> Pending | None:
        """See `carriers.rings.Client`."""
        if not ring.may_linger:
            return None
        return self.ring_call(ring, number, args, areas, Lingering(self))  # type: ignore[arg-type]

    def ring_push(self) -> None:
        """See `carriers.rings.Client`."""
        self.rings.flush()
        self.push()

    def remake(self, handle: int, number: int, args: Args, areas: Areas, waiter: Pending) -> None:
        """See `carriers.rings.Client`."""
        self.call(handle, number, args, areas, waiter)

    def rung(self) -> bool:
        """Send and take by the rings; whether anything was answered there.  Raises LinkLost."""
        try:
            answers = self.rings.turn()
        except ProtocolViolation as violation:
            raise self._end(LinkLost(f"the host broke the protocol: {violation}")) from None
        give(answers)
        return bool(answers)
