"""The rings of one guest: set up by calls of the core, and gone with what they are of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from hcall.errors import Busy, NotAllowed
from hcall.formats.lanes import ring

from ...calls.account import Account
from ...calls.hold import Hold
from ...model.later import Later
from .lane import RingLane, Rung
from .queue import Queue

_MOST: Final = 64  # of one guest


class Rings:
    """Those of one guest, by handle."""

    def __init__(self, guest: Rung, account: Account, time: Callable[[], float]) -> None:
        self._guest, self._account, self._time = guest, account, time
        self._rings: dict[int, RingLane] = {}

    def add(
        self, hold: Hold, size: int, addresses: tuple[int, int, int], features: int, kick: int, tell: int
    ) -> int | Later[int]:
        """See `calls.account.Rings`."""
        if len(self._rings) >= _MOST:
            raise Busy(f"a guest has at most {_MOST} rings")
        if kick or tell:
            raise NotAllowed("eventfds are not taken yet: 0")
        queue = Queue(self._account.memory, size, addresses, bool(features & ring.EVENT_IDX))
        handle = self._account.tree.handles.new()
        lane = RingLane(handle, hold.handle, self._guest, queue, self._time, partial(self._tell, handle))
        self._rings[handle] = lane
        hold.rings = {**hold.rings, handle: partial(self._end, handle)}
        return handle

    def find(self, handle: int) -> RingLane:
        """See `calls.account.Rings`."""
        lane = self._rings.get(handle)
        if lane is None:
            raise self._account.tree.handles.missing(handle)
        return lane

    def remove(self, handle: int, then: Callable[[], None]) -> None:
        """See `calls.account.Rings`."""
        lane = self.find(handle)

        def stopped() -> None:
            self._end(handle)
            then()

        lane.stop(stopped)

    def stop(self, then: Callable[[], None]) -> None:
        """All of them take nothing more; *then* follows when all that was taken is answered."""
        left = [*self._rings.values()]
        if not left:
            then()
            return
        waiting = len(left)

        def stopped() -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                then()

        for each in left:
            each.stop(stopped)

    def _end(self, handle: int) -> None:
        lane = self._rings.pop(handle, None)
        if lane is not None:
            lane.finish()
            self._account.watched.pop(handle, None)
            hold = self._account.holds.get(lane.hold)
            if hold is not None:
                hold.rings = {other: end for other, end in hold.rings.items() if other != handle}

    def _tell(self, handle: int) -> None:
        self._account.watch(handle).fire(0)
