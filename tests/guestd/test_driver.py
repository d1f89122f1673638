"""The driver author's page, on a real device that gives and takes little: names, bindings and short counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

import guestd
import hostd
from guestd.driver import Driver, Op, Signal
from hcall import numbers
from hcall.errors import IoError, NoMatch, NoSuchCall
from hostd.device import Data, Device, Feature, Irq, Property, Room, call
from hostd.machine.file import DeviceSpec

CONTENT = bytes(range(200)) * 50  # 10,000 bytes


class Miser(Device):
    """Gives and takes at most `most` bytes at once; refuses to take anything from `full` on."""

    compatible = "test,miser"
    colour = Property(str)
    POLITE, RUDE = Feature(0), Feature(1)
    first_bell, bell = Irq(), Irq()

    def start(self) -> None:
        self.colour = "grey"
        self.most, self.full = 3000, 1 << 20
        self.taken: dict[int, bytes] = {}
        self.refused = 0

    def read(self, into: Room, at: int) -> int:
        return into.put(CONTENT[at : at + self.most])

    def write(self, data: Data, at: int) -> int:
        part = data.get()[: max(0, min(self.most, self.full - at))]
        self.taken[at] = part
        self.refused += not part
        if self.refused > 100:
            raise IoError("the driver spins")
        return len(part)

    @call
    def add(self, one: int, other: int) -> int:
        return one + other

    @call
    def ring(self) -> None:
        self.bell()


class MiserDriver(Driver):
    compatible = ("test,miser",)
    wants = ("POLITE", "UNHEARD_OF")
    add = Op[[int, int], int]()
    ring = Op[[], None]()
    sing = Op[[str], None]()  # the device cannot
    bell = Signal()

    removed = False

    async def remove(self) -> None:
        self.removed = True


@pytest.fixture
def miser(host: hostd.Host) -> Miser:
    device = host.plug(DeviceSpec("miser", "miser", Miser, {})).device
    assert isinstance(device, Miser)
    return device


@pytest.fixture
async def driver(host: hostd.Host, miser: Miser) -> AsyncIterator[MiserDriver]:
    async with guestd.attach(host.socket, drivers=[MiserDriver]) as guest:
        driver = await guest.bind("miser")
        assert isinstance(driver, MiserDriver)
        yield driver
    await host.guests.wait_for(lambda: not host.guests.by_token)


async def test_a_call_and_a_signal_are_bound_once(driver: MiserDriver) -> None:
    bound = driver.add
    assert driver.add is bound and driver.bell is driver.bell
    assert await bound(2, 3) == 5 and await driver.add(-1, 1) == 0


async def test_a_signal_waits_for_what_was_raised_since(driver: MiserDriver) -> None:
    waiting = asyncio.ensure_future(driver.bell.wait())
    await driver.add(1, 1)
    assert not waiting.done()
    await driver.ring()
    await waiting
    await driver.ring()
    await driver.ring()
    await driver.bell.wait()  # both at once
    again = asyncio.ensure_future(driver.bell.wait())
    await driver.add(1, 1)
    assert not again.done()
    await driver.ring()
    await again


async def test_a_call_that_the_device_lacks_says_what_there_is(driver: MiserDriver) -> None:
    with pytest.raises(NoSuchCall, match=r"no call 'sing' \(did you mean 'ring'\?\); it has read, write, add"):
        await driver.sing("la")
    with pytest.raises(TypeError, match="add takes its arguments by position"):
        await driver.add(a=2, b=3)
    with pytest.raises(NoSuchCall, match="miser has no call 'sync'"):
        await driver.sync()
    assert await driver.add(1, 1) == 2


async def test_a_driver_sees_what_was_negotiated_and_the_nodes_properties(driver: MiserDriver) -> None:
    assert driver.dev.features == {"POLITE"} and driver.dev.name == "miser"
    assert await driver.dev.property("colour") == "grey"
    with pytest.raises(NoMatch, match="size"):
        await driver.dev.property("size")


@pytest.mark.parametrize("most", [1, 3000, 4096, 100_000])
async def test_read_exactly_goes_on_after_short_reads(driver: MiserDriver, miser: Miser, most: int) -> None:
    miser.most = most
    for count, at in ((0, 0), (1, 0), (10, 9990), (300, 5), (4096, 0), (4097, 1)):
        if most > 1 or count <= 300:
            assert await driver.read_exactly(count, at) == CONTENT[at : at + count]


@pytest.mark.parametrize(("count", "at", "missing"), [(1, 10_000, 1), (11, 9990, 1), (5000, 9000, 4000)])
async def test_read_exactly_says_how_much_is_missing_at_the_end(
    driver: MiserDriver, count: int, at: int, missing: int
) -> None:
    with pytest.raises(IoError, match=f"miser ended {missing} bytes early"):
        await driver.read_exactly(count, at)


async def test_write_all_goes_on_after_short_counts(driver: MiserDriver, miser: Miser) -> None:
    await driver.write_all(CONTENT, 7)
    assert [(at, len(part)) for at, part in miser.taken.items()] == [
        (7, 3000),
        (3007, 3000),
        (6007, 3000),
        (9007, 1000),
    ]
    assert b"".join(miser.taken.values()) == CONTENT
    miser.taken.clear()
    await driver.write_all(b"", 7)
    assert miser.taken == {}


async def test_write_all_does_not_spin_on_a_device_that_takes_nothing(driver: MiserDriver, miser: Miser) -> None:
    miser.full = 100
    for write in (driver.write_all, driver.store):
        miser.refused = 0
        with pytest.raises(IoError):
            await write(CONTENT)
        assert miser.refused == 1


@pytest.mark.parametrize(("count", "at"), [(10_000, 0), (4097, 3), (1, 9_999), (0, 0), (0, 10_000)])
async def test_load_and_store_go_through_guest_memory_whatever_the_length(
    driver: MiserDriver, miser: Miser, count: int, at: int
) -> None:
    assert await driver.load(count, at) == CONTENT[at : at + count]
    await driver.store(CONTENT[at : at + count], at)
    assert b"".join(part for _, part in sorted(miser.taken.items())) == CONTENT[at : at + count]
    assert min(miser.taken, default=at) == at
    driver.dev.ram.alloc(driver.dev.ram.first.size).free()  # nothing of it is still taken


async def test_load_says_how_much_is_missing_at_the_end(driver: MiserDriver) -> None:
    with pytest.raises(IoError, match="miser ended 1000 bytes early"):
        await driver.load(5000, 6000)
    driver.dev.ram.alloc(driver.dev.ram.first.size).free()


async def test_more_than_a_buffer_holds_is_loaded_and_stored_in_order(driver: MiserDriver, miser: Miser) -> None:
    data = CONTENT * 300  # 3,000,000 bytes
    miser.most, miser.full = 1 << 20, 1 << 30
    await driver.store(data, 10)
    assert b"".join(part for _, part in sorted(miser.taken.items())) == data
    assert all(at + len(part) in (*miser.taken, len(data) + 10) for at, part in miser.taken.items())


async def test_buffers_are_filled_and_written_by_as_much_as_came(driver: MiserDriver, miser: Miser) -> None:
    with driver.dev.ram.alloc(5000) as buffer:
        assert await driver.read_into(buffer, 100) == 3000
        assert bytes(buffer.view[:3000]) == CONTENT[100:3100] and bytes(buffer.view[3000:]) == bytes(2000)
        assert await driver.write_from(buffer.part(0, 10), 4) == 10
    assert miser.taken == {4: CONTENT[100:110]}


async def test_a_masked_signal_is_kept_until_it_is_unmasked(driver: MiserDriver) -> None:
    vector = driver.dev.vectors["bell"]
    assert await driver.dev.set_mask(1 << vector) == 0
    await driver.ring()
    waiting = asyncio.ensure_future(driver.bell.wait())
    await driver.add(1, 1)
    assert not waiting.done()
    assert await driver.dev.set_mask(0) == 1 << vector
    await waiting


async def test_the_same_driver_runs_on_the_blocking_client(host: hostd.Host, miser: Miser) -> None:
    def blocking() -> tuple[Any, ...]:
        with guestd.attach_blocking(host.socket, drivers=[MiserDriver]) as guest:
            driver = guest["miser"]
            driver.write_all(CONTENT)
            driver.ring()
            driver.bell.wait()
            with pytest.raises(NoSuchCall, match="'sing'"):
                driver.sing("la")
            return driver.add(2, 3), driver.read_exactly(10_000)

    assert await asyncio.to_thread(blocking) == (5, CONTENT)
    assert b"".join(miser.taken.values()) == CONTENT


async def test_a_driver_is_told_when_its_device_leaves(host: hostd.Host, miser: Miser) -> None:
    async with guestd.attach(host.socket, drivers=[MiserDriver]) as guest:
        driver = await guest.bind("miser")
        assert isinstance(driver, MiserDriver)
        assert await host.unplug("/miser") is True
        assert driver.removed and "/miser" not in guest.drivers


async def test_a_driver_whose_probe_fails_gives_the_device_back(host: hostd.Host, miser: Miser) -> None:
    class Choosy(MiserDriver):
        async def probe(self) -> None:
            raise ValueError(f"I do not like {await self.dev.property('colour')}")

    async with guestd.attach(host.socket, drivers=[Choosy]) as guest:
        for _ in range(2):  # the second time it would be Busy
            with pytest.raises(ValueError, match="grey"):
                await guest.bind("miser")
        handle, *_ = await guest.core((await guest.found("miser")).node, numbers.OPEN, 0)
        assert await guest.core(handle, numbers.GET_STATUS) == 0
