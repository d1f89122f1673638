"""What an input device has for its guest: evdev packets that were not read yet, and the keys that are down."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from hcall.errors import BadArgument, WouldBlock
from hcall.formats.input import DROPPED, EV_KEY, EV_MSC, EV_REL, INT32, REPEATED, Event, Packet, press

QUEUE: Final = 4096  # events, each SYN_REPORT counted
_AT_ONCE: Final = 128  # packets that are taken: 0.7 ms


@dataclass
class EventQueue:
    """What the guest has not read yet, and the keys that are down: as of now, and as the guest knows them.

    Motion is added up while nothing else has come since.  A queue that is full is emptied, and says so with
    SYN_DROPPED, as the kernel's does (drivers/input/evdev.c): then the guest knows no key, and asks.
    """

    known: set[int] = field(default_factory=set)  # keys that are down after what the guest has read
    _down: set[int] = field(default_factory=set)  # after all that came
    _packets: deque[Packet] = field(default_factory=deque)
    _events: int = 0
    _lost: tuple[int, frozenset[int]] | None = None  # since when, and what was down then

    @property
    def room(self) -> int:
        """How many events it takes."""
        return QUEUE - self._events

    def put(self, packet: Packet, merge: bool = True) -> bool:
        """Queue what is news of *packet*; whether there was any."""
        if packet.dropped:
            self._overflow(packet.at)
            return True
        events = tuple(event for event in packet.events if self._is_news(event))
        if all(event.type == EV_MSC for event in events):  # a scan code belongs to a key
            return False
        packet = Packet(packet.at, events)
        if merge and self._packets and (sums := _added(self._packets[-1], packet)) is not None:
            self._events -= len(self._packets.pop().events) + 1
            packet = sums
        if self.room <= len(packet.events):
            self._overflow(packet.at)
        elif packet.events:
            self._packets.append(packet)
            self._events += len(packet.events) + 1
        return True

    def take(self, room: int) -> bytes:
        """Whole packets, up to *room* bytes.  Errors: WouldBlock, BadArgument if there is no room for one."""
        if self._lost is not None:  # alone, so that `known` is the state right after it
            at, down = self._lost
            data = self._fitting(Packet(at, (DROPPED,)), room)
            self._lost, self.known = None, set(down)
            return data
        if not self._packets:
            raise WouldBlock("nothing has happened: wait for rx_ready")
        taken = self._fitting(self._packets[0], room)
        pieces: list[bytes] = []
        while taken and len(taken) <= room and len(pieces) < _AT_ONCE:
            pieces.append(taken)
            room -= len(taken)
            packet = self._packets.popleft()
            self._events -= len(packet.events) + 1
            for event in packet.events:
                press(self.known, event)
            taken = self._packets[0].encode() if self._packets else b""
        return b"".join(pieces)

    def _is_news(self, event: Event) -> bool:
        """As in input_get_disposition, drivers/input/input.c: what changes nothing is no event."""
        if event.type == EV_KEY:
            down = event.code in self._down
            press(self._down, event)
            return down if event.value == REPEATED else down != bool(event.value)
        return event.type != EV_REL or event.value != 0

    def _overflow(self, at: int) -> None:
        self._packets.clear()
        self._events = 0
        self._lost = (at, frozenset(self._down))

    def _fitting(self, packet: Packet, room: int) -> bytes:
        data = packet.encode()
        if len(data) > room:
            raise BadArgument(f"the next packet has {len(data)} bytes, and there is room for {room}")
        return data


def _added(one: Packet, other: Packet) -> Packet | None:
    """Both as one, if they are motion and nothing else, and the sums are no more than 32 bits."""
    sums: dict[int, int] = {}
    for event in one.events + other.events:
        if event.type != EV_REL:
            return None
        sums[event.code] = sums.get(event.code, 0) + event.value
    if any(not -INT32 <= value < INT32 for value in sums.values()):
        return None
    return Packet(other.at, tuple(Event(EV_REL, code, value) for code, value in sums.items() if value))
