"""A channel program, step by step: each CCW is fetched once, and its data is moved at once.

After the z/Architecture Principles of Operation, chapter 15, as far as the steps are here: command chaining, not of
data.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from hcall.errors import BadArea
from hcall.formats import ccw
from hcall.formats.ccw import Ccw, Status

from ..memory import TO_DEVICE, TO_GUEST, Memory

MOST: Final = 256  # CCWs of a program
_UNKNOWN: Final = ccw.DATA_CHAIN | ccw.IDA | ccw.SUSPEND
_ENDED: Final = ccw.FORMAT_1 | ccw.START | ccw.PRIMARY | ccw.SECONDARY | ccw.STATUS_PENDING
_NORMAL: Final = ccw.CHANNEL_END | ccw.DEVICE_END
ACTIVE: Final = Status(ccw.FORMAT_1 | ccw.START | ccw.ACTIVE)
LOST: Final = Status(_ENDED | ccw.ALERT, 0, _NORMAL | ccw.UNIT_CHECK)  # the host was replaced meanwhile
CALLING: Final = Status(ccw.FORMAT_1 | ccw.ALERT | ccw.STATUS_PENDING, 0, ccw.ATTENTION)  # unsolicited


class Unit:
    """The device at the end of a channel, for a program."""

    __slots__ = ("_identity", "sense")

    def __init__(self, identity: bytes, sense: int = 0) -> None:
        """*identity* answers SENSE ID, *sense* is the first byte of what BASIC SENSE tells, until the next command."""
        self._identity, self.sense = identity, sense

    def execute(self, command: int) -> bytes | None:
        """What the *command* gives; None: there is no such command, which BASIC SENSE will say."""
        sense, self.sense = self.sense, 0
        if command == ccw.NOOP:
            return b""
        if command == ccw.SENSE_ID:
            return self._identity
        if command == ccw.BASIC_SENSE:
            return bytes([sense]).ljust(ccw.SENSE_BYTES, b"\0")
        self.sense = ccw.COMMAND_REJECT
        return None


class _Wrong(Exception):
    """The program has a step that is none."""


def run(memory: Memory, unit: Unit, program: int) -> Generator[None, None, Status]:
    """Run the *program* at that address; what it came to.  A step for each CCW."""
    at, is_jump, seen = program, True, 0  # nor may it begin with one
    found = residual = 0
    while True:
        try:
            step = _fetch(memory, at)
            at += ccw.CCW_BYTES
            seen += 1
            if seen > MOST or step.flags & _UNKNOWN or not step.command & 0xF:
                raise _Wrong
            if step.command & 0xF == ccw.TIC:
                if is_jump or step != (ccw.TIC, 0, 0, step.address):
                    raise _Wrong
                at, is_jump = step.address, True
                yield
                continue
            is_jump = False
            data = unit.execute(step.command)
            if data is None:
                return _alert(at, _NORMAL | ccw.UNIT_CHECK, found, step.size)
            moved = min(step.size, len(data))
            if not step.flags & ccw.SKIP:
                _store(memory, step.address, data[:moved])
        except (_Wrong, BadArea):
            return _alert(at, 0, found | ccw.PROGRAM_CHECK, 0)
        residual = step.size - moved
        if step.flags & ccw.PCI:
            found |= ccw.PROGRAM_CONTROLLED
        if step.size != len(data) and not step.flags & ccw.SLI:
            return _alert(at, _NORMAL, found | ccw.INCORRECT_LENGTH, residual)
        if not step.flags & ccw.COMMAND_CHAIN:
            return Status(_ENDED, at, _NORMAL, found, residual)
        yield


def _alert(at: int, device: int, subchannel: int, residual: int) -> Status:
    return Status(_ENDED | ccw.ALERT, at & 0xFFFF_FFFF, device, subchannel, residual)


def _fetch(memory: Memory, at: int) -> Ccw:
    """A copy of the CCW there.  Raises BadArea, also for one that is not at a doubleword of the first 4 GiB."""
    if at % ccw.CCW_BYTES or at >> 32:
        raise BadArea(f"no CCW can be at {at:#x}")
    area = memory.data(((at, ccw.CCW_BYTES, TO_DEVICE),))
    step = Ccw.decode(area.get())
    area.release()  # type: ignore[attr-defined]
    return step


def _store(memory: Memory, at: int, data: bytes) -> None:
    """Raises BadArea."""
    if data:
        area = memory.room(((at, len(data), TO_GUEST),))
        area.put(data)
        area.release()  # type: ignore[attr-defined]
