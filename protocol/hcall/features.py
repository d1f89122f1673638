"""The device status byte and feature negotiation, as in virtio 1.2, 2.1, 2.2 and 3.1.1.

Reset, ACKNOWLEDGE, DRIVER, features, FEATURES_OK and look whether it stayed, DRIVER_OK.
"""

from __future__ import annotations

import enum
import itertools
from typing import Final

from .errors import BadArgument, NotAllowed
from .saved import Saved, check


class DeviceStatus(enum.IntFlag):
    """What the driver has told the device; writing 0 resets it."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 64
    FAILED = 128


#: The steps, in the order in which a driver takes them after a reset.
STEPS: Final = (
    DeviceStatus.ACKNOWLEDGE, DeviceStatus.DRIVER, DeviceStatus.FEATURES_OK, DeviceStatus.DRIVER_OK,
)  # fmt: skip
_WRITABLE: Final = int(sum(STEPS) | DeviceStatus.FAILED)  # no IntFlag: ~ of one drops the bits it does not know

# Operators of flags cost 0.7 us each: what every bind goes through is plain numbers.
_TURNS: Final = tuple((int(before), int(step), before, step) for before, step in itertools.pairwise(STEPS))
_DRIVER: Final = int(DeviceStatus.DRIVER)
_FEATURES_OK: Final = int(DeviceStatus.FEATURES_OK)
_DRIVER_OK: Final = int(DeviceStatus.DRIVER_OK)
_NEEDS_RESET: Final = int(DeviceStatus.NEEDS_RESET)
_LIVE: Final = int(DeviceStatus.DRIVER_OK | DeviceStatus.NEEDS_RESET | DeviceStatus.FAILED)  # the first, and no other


class Negotiation:
    """The device's side, of one open handle."""

    __slots__ = ("accepted", "offered", "status")

    def __init__(self, offered: int) -> None:
        self.offered = offered
        self.reset()

    def reset(self) -> None:
        """As after power-on."""
        self.accepted, self.status = 0, 0

    def save(self) -> Saved:
        """What `restore` needs; what the device offers is the device's."""
        return {"version": 1, "accepted": self.accepted, "status": self.status}

    def restore(self, saved: Saved) -> None:
        """Go on where *saved* was taken.  Raises ValueError for what another version saved."""
        check(saved, 1)
        self.accepted, self.status = saved["accepted"], saved["status"]

    @property
    def live(self) -> bool:
        """Whether the driver may use the device."""
        return self.status & _LIVE == _DRIVER_OK

    def break_down(self) -> None:
        """The device cannot go on: the driver has to reset it."""
        self.status |= _NEEDS_RESET

    def accept(self, features: int) -> None:
        """The driver's feature bits.  Raises NotAllowed out of turn, BadArgument if they are no bit set."""
        if not 0 <= features < 1 << 64:
            raise BadArgument("feature bits are 64 bits")
        if not self.status & _DRIVER or self.status & _FEATURES_OK:
            raise NotAllowed("features are set after DRIVER and before FEATURES_OK")
        self.accepted = features

    def write(self, status: int) -> int:
        """Set the status byte to *status*, not 0; the byte as it is then.

        FEATURES_OK stays clear if the driver accepted a bit that was not offered.  Raises BadArgument for a bit that
        does not exist or is cleared, NotAllowed for a step out of turn; nothing is changed then.
        """
        if status & ~_WRITABLE or self.status & ~status & _WRITABLE:
            raise BadArgument(f"status {status:#x} has an unknown bit, or clears one of {self.status:#x}")
        for bit_before, bit, before, step in _TURNS:
            if status & bit and not status & bit_before:
                raise NotAllowed(f"{step.name} comes after {before.name}")
        if status & _FEATURES_OK and self.accepted & ~self.offered:
            if status & _DRIVER_OK:
                raise NotAllowed("a feature was accepted that the device does not offer")
            status &= ~_FEATURES_OK
        self.status = status | (self.status & _NEEDS_RESET)
        return self.status
