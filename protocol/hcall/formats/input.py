"""Events of keyboards and mice, as Linux's evdev has them: `struct input_event` of a 64-bit system.

linux/input.h: seconds and microseconds (64 bits each), type, code (16 bits each) and value (32 bits, signed), 24 bytes
in the machine's byte order.  Events of one moment are a packet, which SYN_REPORT ends
(Linux Documentation/input/event-codes.rst).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

# linux/input-event-codes.h: types, and some codes; the names of keys are in keycodes.py.
EV_SYN, EV_KEY, EV_REL, EV_MSC, EV_LED = 0x00, 0x01, 0x02, 0x04, 0x11
EV_CNT: Final = 0x20
SYN_REPORT, SYN_DROPPED = 0, 3
MSC_SCAN: Final = 4
BUS_VIRTUAL: Final = 6  # linux/input.h
UP, DOWN, REPEATED = 0, 1, 2  # values of a key
INT32: Final = 1 << 31  # a value is -INT32 to INT32 - 1

RECORD: Final = struct.Struct("=qqHHi")
MAX_EVENTS: Final = 64  # of a packet; one that goes on is cut there, as the kernel's input core does
MAX_PACKET: Final = (MAX_EVENTS + 1) * RECORD.size  # bytes, with its SYN_REPORT
_SECOND: Final = 1_000_000


class Event(NamedTuple):
    """One change."""

    type: int
    code: int
    value: int


DROPPED: Final = Event(EV_SYN, SYN_DROPPED, 0)


def press(down: set[int], event: Event) -> None:
    """Apply *event* to the keys that are *down*."""
    if event.type == EV_KEY and event.value != REPEATED:
        (down.add if event.value else down.discard)(event.code)


class Packet(NamedTuple):
    """What happened at one moment, without the SYN_REPORT at its end."""

    at: int  # microseconds
    events: tuple[Event, ...]

    @property
    def dropped(self) -> bool:
        """Whether packets were lost here: ask for the state of the keys."""
        return DROPPED in self.events

    def encode(self) -> bytes:
        """Its records.  Raises ValueError for numbers that they have no room for."""
        seconds, microseconds = divmod(self.at, _SECOND)
        try:
            records = [RECORD.pack(seconds, microseconds, *event) for event in self.events]
            return b"".join([*records, RECORD.pack(seconds, microseconds, EV_SYN, SYN_REPORT, 0)])
        except struct.error as error:
            raise ValueError(f"no event of evdev: {error}") from None


@dataclass
class Packets:
    """Makes packets of a stream of records, however it was cut."""

    _rest: bytes = b""  # of a record
    _events: list[Event] = field(default_factory=list)
    _dropping: bool = False

    def feed(self, data: bytes) -> list[Packet]:
        """The packets that *data* completes.

        SYN_DROPPED takes along what came before it in its packet, and all up to the next SYN_REPORT.
        """
        data = self._rest + data
        whole = len(data) - len(data) % RECORD.size
        self._rest = data[whole:]
        packets: list[Packet] = []
        for seconds, microseconds, *numbers in RECORD.iter_unpack(data[:whole]):
            event = Event(*numbers)
            at = seconds * _SECOND + microseconds
            if event[:2] == (EV_SYN, SYN_DROPPED):
                self._dropping = True
                self._events = [DROPPED]
            elif event[:2] == (EV_SYN, SYN_REPORT):
                self._finish(at, packets)
                self._dropping = False
            elif not self._dropping:
                self._events.append(event)
                if len(self._events) == MAX_EVENTS:
                    self._finish(at, packets)
        return packets

    def _finish(self, at: int, packets: list[Packet]) -> None:
        if self._events:  # as the kernel does: nothing happened
            packets.append(Packet(at, tuple(self._events)))
            self._events = []


def bitmap(codes: Iterable[int]) -> bytes:
    """*codes* as EVIOCGBIT and virtio-input have them: bit n of byte m is 8 m + n; no longer than needed."""
    bits = sum(1 << code for code in set(codes))
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


def codes_of(bits: bytes) -> frozenset[int]:
    """The codes of a bitmap."""
    number = int.from_bytes(bits, "little")
    return frozenset(code for code in range(number.bit_length()) if number >> code & 1)
