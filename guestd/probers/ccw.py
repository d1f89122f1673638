"""Probing as on s390: look at each subchannel of each set, and have the device there say what it is (SENSE ID).

After Linux's drivers/s390/cio; it sends nothing but STSCH, and a channel program of one step.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from hcall import numbers
from hcall.errors import IoError
from hcall.formats import ccw
from hcall.formats.ccw import Ccw, Identity, Status, Subchannel

from ..memory import Buffer
from .found import Found, Reach

_DATA: Final = 64  # where in its buffer a device answers; the program is at the start
_TESTS: Final = 1000  # of one program, which is over long before that
_AGAIN: Final = 16  # programs at a subchannel that is busy, or has another device, each time


async def probe(core: Reach) -> AsyncIterator[Found]:
    """All devices, in the order of their subchannels.  A name is the bus's own, and so is the path."""
    channel = _Channel(core, core.ram.alloc(_DATA + ccw.SENSE_ID_BYTES))
    try:
        for number_of_set in range(ccw.SETS):
            for number in range(ccw.NUMBERS):
                word = ccw.subchannel(number_of_set, number)
                code, data = await core(0, numbers.STSCH, word)
                if code != ccw.DONE:  # the set ends here
                    break
                device = _subchannel(data).device
                if device is not None and (identity := await channel.identity(word)) is not None and identity.node:
                    name = ccw.name(number_of_set, device)
                    yield Found(identity.node, f"/{name}", name, (), (identity.control_unit[0], identity.device[0]))
    finally:
        channel.close()


class _Channel:
    """Runs programs in a buffer, one at a time."""

    def __init__(self, core: Reach, buffer: Buffer) -> None:
        self._core, self._buffer = core, buffer
        self._is_at_work = False

    def close(self) -> None:
        """Give the buffer back, unless a program that nobody waits for any more may still touch it."""
        if not self._is_at_work:
            self._buffer.free()

    async def identity(self, word: int) -> Identity | None:
        """What the device at a subchannel says of itself; None: it is gone, or says nothing."""
        address, view = self._buffer.address, self._buffer.view
        view[: ccw.CCW_BYTES] = Ccw(ccw.SENSE_ID, ccw.SLI, ccw.SENSE_ID_BYTES, address + _DATA).encode()
        for _ in range(_AGAIN):
            self._is_at_work = True
            code = await self._core(0, numbers.SSCH, word, 0, address)
            if code == ccw.NOT_OPERATIONAL:
                break
            status = await self._tested(word)  # of what was under way, if this one was not begun
            if code == ccw.DONE and status is not None and status.device == ccw.CHANNEL_END | ccw.DEVICE_END:
                self._is_at_work = False
                try:
                    return Identity.decode(bytes(view[_DATA : _DATA + ccw.SENSE_ID_BYTES - status.residual]))
                except ValueError:  # nor does cio take it for one
                    return None
        self._is_at_work = False
        return None

    async def _tested(self, word: int) -> Status | None:
        """The status of the program there, when it is over; None: there is no device any more."""
        for _ in range(_TESTS):
            code, data = await self._core(0, numbers.TSCH, word)
            if code == ccw.NOT_OPERATIONAL:
                return None
            if code == ccw.DONE:
                try:
                    return Status.decode(data)
                except ValueError as error:
                    raise IoError(f"the host's answer is no status: {error}") from None
        raise IoError("the host does not end a program of one step")


def _subchannel(data: bytes) -> Subchannel:
    try:
        return Subchannel.decode(data)
    except ValueError as error:
        raise IoError(f"the host's answer is no subchannel: {error}") from None
