"""A cancelled call has happened: whatever moment of the round trip it is, what it took is there for the next one."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from giving_up import STEPS, done, given_up

import guestd
import hostd
from guestd.driver import Driver, Op, Taking
from guestd.stream import StreamDriver
from hcall.errors import HcallError, IoError, WouldBlock
from hostd.device import Device, Later, call
from hostd.machine.file import DeviceSpec
from hostd.stream import Stream

SECONDS = 30  # after which a test says that something hangs
SLOTS = 64


class Line(Stream):
    """A stream whose other end is the test's: it takes at most `room` bytes."""

    compatible = "test,line"

    def start(self) -> None:
        super().start()
        self.taken, self.room = b"", 1 << 30
        self.parked: list[Later[None]] = []
        self.full = asyncio.Event()  # every slot has a call that is parked

    def written(self, data: bytes) -> int:
        taken = data[: self.room]
        self.room -= len(taken)
        self.taken += taken
        return len(taken)

    def take(self, room: int) -> None:
        self.room += room
        self.transmit()

    @call
    def park(self) -> Later[None]:
        self.parked.append(Later())
        if len(self.parked) == SLOTS:
            self.full.set()
        return self.parked[-1]


class LineDriver(StreamDriver):
    compatible = ("test,line",)


@contextlib.asynccontextmanager
async def line(host: hostd.Host) -> AsyncIterator[tuple[Line, LineDriver]]:
    device = host.plug(DeviceSpec("line", "line", Line, {})).device
    assert isinstance(device, Line)
    async with guestd.attach(host.socket, drivers=[LineDriver]) as guest, asyncio.timeout(SECONDS):
        driver = await guest.bind("line")
        assert isinstance(driver, LineDriver)
        yield device, driver


async def _read_into(driver: LineDriver, size: int) -> bytes:
    with driver.dev.ram.alloc(size) as buffer:
        return bytes(buffer.view[: await driver.read_into(buffer)])


async def _now(read: Callable[[], Awaitable[bytes]]) -> bytes:
    try:
        return await read()
    except WouldBlock:
        return b""


READS: dict[str, Callable[[LineDriver], Coroutine[Any, Any, bytes]]] = {
    "read": lambda driver: _now(partial(driver.read, 100)),
    "read_into": lambda driver: _now(partial(_read_into, driver, 5000)),
    "read_some": lambda driver: driver.read_some(),
    "read_some much": lambda driver: driver.read_some(50_000),
    "read_exactly": lambda driver: driver.read_exactly(75),
    "read_exactly much": lambda driver: driver.read_exactly(5000),
    "load": lambda driver: driver.load(75),
    "read_until": lambda driver: driver.read_until(b"\n"),
}


@pytest.mark.parametrize("how", READS)
async def test_bytes_of_a_read_that_was_given_up_are_there_for_the_next(host: hostd.Host, how: str) -> None:
    async with line(host) as (device, driver):
        lines = [f"{n} ".encode() * (n % 40) + b"\n" for n in range(400)]
        got, sent, nothing = b"", b"", 0
        for n, each in enumerate(lines):
            sent += each
            device.send(each)
            came = await given_up(READS[how](driver), STEPS[n % len(STEPS)])
            nothing += came is None
            got += came or b""
            if n % 7 == 0:
                got += await given_up(READS[how](driver), STEPS[n // 7 % len(STEPS)]) or b""
        assert nothing > 50
        got += await driver.read_exactly(len(sent) - len(got))
        assert got == sent
        with pytest.raises(WouldBlock):
            await driver.read(1)


async def test_a_read_that_was_given_up_twice_and_three_times(host: hostd.Host) -> None:
    async with line(host) as (device, driver):
        for steps in STEPS:
            device.send(b"once")
            for _ in range(3):
                if got := await given_up(driver.read(4), steps):
                    break
            assert (got or await driver.read_some()) == b"once"


async def test_readers_that_give_up_while_others_go_on(host: hostd.Host) -> None:
    dice = random.Random(5)
    async with line(host) as (device, driver):
        for _ in range(60):
            device.send(b"0123456789")
            readers = [given_up(driver.read_some(3), dice.choice(STEPS)) for _ in range(3)]
            got = [each or b"" for each in await asyncio.gather(*readers)]
            rest = await driver.read_exactly(10 - sum(map(len, got)))
            assert sorted(b"".join([*got, rest])) == sorted(b"0123456789")


async def test_a_read_that_waits_for_a_slot_and_is_given_up_is_not_made_or_not_lost(host: hostd.Host) -> None:
    async with line(host) as (device, driver):
        for steps in STEPS:
            parked = []
            for _ in range(SLOTS):  # in a slot each: equal calls of one turn of the loop would share one
                parked.append(driver.dev.call(driver.number("park")))
                await asyncio.sleep(0)
            device.send(b"first")
            assert await given_up(driver.read_some(), steps) is None
            again = asyncio.ensure_future(given_up(driver.read_some(), 2))
            await asyncio.sleep(0)
            await device.full.wait()
            device.full.clear()
            while device.parked:
                device.parked.pop().done(None)
            await asyncio.gather(*parked)
            assert (await again or await driver.read_some()) == b"first"


async def test_reads_that_were_given_up_end_with_the_device(host: hostd.Host) -> None:
    async with line(host) as (device, driver):
        for steps in STEPS:
            device.send(b"x")
            await given_up(driver.read_some(), steps)
        await host.unplug("/line")
        with pytest.raises(HcallError):
            for _ in range(len(STEPS) + 1):
                await driver.read_some()


async def test_the_end_of_a_stream_is_told_again(host: hostd.Host) -> None:
    async with line(host) as (device, driver):
        device.send(b"last")
        device.hang_up()
        for steps in STEPS:
            got = await given_up(driver.read_some(), steps)
            assert got in (None, b"last", b"")
            if got == b"last":
                break
        else:
            assert await driver.read_some() == b"last"
        for steps in STEPS:
            assert await given_up(driver.read_some(), steps) in (None, b"")
        assert await driver.read_some() == b""


class Bell(Device):
    """Each ring is heard once."""

    compatible = "test,bell"

    def start(self) -> None:
        self.rings: list[str] = []

    @call
    def next_ring(self) -> str:
        if not self.rings:
            raise WouldBlock("silence")
        return self.rings.pop(0)


class BellDriver(Driver):
    compatible = ("test,bell",)
    next_ring = Op[[], str]()

    async def probe(self) -> None:
        self.taking: Taking[None] = Taking(self.dev)

    async def ring(self) -> str:
        while self.taking.left:
            ring, _ = await self.taking.take_up()
            if not isinstance(ring, HcallError):
                assert type(ring) is str
                return ring
        return await self.taking.call(None, self.next_ring)


async def test_what_a_call_of_ones_own_took_and_was_given_up_is_there_for_the_next(host: hostd.Host) -> None:
    device = host.plug(DeviceSpec("bell", "bell", Bell, {})).device
    assert isinstance(device, Bell)
    async with guestd.attach(host.socket, drivers=[BellDriver]) as guest, asyncio.timeout(SECONDS):
        bell = await guest.bind("bell")
        assert isinstance(bell, BellDriver)
        got: list[str | None] = []
        for n in range(100):
            device.rings.append(str(n))
            with contextlib.suppress(WouldBlock):
                got.append(await given_up(bell.ring(), STEPS[n % len(STEPS)]))
        assert None in got
        with pytest.raises(WouldBlock):
            while True:
                got.append(await bell.ring())
        assert [each for each in got if each is not None] == list(map(str, range(100)))


# Writing.


@pytest.mark.parametrize("size", [10, 3000, 20_000, 150_000])
async def test_what_is_written_and_given_up_is_written_once_and_in_order(host: hostd.Host, size: int) -> None:
    dice = random.Random(size)
    async with line(host) as (device, driver):
        for steps in STEPS:
            device.taken, device.room = b"", 70_000
            first, second = dice.randbytes(size), dice.randbytes(size)
            if await given_up(done(driver.write_all(first)), steps):
                begun = first
            writing = asyncio.ensure_future(driver.write_all(second))
            for _ in range(5):
                await driver.get_param(0)
            device.take(1 << 30)
            await writing
            await driver.get_param(0)
            assert device.taken.endswith(second)
            begun = device.taken[: -len(second)]
            assert first.startswith(begun)
            before = await driver.get_param(2)
            assert before == 6  # TX is masked again


@pytest.mark.parametrize("size", [10, 3000, 20_000, 150_000])
@pytest.mark.parametrize("room", [0, 5, 70_000])
async def test_a_message_is_whole_whoever_gave_up(host: hostd.Host, size: int, room: int) -> None:
    dice = random.Random(size)
    async with line(host) as (device, driver):
        for steps in STEPS:
            device.taken, device.room = b"", room
            messages = [dice.randbytes(size) for _ in range(3)]
            for message in messages[:2]:
                await given_up(driver.write_message(message), steps)
            writing = asyncio.ensure_future(driver.write_message(messages[2]))
            await driver.get_param(0)
            device.take(1 << 30)
            await writing
            await driver.settle()
            assert device.taken == b"".join(messages)


async def test_what_is_left_of_a_message_goes_before_other_bytes_and_with_settle(host: hostd.Host) -> None:
    async with line(host) as (device, driver):
        for finish in (partial(driver.write_all, b"other"), driver.settle):
            device.taken, device.room = b"", 0
            await given_up(driver.write_message(b"m" * 100_000), 50)
            ending = asyncio.ensure_future(finish())
            await driver.get_param(0)
            device.take(1 << 30)
            await ending
            assert device.taken.removesuffix(b"other") == b"m" * 100_000


async def test_a_message_that_fails_takes_those_that_wait_with_it(host: hostd.Host) -> None:
    async with line(host) as (device, driver):
        device.room = 0
        await given_up(driver.write_message(b"m" * 100_000), 50)
        device.hang_up()
        with pytest.raises(IoError):
            await driver.write_message(b"n")
        with pytest.raises(IoError):
            await driver.write_message(b"n")


@pytest.mark.parametrize("data", [None, 5, "text", [1]])
async def test_what_is_no_bytes_is_refused_and_nothing_else_with_it(host: hostd.Host, data: Any) -> None:
    async with line(host) as (device, driver):
        for write in (driver.write_message, driver.write_all, driver.store):
            with pytest.raises(TypeError, match="bytes-like"):
                await write(data)
            await driver.write_message(b"next")
            await driver.settle()
        assert device.taken == b"next" * 3


async def test_a_message_is_what_it_was_when_it_was_given(host: hostd.Host) -> None:
    async with line(host) as (device, driver):
        device.room, message = 2, bytearray(b"before")
        await given_up(driver.write_message(message), 50)  # type: ignore[arg-type]  # as authors do
        message[:] = b"behind"
        device.take(100)
        await driver.settle()
        assert device.taken == b"before"
