"""A device that counts what reaches it, and answers late."""

from __future__ import annotations

from typing import Final

import hostd
from hostd.device import Device, Irq, Later, Room, call
from hostd.machine.file import DeviceSpec


class Probe(Device):
    compatible = "test,probe"
    rung = Irq()

    def start(self) -> None:
        self.count = self.resets = 0
        self.waiting: list[Later[int]] = []

    def reset(self) -> None:
        self.resets += 1

    def read(self, into: Room, at: int) -> int:
        return into.nbytes

    @call
    def bump(self) -> int:
        self.count += 1
        return self.count

    @call
    def late(self) -> Later[int]:
        self.waiting.append(Later())
        return self.waiting[-1]


PROBE: Final = DeviceSpec("probe", "probe", Probe, {})


def probe(host: hostd.Host) -> Probe:
    device = host.tree.find("/probe").device
    assert isinstance(device, Probe)
    return device
