"""A stream by itself, and a guest of it without a wire."""

from __future__ import annotations

from typing import Any

from raw import memory_of, plugged

from hcall.clock import ManualClock
from hcall.formats.vuart import Param
from hostd.calls.vectors import Vectors
from hostd.model.areas import InlineRoom
from hostd.model.later import Later
from hostd.stream import Stream

SIZE = 65536  # of each buffer, as the protocol's parameters 3 and 5 say
TX, RX, DISCONNECT = 1, 2, 4
VECTORS = ("rx_ready", "tx_ready", "disconnected")


class Pipe(Stream):
    """Takes as many bytes of the guest as `takes` says."""

    compatible = "test,pipe"

    def start(self) -> None:
        super().start()
        self.taken = b""
        self.takes = 0
        self.asked = 0

    def written(self, data: bytes) -> int:
        part = data[: self.takes]
        self.takes -= len(part)
        self.taken += part
        return len(part)

    def drained(self) -> None:
        self.asked += 1


class Answer:
    """What a call that waits is answered with, and when."""

    def __init__(self, outcome: int | Later[int], room: InlineRoom | None = None) -> None:
        self.outcome: Any = None
        self.later, self._room = outcome, room
        if isinstance(outcome, Later):
            outcome.then(self._settle)
        else:
            self._settle(outcome)

    def _settle(self, outcome: object) -> None:
        is_count = self._room is not None and not isinstance(outcome, Exception)
        self.outcome = self._room.filled(outcome) if is_count and self._room is not None else outcome


class Guest:
    """Calls a Pipe, and counts its interrupts."""

    def __init__(self, model: type[Pipe] = Pipe) -> None:
        self.pipe = model()
        self.clock = ManualClock()
        self.site = plugged(self.pipe, clock=self.clock)
        self.pipe.start()
        self.vectors = Vectors(lambda vector, count: None)
        self.site.live[self.vectors] = None
        self.pipe.ready()
        self.before = dict.fromkeys(VECTORS, 0)
        self.before = self.counts  # that there is room was told by DRIVER_OK

    def read(self, count: int) -> bytes:
        room = InlineRoom(count)
        return room.filled(self.pipe.read(room, 0))

    def write(self, data: bytes) -> int:
        return self.pipe.write(memory_of().data((data,)), 0)

    def waits_for(self, count: int) -> Answer:
        """A read that waits, with so much room."""
        room = InlineRoom(count)
        return Answer(self.pipe.wait_read(room), room)

    def waits_with(self, data: bytes) -> Answer:
        """A write that does."""
        return Answer(self.pipe.wait_write(memory_of().data((data,))))

    def get(self, param: Param) -> int:
        return self.pipe.get_param(param)

    def set(self, param: Param, value: int) -> None:
        self.pipe.set_param(param, value)

    @property
    def counts(self) -> dict[str, int]:
        """How often each interrupt came since the guest is there."""
        return {name: self.vectors.count(self.pipe.declares.irqs.index(name)) - self.before[name] for name in VECTORS}
