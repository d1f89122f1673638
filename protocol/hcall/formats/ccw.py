"""Channel programs and what is known of subchannels, as Linux has them for s390; all numbers are big-endian.

After drivers/s390/cio and its headers schib.h, scsw.h and ccwdev.h: CCWs of format 1, status of command mode.  This
project's own is how the handle of a node stands in the command information words of SENSE ID, 16 bits in each.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

SETS: Final = 4
NUMBERS: Final = 1 << 16  # of subchannels in a set

# Condition codes.
DONE, PENDING, BUSY, NOT_OPERATIONAL = range(4)
NOT_PENDING: Final = 1  # of TSCH

# Commands.
NOOP, BASIC_SENSE, TIC, SENSE_ID = 0x03, 0x04, 0x08, 0xE4
# Flags of a CCW.
DATA_CHAIN, COMMAND_CHAIN, SLI, SKIP, PCI, IDA, SUSPEND = 0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02
# Device status.
ATTENTION, STATUS_MODIFIER, CONTROL_UNIT_END, DEVICE_BUSY = 0x80, 0x40, 0x20, 0x10
CHANNEL_END, DEVICE_END, UNIT_CHECK, UNIT_EXCEPTION = 0x08, 0x04, 0x02, 0x01
# Subchannel status.
PROGRAM_CONTROLLED, INCORRECT_LENGTH, PROGRAM_CHECK, PROTECTION_CHECK = 0x80, 0x40, 0x20, 0x10
# Sense, the first byte.
COMMAND_REJECT, INTERVENTION_REQUIRED, EQUIPMENT_CHECK, DATA_CHECK = 0x80, 0x40, 0x10, 0x08
SENSE_BYTES: Final = 32

# The control word of a status.
FORMAT_1: Final = 1 << 23
START: Final = 1 << 14  # what was asked for
ACTIVE: Final = 3 << 6  # subchannel and device are
ALERT, PRIMARY, SECONDARY, STATUS_PENDING = 1 << 4, 1 << 2, 1 << 1, 1

_CCW: Final = struct.Struct(">BBHI")
_SCSW: Final = struct.Struct(">IIBBH")
_PMCW: Final = struct.Struct(">IHHBBBBHBB8sI")
_SENSE_ID: Final = struct.Struct(">BHBHBx")
_ENABLED, _VALID = 0x0080, 0x0001  # of the flags of a PMCW
_PATH: Final = 0x80  # the first of eight: the one that there is
_OWN: Final = 0x48  # the first byte of the first word of a node: valid, and of type 8; the others' are types 9, 10, 11
WORDS: Final = 8
_WORD: Final = struct.Struct(">BBH")
CCW_BYTES: Final = _CCW.size
STATUS_BYTES: Final = _SCSW.size
SCHIB_BYTES: Final = _PMCW.size + _SCSW.size + 12
SENSE_ID_BYTES: Final = _SENSE_ID.size + WORDS * _WORD.size


class Ccw(NamedTuple):
    """One step of a channel program."""

    command: int
    flags: int = 0
    size: int = 0  # of the data, in bytes: its count
    address: int = 0  # of the data; of TIC, where the program goes on

    def encode(self) -> bytes:
        """8 bytes."""
        return _CCW.pack(*self)

    @classmethod
    def decode(cls, data: bytes) -> Ccw:
        """*data* is 8 bytes."""
        return cls._make(_CCW.unpack(data))


class Status(NamedTuple):
    """What a program came to: the SCSW."""

    control: int = 0
    program: int = 0  # address behind the CCW that was the last
    device: int = 0
    subchannel: int = 0
    residual: int = 0  # bytes that the last CCW had room for, and did not fill

    @property
    def is_pending(self) -> bool:
        """Whether it is there to be tested."""
        return bool(self.control & STATUS_PENDING)

    def encode(self) -> bytes:
        """12 bytes."""
        return _SCSW.pack(*self)

    @classmethod
    def decode(cls, data: bytes) -> Status:
        """Raises ValueError."""
        if len(data) != _SCSW.size:
            raise ValueError(f"a status is {_SCSW.size} bytes, not {len(data)}")
        return cls._make(_SCSW.unpack(data))


class Subchannel(NamedTuple):
    """What STSCH tells of a subchannel: the SCHIB."""

    device: int | None = None  # its number; None: there is none
    parameter: int = 0  # of the program that was started last
    status: Status = Status()

    def encode(self) -> bytes:
        """52 bytes."""
        flags, path = (_ENABLED | _VALID, _PATH) if self.device is not None else (0, 0)
        pmcw = _PMCW.pack(self.parameter, flags, self.device or 0, path, 0, 0, path, 0, 0xFF, path, bytes(8), 0)
        return pmcw + self.status.encode() + bytes(SCHIB_BYTES - len(pmcw) - STATUS_BYTES)

    @classmethod
    def decode(cls, data: bytes) -> Subchannel:
        """Raises ValueError."""
        if len(data) != SCHIB_BYTES:
            raise ValueError(f"what is known of a subchannel is {SCHIB_BYTES} bytes, not {len(data)}")
        parameter, flags, device, *_ = _PMCW.unpack_from(data)
        status = Status.decode(data[_PMCW.size : _PMCW.size + STATUS_BYTES])
        return cls(device if flags & _VALID else None, parameter, status)


class Identity(NamedTuple):
    """The answer to SENSE ID."""

    control_unit: tuple[int, int]  # type, model
    device: tuple[int, int]  # the same
    words: Sequence[bytes] = ()  # command information words of 4 bytes, 8 at most

    def encode(self) -> bytes:
        """8 bytes, and 4 for each word."""
        return _SENSE_ID.pack(0xFF, *self.control_unit, *self.device) + b"".join(self.words)

    @classmethod
    def decode(cls, data: bytes) -> Identity:
        """Of as much as came.  Raises ValueError if that is no identity: cio takes it for none either."""
        if len(data) < _SENSE_ID.size - 1:
            raise ValueError(f"{len(data)} bytes are no identity")
        first, control, control_model, device, model = _SENSE_ID.unpack_from(data.ljust(_SENSE_ID.size, b"\0"))
        if first != 0xFF or control == 0xFFFF:
            raise ValueError("the device says nothing of itself")
        words = [data[at : at + 4] for at in range(_SENSE_ID.size, len(data) - 3, 4)]
        return cls((control, control_model), (device, model), tuple(words[:WORDS]))

    @property
    def node(self) -> int:
        """The handle in its words; 0: there is none."""
        node = 0
        for at in range(4):
            if at >= len(self.words):
                return 0
            kind, command, part = _WORD.unpack(self.words[at])
            if (kind, command) != (_OWN + at, 0):
                return 0
            node = node << 16 | part
        return node


def words(node: int) -> tuple[bytes, ...]:
    """The handle of a node as four words, its highest bits first."""
    return tuple(_WORD.pack(_OWN + at, 0, node >> 48 - 16 * at & 0xFFFF) for at in range(4))


def subchannel(number_of_set: int, number: int) -> int:
    """The subsystem-identification word, by which calls name a subchannel."""
    return number_of_set << 17 | 1 << 16 | number


def place(word: int) -> tuple[int, int]:
    """The set, and the number there.  Raises ValueError for a word that is none."""
    if word >> 19 or not word >> 16 & 1:
        raise ValueError(f"{word:#x} is no subchannel: that is set << 17 | 0x10000 | number")
    return word >> 17, word & 0xFFFF


def tag(word: int, parameter: int) -> int:
    """Of its interrupt: the I/O interruption code."""
    return word << 32 | parameter


def name(number_of_set: int, device: int) -> str:
    """As Linux shows a device: `0.1.002a`."""
    return f"0.{number_of_set:x}.{device:04x}"
