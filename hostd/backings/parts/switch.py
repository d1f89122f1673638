"""A learning switch: which of its ports a frame goes to.  It knows no device, no descriptor and no loop.

After IEEE 802.1Q, 8.6 to 8.8, without VLANs and spanning tree.  What a port cannot take is dropped there, as in any
switch: no port holds up another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from hcall.clock import Clock
from hcall.formats.frames import Run

AGE_SECONDS: Final = 300.0  # 802.1Q, table 8-6: the recommended ageing time
MAX_ADDRESSES: Final = 256  # of one port: a guest that makes up addresses forgets its own, not those of others
_LINK_LOCAL: Final = bytes.fromhex("0180c20000")  # 802.1Q, table 8-1: for the neighbour only, with a digit below 16


class Port:
    """One plug of a switch; it gets no frames unless it is *up*."""

    __slots__ = ("_up", "deliver", "seen", "switch")

    def __init__(self, switch: Switch, deliver: Callable[[bytes, int], None]) -> None:
        """*deliver*(batch, count) takes frames, or drops them."""
        self.switch, self.deliver = switch, deliver
        self.seen: dict[bytes, float] = {}  # the addresses behind it, and when; the oldest is the first
        self._up = False

    @property
    def up(self) -> bool:
        """Whether there is somebody at the other end of the cable."""
        return self._up

    @up.setter
    def up(self, up: bool) -> None:
        self._up = up
        if not up:
            self.switch.forget(self)

    def send(self, batch: bytes, runs: Sequence[Run]) -> Iterator[None]:
        """Frames come in by this port; it yields after each delivery, and is to be worked through."""
        return self.switch.forward(self, batch, runs)

    def leave(self) -> None:
        """Pull it out of the switch."""
        self.up = False
        self.switch.ports.remove(self)


class Switch:
    """Ports, and behind which of them an address was seen last."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.ports: list[Port] = []
        self._behind: dict[bytes, Port] = {}

    def join(self, deliver: Callable[[bytes, int], None]) -> Port:
        """A new port, which is down."""
        port = Port(self, deliver)
        self.ports.append(port)
        return port

    def forward(self, port: Port, batch: bytes, runs: Sequence[Run]) -> Iterator[None]:
        """Give the frames of *runs*, which came in by *port*, to the ports that they are for; see `Port.send`."""
        now = self._clock.time()
        for destination, source, start, end, count in runs:
            if not port.up:  # perhaps since the last yield
                return
            self._learn(source, port, now)
            frames = batch[start:end]  # all of it is the batch itself, not a copy; less must not keep all of it
            if destination[0] & 1:
                if destination[:5] != _LINK_LOCAL or destination[5] >= 16:
                    yield from self._flood(port, frames, count)
            elif (behind := self._find(destination, now)) is None:
                yield from self._flood(port, frames, count)
            elif behind is not port:
                behind.deliver(frames, count)
                yield

    def forget(self, port: Port) -> None:
        """All addresses behind *port*."""
        for address in port.seen:
            del self._behind[address]
        port.seen.clear()

    def _flood(self, port: Port, frames: bytes, count: int) -> Iterator[None]:
        for other in tuple(self.ports):  # they may come and go meanwhile
            if other is not port and other.up:
                other.deliver(frames, count)
                yield

    def _learn(self, address: bytes, port: Port, now: float) -> None:
        if address[0] & 1:
            return  # a group sends nothing
        before = self._behind.get(address)
        if before is not None:
            del before.seen[address]
        elif len(port.seen) >= MAX_ADDRESSES:
            self._drop(next(iter(port.seen)), port)
        port.seen[address] = now
        self._behind[address] = port

    def _find(self, address: bytes, now: float) -> Port | None:
        port = self._behind.get(address)
        if port is not None and now - port.seen[address] > AGE_SECONDS:
            self._drop(address, port)
            return None
        return port

    def _drop(self, address: bytes, port: Port) -> None:
        del self._behind[address], port.seen[address]
