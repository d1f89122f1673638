"""What is written is on its way while the program goes on: a bound, order, errors that are told later, and memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from giving_up import STEPS, done, given_up
from moving import until
from raw import RNG, run_on

import guestd
import hostd
from guestd.clients.guest import Guest
from guestd.declared.sending import DEPTH
from guestd.driver import Buffer
from guestd.stream import StreamDriver
from hcall.errors import IoError
from hostd.calls.limits import Limits
from hostd.device import Data, Later, call
from hostd.machine.file import DeviceSpec
from hostd.stream import Stream

CHUNK = 65536
SECONDS = 30  # after which a test says that something hangs
CLIENTS = ("asyncio", "blocking")
DATA = random.Random(3).randbytes(4 << 20)


class Line(Stream):
    """Takes at most `room` bytes."""

    compatible = "test,line"

    def start(self) -> None:
        super().start()
        self.taken, self.room = bytearray(), 0

    def written(self, data: bytes) -> int:
        taken = data[: self.room]
        self.room -= len(taken)
        self.taken += taken
        return len(taken)

    def sync(self) -> None:
        self.flushed()

    def take(self, room: int) -> None:
        self.room += room
        self.transmit()

    @call
    def look(self) -> int:
        return len(self.taken)


class LineDriver(StreamDriver):
    compatible = ("test,line",)


class OwnWayDriver(LineDriver):
    """Writes in a way of its own."""

    def write(self, data: bytes, at: int = 0) -> Awaitable[int]:
        return super().write(data.upper(), at)

    def write_from(self, buffer: Buffer, at: int = 0) -> Awaitable[int]:
        buffer.view[:] = bytes(buffer.view).upper()
        return super().write_from(buffer, at)


class Short(Line):
    """Takes less than all, which no such device may."""

    def wait_write(self, data: Data) -> int | Later[int]:
        return 1


@contextlib.asynccontextmanager
async def served(folder: Path, **limits: int) -> AsyncIterator[hostd.Host]:
    machine = hostd.Machine(limits=Limits(**limits), devices=(RNG,))
    async with asyncio.timeout(SECONDS), hostd.serve(machine, folder / "run") as host:
        yield host


def plugged(host: hostd.Host, model: type[Line] = Line) -> Line:
    device = host.plug(DeviceSpec("line", "line", model, {})).device
    assert isinstance(device, Line)
    return device


async def bound(guest: Guest[Any]) -> LineDriver:
    driver = await guest.bind_path("line")
    assert isinstance(driver, LineDriver)
    return driver


@pytest.mark.parametrize("client", CLIENTS)
async def test_so_much_is_on_its_way_and_what_is_more_waits(tmp_path: Path, client: str) -> None:
    async with served(tmp_path) as host:
        device, steps = plugged(host), list[str]()

        async def scenario(guest: Guest[Any]) -> None:
            driver = await bound(guest)
            await driver.write_all(DATA[: (1 + DEPTH) * CHUNK])  # one is in the device's buffer
            steps.append("behind")
            await driver.write_all(b"more")
            steps.append("more")
            await driver.settle()

        working = asyncio.create_task(run_on(client, host, scenario, drivers=[LineDriver], memory=4 << 20))
        await until(lambda: bool(steps))
        for _ in range(20):
            await asyncio.sleep(0)
        assert steps == ["behind"] and device.waiting == CHUNK
        device.take(CHUNK)
        await until(lambda: len(steps) > 1)
        device.take(1 << 30)
        await working
        assert device.taken == DATA[: (1 + DEPTH) * CHUNK] + b"more"


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("slots", [1, 2, 5, 64])
async def test_pieces_of_all_sizes_arrive_in_order_and_once(tmp_path: Path, client: str, slots: int) -> None:
    dice, sizes = random.Random(slots), [0, 1, 100, 4096, 4097, 65535, 65536, 65537, 200_000]

    async def scenario(guest: Guest[Any]) -> bytes:
        driver, sent = await bound(guest), b""
        for n in range(60):
            data = DATA[n : n + dice.choice(sizes)]
            await (driver.write_message(data) if n % 5 == 0 else driver.write_all(data))
            sent += data
        await driver.settle()
        return sent

    async with served(tmp_path, slots=slots) as host:
        device = plugged(host)
        working = asyncio.create_task(run_on(client, host, scenario, drivers=[LineDriver], memory=4 << 20))
        while not working.done():
            device.take(dice.choice([0, 10, 5000, 100_000]))
            await asyncio.sleep(0)
        assert device.taken == await working


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    "tell", [lambda driver: driver.write_all(b"x"), LineDriver.settle, lambda driver: driver.write_message(b"x")]
)
async def test_what_went_wrong_is_told_by_the_next_write_and_by_settle(
    tmp_path: Path, client: str, tell: Callable[[LineDriver], Awaitable[None]]
) -> None:
    async with served(tmp_path) as host:
        device, steps = plugged(host), list[str]()

        async def scenario(guest: Guest[Any]) -> None:
            driver = await bound(guest)
            await driver.write_all(DATA[: 3 * CHUNK])
            await driver.get_param(0)
            steps.append("written")
            while not await driver.get_param(7) & 4:  # until the end is there
                pass
            with pytest.raises(IoError, match="the other end is gone"):
                await tell(driver)

        working = asyncio.create_task(run_on(client, host, scenario, drivers=[LineDriver]))
        await until(lambda: bool(steps))
        device.hang_up()
        await working


async def test_an_error_is_told_once(tmp_path: Path) -> None:
    async with served(tmp_path) as host, guestd.attach(host.socket, drivers=[LineDriver]) as guest:
        device = plugged(host)
        driver = await bound(guest)
        await driver.write_all(DATA[: 4 * CHUNK])
        await driver.get_param(0)
        device.hang_up()
        await driver.get_param(0)
        with pytest.raises(IoError, match=r"the other end is gone$"):
            await driver.settle()
        with pytest.raises(IoError, match="bytes have not reached it"):
            await driver.settle()  # of the device itself


async def test_a_device_that_takes_less_than_all_is_found_out(tmp_path: Path) -> None:
    async with served(tmp_path) as host, guestd.attach(host.socket, drivers=[LineDriver]) as guest:
        plugged(host, Short)
        driver = await bound(guest)
        await driver.write_all(b"four")
        with pytest.raises(IoError, match="line has taken 1 of 4 bytes"):
            await driver.settle()


@pytest.mark.parametrize("client", CLIENTS)
async def test_it_goes_out_whatever_the_program_does_next(tmp_path: Path, client: str) -> None:
    async with served(tmp_path) as host:
        device, over = plugged(host), asyncio.Event()
        device.room = 1 << 30

        async def scenario(guest: Guest[Any]) -> None:
            driver = await bound(guest)
            await driver.write_all(b"prompt")
            if client == "blocking":
                asyncio.run_coroutine_threadsafe(over.wait(), loop).result()  # computes, and looks at no answer
            else:
                await over.wait()

        loop = asyncio.get_running_loop()
        working = asyncio.create_task(run_on(client, host, scenario, drivers=[LineDriver]))
        await until(lambda: bytes(device.taken) == b"prompt")
        over.set()
        await working


@pytest.mark.parametrize("client", CLIENTS)
async def test_its_memory_is_bounded_and_comes_back_with_the_device(
    tmp_path: Path, client: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path) as host:
        device = plugged(host)

        async def scenario(guest: Guest[Any]) -> None:
            free = _free_bytes(guest)
            for n in range(3):
                driver = await bound(guest)
                device.room = 1 << 30
                for _ in range(3 * DEPTH):
                    await driver.write_all(DATA[:CHUNK])
                assert _free_bytes(guest) >= free - DEPTH * CHUNK
                await driver.settle()
                device.room = 0
                if n:
                    await driver.write_all(DATA[: 3 * CHUNK])  # which nobody takes, and nobody waits for
                await guest.unbind("line")
                del driver
                await guest.found("line")
                gc.collect()
                assert _free_bytes(guest) == free

        await run_on(client, host, scenario, drivers=[LineDriver], memory=4 << 20)
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def _free_bytes(guest: Guest[Any]) -> int:
    """The pages that can be had."""
    taken = []
    try:
        while True:
            taken.append(guest.ram.alloc(4096))
    except MemoryError:
        return 4096 * len(taken)
    finally:
        for buffer in taken:
            buffer.free()


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_driver_that_writes_in_a_way_of_its_own_does_so_always(tmp_path: Path, size: int) -> None:
    async with served(tmp_path) as host, guestd.attach(host.socket, drivers=[OwnWayDriver]) as guest:
        device = plugged(host)
        device.room = 1 << 30
        driver = await bound(guest)
        await driver.write_all(b"a" * size)
        await driver.settle()
        assert device.taken == b"A" * size


async def test_who_gives_up_has_written_as_far_as_it_got(tmp_path: Path) -> None:
    async with served(tmp_path) as host, guestd.attach(host.socket, drivers=[LineDriver]) as guest:
        device = plugged(host)
        driver = await bound(guest)
        for steps in STEPS:
            device.taken.clear()
            device.room = 0
            much = DATA[: 20 * CHUNK]
            assert await given_up(done(driver.write_all(much)), steps) is None
            ending = asyncio.ensure_future(driver.write_all(b"end"))
            await driver.get_param(0)
            device.take(1 << 30)
            await ending
            await driver.settle()
            assert device.taken.endswith(b"end") and much.startswith(device.taken[:-3])
            assert DEPTH * CHUNK <= len(device.taken) < len(much)
