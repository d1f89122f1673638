"""The rings of one guest: set up by calls of the core, and gone with what they are of."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import Final

from hcall.errors import BadArea, BadArgument, Busy, HcallError, NotAllowed
from hcall.formats.lanes import ring
from hcall.kernel.eventfds import Teller, drain, is_eventfd

from ...calls.account import Account
from ...calls.hold import Hold
from ...calls.shares import DESCRIPTORS
from ...model.later import Later
from .lane import RingLane, Rung
from .queue import Queue

_MOST: Final = 64  # of one guest


def as_eventfd(fd: int) -> int | BadArea:
    """*fd*, if it is an eventfd that can be read without waiting.  For a thread."""
    if not is_eventfd(fd):
        return BadArea("this descriptor is no eventfd")
    return fd


class Rings:
    """Those of one guest, by handle."""

    def __init__(self, guest: Rung, account: Account, time: Callable[[], float]) -> None:
        self._guest, self._account, self._time = guest, account, time
        self._rings: dict[int, RingLane] = {}
        self._fds: dict[int, tuple[int, int]] = {}  # to be read for a kick, and written to when there are answers
        self._teller: Teller | None = None  # as long as there are some to be written to
        self._buffer = bytearray(8)

    def add(
        self, hold: Hold, size: int, addresses: tuple[int, int, int], features: int, kick: int, tell: int
    ) -> int | Later[int]:
        """See `calls.account.Rings`."""
        if len(self._rings) >= _MOST:
            raise Busy(f"a guest has at most {_MOST} rings")
        queue = Queue(self._account.memory, size, addresses, bool(features & ring.EVENT_IDX))
        numbers = [number for number in (kick, tell) if number]
        if not numbers:
            return self._put(hold, queue, -1, -1)
        later: Later[int] = Later()
        fds: list[int] = []

        def taken(fd: int | BadArea | BadArgument) -> None:
            try:
                if not isinstance(fd, int):
                    raise fd
                fds.append(fd)
                if len(fds) < len(numbers):
                    self._guest.eventfd(numbers[len(fds)], taken)
                    return
                self._account.hold(hold.handle)  # it may be closed meanwhile
                handle = self._put(hold, queue, fds[0] if kick else -1, fds[-1] if tell else -1)
            except HcallError as error:
                for each in fds:
                    os.close(each)
                queue.close()
                later.fail(error)
            else:
                later.done(handle)

        self._guest.eventfd(numbers[0], taken)
        return later

    def _put(self, hold: Hold, queue: Queue, kick: int, tell: int) -> int:
        """Another ring, with its eventfds, or -1.  Raises Busy or NotAllowed."""
        if len(self._rings) >= _MOST:
            raise Busy(f"a guest has at most {_MOST} rings")
        if tell >= 0 and self._teller is None:
            try:
                self._teller = Teller()
            except OSError as error:
                raise NotAllowed(f"this host cannot write to eventfds: {error}") from None
        self._account.owner.purse.take(DESCRIPTORS, (kick >= 0) + (tell >= 0))
        handle = self._account.tree.handles.new()
        say = partial(self._tell, handle) if tell < 0 or self._teller is None else partial(self._teller.tell, tell)
        lane = RingLane(handle, hold.handle, self._guest, queue, self._time, say)
        self._rings[handle], self._fds[handle] = lane, (kick, tell)
        hold.rings = {**hold.rings, handle: partial(self._end, handle)}
        if kick >= 0:
            asyncio.get_running_loop().add_reader(kick, self._kicked, kick, lane)
        return handle

    def _kicked(self, fd: int, lane: RingLane) -> None:
        drain(fd, self._buffer)
        lane.kick()

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
            kick, tell = self._fds.pop(handle)
            if kick >= 0:
                asyncio.get_running_loop().remove_reader(kick)
            fds = [fd for fd in (kick, tell) if fd >= 0]
            for fd in fds:
                os.close(fd)  # which waits for nobody
            self._account.owner.purse.give(DESCRIPTORS, len(fds))
            if self._teller is not None and not any(tell >= 0 for _, tell in self._fds.values()):
                self._teller.close()
                self._teller = None
            self._account.watched.pop(handle, None)
            hold = self._account.holds.get(lane.hold)
            if hold is not None:
                hold.rings = {other: end for other, end in hold.rings.items() if other != handle}

    def _tell(self, handle: int) -> None:
        self._account.watch(handle).fire(0)
