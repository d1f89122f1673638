"""A device with a bell that answers at once or when the test says so, its driver, and guests that use it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
from raw import served

import guestd
import hostd
from guestd.clients.guest import Guest
from guestd.driver import Driver, Op, Signal
from hcall.clock import Clock
from hcall.errors import BadArgument
from hostd.device import Data, Device, Irq, Later, Room, call
from hostd.machine.file import DeviceSpec

CLIENTS: Final = pytest.mark.parametrize("client", ["asyncio", "blocking"])
LIMIT: Final = 8 << 20  # bytes of memory of a guest
SLOTS: Final = 4


class Desk(Device):
    """Answers at once, or when the test says so."""

    compatible = "test,desk"
    bell = Irq()

    def start(self) -> None:
        self.waiting: list[Later[int]] = []
        self.opened = 0

    def ready(self) -> None:
        self.opened += 1

    def read(self, into: Room, at: int) -> int:
        return into.put(bytes([at]) * into.nbytes)

    def write(self, data: Data, at: int) -> int:
        return data.nbytes

    @call
    def same(self, value: int) -> int:
        if value < 0:
            raise BadArgument("below zero")
        return value

    @call
    def ring(self) -> None:
        self.bell()

    @call
    def late(self) -> Later[int]:
        self.waiting.append(Later())
        return self.waiting[-1]

    @call
    def hold(self, into: Room) -> Later[int]:
        return self.late()


class DeskDriver(Driver):
    compatible = ("test,desk",)
    bell = Signal()
    same = Op[[int], int]()
    ring = Op[[], None]()
    late = Op[[], int]()


DRIVERS: Final = [DeskDriver]


async def take_all_slots(driver: DeskDriver) -> list[Any]:
    """Calls that wait for the test, one in each slot: equal ones of one turn of the loop would share one."""
    waiting = []
    for _ in range(SLOTS):
        waiting.append(driver.late().call)
        await asyncio.sleep(0)
    return waiting


@contextlib.asynccontextmanager
async def desks(directory: Path, clock: Clock | None = None, spin: bool = False) -> AsyncIterator[hostd.Host]:
    """A host with two of them, /desk and /other."""
    specs = [DeviceSpec(path, "desk", Desk, {}) for path in ("desk", "other")]
    async with served(directory, *specs, clock=clock, spin=spin, slots=SLOTS, memory=LIMIT) as host:
        yield host


def desk(host: hostd.Host) -> Desk:
    device = host.tree.find("/desk").device
    assert isinstance(device, Desk)
    return device


async def bound(guest: Guest[Any]) -> DeskDriver:
    """The driver of /desk, bound."""
    driver = await guest.bind_found(await guest.found("/desk"))
    assert isinstance(driver, DeskDriver)
    return driver


def attach(host: hostd.Host) -> Any:
    return guestd.attach(host.socket, drivers=DRIVERS, memory=1 << 20)


def blocking(host: hostd.Host) -> Any:
    return guestd.attach_blocking(host.socket, drivers=DRIVERS, memory=1 << 20)
