"""Who writes must read: more calls at once than the sockets between guest and host hold, on both clients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from desk import CLIENTS
from raw import in_thread, served, until

import guestd
from guestd.driver import Driver, Op
from hostd.device import Device, call
from hostd.machine.file import DeviceSpec


class Parrot(Device):
    """Its answers are as long as its calls."""

    compatible = "test,parrot"

    @call
    def say(self, one: bytes, other: bytes, third: bytes) -> tuple[bytes, ...]:
        return one, other, third


class ParrotDriver(Driver):
    compatible = ("test,parrot",)
    say = Op[[bytes, bytes, bytes], tuple[bytes, ...]]()


@CLIENTS
@pytest.mark.parametrize("size", [1, 1300, 4096])
@pytest.mark.parametrize("slots", [1, 64, 700])
@pytest.mark.spec("S-12")
async def test_all_slots_are_used_at_once_whatever_the_sizes(
    tmp_path: Path, client: str, slots: int, size: int
) -> None:
    """700 calls of 12 KiB are 8 MiB in each direction; a socket holds a few hundred KiB, and so does the host."""
    words = [(bytes([n % 256]) * size, b"", bytes([n % 251]) * size) for n in range(2 * slots)]

    async def say(driver: Any, *said: bytes) -> Any:
        return await driver.say(*said)

    def work() -> Any:
        with guestd.attach_blocking(host.socket, drivers=[ParrotDriver], memory=4096) as guest:
            driver: Any = guest.bind("parrot")
            return guest.gather(*(say(driver, *said) for said in words))

    spec = DeviceSpec("parrot", "parrot", Parrot, {})
    async with served(tmp_path, spec, slots=slots, queued=1 << 30) as host:
        if client == "blocking":
            answers = await in_thread(host, work)
        else:
            async with guestd.attach(host.socket, drivers=[ParrotDriver], memory=4096) as guest:
                driver: Any = await guest.bind("parrot")
                answers = [await answer for answer in [driver.say(*said) for said in words]]
        await until(host, lambda: not host.guests.by_token)
    assert answers == words
