"""Both clients: more calls than slots, failures beside successes, growing memory, and ends that nobody misses."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from raw import attached, bystander, in_thread, run_on, served, settled, until

import guestd
import hostd
from guestd.driver import Driver, Op, Signal
from guestd.guest import Guest
from hostd.device import Data, Device, Irq, Later, Room, call
from hostd.machine import DeviceSpec
from protocol import hcall
from protocol.clock import ManualClock
from protocol.errors import BadArea, BadArgument, Busy, HcallError, LinkLost, NoMatch, Reset


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


CLIENTS = pytest.mark.parametrize("client", ["asyncio", "blocking"])
DRIVERS = [DeskDriver]
LIMIT = 8 << 20


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    specs = [DeviceSpec(path, "desk", Desk, {}) for path in ("desk", "other")]
    async with served(tmp_path, *specs, slots=4, memory=LIMIT) as host:
        yield host


def desk(host: hostd.Host) -> Desk:
    device = host.tree.find("/desk").device
    assert isinstance(device, Desk)
    return device


async def bound(guest: Guest[Any]) -> DeskDriver:
    driver = await guest.bind_found(await guest.found("/desk"))
    assert isinstance(driver, DeskDriver)
    return driver


def attach(host: hostd.Host) -> Any:
    return guestd.attach(host.socket, drivers=DRIVERS, memory=1 << 20)


def blocking(host: hostd.Host) -> Any:
    return guestd.attach_blocking(host.socket, drivers=DRIVERS, memory=1 << 20)


# Many calls, and some that fail.


@CLIENTS
async def test_more_calls_than_slots_are_all_answered_and_each_gets_its_own(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        calls = [driver.same(n) if n % 10 else driver.same(-1) for n in range(300)]
        for n, pending in enumerate(calls):
            if n % 10:
                assert await pending == n
            else:
                with pytest.raises(BadArgument, match="below zero"):
                    await pending

    async with bystander(host):
        await run_on(client, host, scenario, drivers=DRIVERS)


@CLIENTS
async def test_a_call_that_cannot_be_sent_fails_alone_even_in_the_queue(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        with pytest.raises(BadArgument):
            await driver.same(1 << 64)
        with pytest.raises(BadArgument):
            await driver.write(bytes(4097))
        good = [driver.same(n) for n in range(6)]  # four slots: two of these wait
        bad = driver.write(bytes(4097))
        assert [await pending for pending in good] == list(range(6))
        with pytest.raises(BadArgument):
            await bad
        assert await driver.same(7) == 7

    await run_on(client, host, scenario, drivers=DRIVERS)


async def test_gather_runs_the_others_to_their_end_and_raises_the_first_error(host: hostd.Host) -> None:
    def work() -> list[int]:
        done: list[int] = []
        with blocking(host) as guest:
            driver = guest.bind("desk")

            async def some(first: int) -> None:
                for n in range(10):
                    done.append(await driver.same(first + n))

            async def fails(value: int) -> None:
                await driver.same(1)
                await driver.same(value)

            async def stumbles() -> None:
                await driver.same(1)
                raise ZeroDivisionError

            with pytest.raises(BadArgument):
                guest.gather(some(100), fails(-1), some(200), stumbles())
            assert guest.gather() == [] and guest.gather(driver.same(5), driver.same(6)) == [5, 6]
            assert guest["desk"].same(9) == 9
        return sorted(done)

    async with bystander(host):
        assert await in_thread(host, work) == [*range(100, 110), *range(200, 210)]


async def test_gather_wakes_who_waits_for_an_interrupt_and_lets_the_others_go_on(host: hostd.Host) -> None:
    def work() -> list[Any]:
        with blocking(host) as guest:
            driver = guest.bind("desk")

            async def waits() -> str:
                await driver.bell.wait()
                await driver.bell.wait()
                return "rung twice"

            async def rings() -> int:
                for _ in range(2):
                    await driver.same(1)
                    await driver.ring()
                return 2

            return guest.gather(waits(), rings(), driver.same(3))  # type: ignore[no-any-return]

    assert await in_thread(host, work) == ["rung twice", 2, 3]


async def test_gather_goes_on_while_one_of_its_coroutines_sleeps(host: hostd.Host) -> None:
    def work() -> list[Any]:
        with blocking(host) as guest:
            driver = guest.bind("desk")

            async def sleeps() -> str:
                await driver.clock.sleep(0.02)
                return "slept"

            return guest.gather(driver.same(1), sleeps(), driver.same(2))  # type: ignore[no-any-return]

    assert await in_thread(host, work) == [1, "slept", 2]


async def test_a_call_that_two_wait_for_is_answered_to_both(host: hostd.Host) -> None:
    def work() -> list[Any]:
        with blocking(host) as guest:
            pending = guest.bind("desk").same(1)
            return guest.gather(pending, pending)  # type: ignore[no-any-return]

    async with attach(host) as guest:
        pending = (await guest.bind("desk")).same(1)
        assert list(await asyncio.gather(pending, pending)) == [1, 1]
    assert await in_thread(host, work) == [1, 1]


async def test_waiting_ends_when_something_comes_or_when_the_time_is_over(host: hostd.Host) -> None:
    loop = asyncio.get_running_loop()

    def work() -> None:
        with blocking(host) as guest:
            driver = guest.bind("desk")
            assert guest.wait(0) is False and guest.wait(0.01) is False
            loop.call_soon_threadsafe(desk(host).bell)
            assert guest.wait(5) is True
            guest.run(driver.bell.wait())  # at once: it has been raised
            loop.call_soon_threadsafe(desk(host).bell)
            assert guest.wait() is True

    await in_thread(host, work)


# Finding devices.


@CLIENTS
@pytest.mark.parametrize(("path", "error"), [("none", NoMatch), ("/", NoMatch), ("rng", NoMatch), ("desk", Busy)])
async def test_a_device_that_cannot_be_had_says_why(
    host: hostd.Host, client: str, path: str, error: type[HcallError]
) -> None:
    def work() -> None:
        with blocking(host) as guest:
            with pytest.raises(error):
                guest[path].same(1)
            assert guest["other"].same(1) == 1

    async with attached(host) as owner:
        await owner.open("/desk")
        if client == "blocking":
            await in_thread(host, work)
        else:
            async with attach(host) as guest:
                with pytest.raises(error):
                    await guest[path].same(1)
                assert await guest["other"].same(1) == 1


async def test_a_device_is_bound_once_however_many_ask_at_once(host: hostd.Host) -> None:
    async with attach(host) as guest:
        answers = await asyncio.gather(*(guest["desk"].same(n) for n in range(10)), guest.bind("/desk"))
        assert answers == [*range(10), guest.drivers["/desk"]] and desk(host).opened == 1
        impatient = asyncio.create_task(guest.bind("other"))
        patient = asyncio.create_task(guest.bind("other"))
        await asyncio.sleep(0)
        impatient.cancel()
        assert await patient is guest.drivers["/other"]  # who gives up does not stop the others


# Memory.


@CLIENTS
async def test_memory_that_is_lent_later_can_be_used(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        with pytest.raises(MemoryError):
            guest.ram.alloc(4 << 20)
        await guest.grow(4 << 20)
        with guest.ram.alloc(4 << 20) as buffer:
            assert await driver.read_into(buffer, 7) == 4 << 20
            assert buffer.view[0] == buffer.view[-1] == 7
            assert await driver.write_from(buffer) == 4 << 20
        with pytest.raises(Busy):
            await guest.grow(LIMIT)
        with pytest.raises(MemoryError):
            guest.ram.alloc(LIMIT)
        await guest.grow(4096)
        with pytest.raises(BadArgument, match="99"):
            await guest.core(0, hcall.ADD_MEMORY, 1 << 40, 4096, 99)
        with pytest.raises(BadArea):
            await guest.core(0, hcall.REMOVE_MEMORY, 1 << 40)

    async with bystander(host):
        await run_on(client, host, scenario, drivers=DRIVERS, memory=1 << 20)


@pytest.mark.parametrize(
    ("address", "size", "error"),
    [(1 << 40, 8192, BadArea), ((1 << 40) + 1, 4096, BadArea), (0x4000_0000, 4096, BadArea), (-4096, 4096, BadArea)],
)
async def test_memory_that_is_refused_leaves_nothing(
    host: hostd.Host, address: int, size: int, error: type[HcallError]
) -> None:
    async with attached(host, regions=1) as guest:
        fd = os.memfd_create("late", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, 4096)
        for fd_id in (5, 6):  # nobody asks for the first
            socket.send_fds(guest.lane, [fd_id.to_bytes(4, "little")], [fd])
        os.close(fd)
        assert (await guest.call(hcall.ADD_MEMORY, 0, address, size, 6))[0] == error.status
        assert (await guest.call(hcall.ADD_MEMORY, 0, 1 << 40, 4096, 5))[0] == BadArgument.status


# Ends.


@CLIENTS
async def test_detaching_gives_the_devices_back_at_once(host: hostd.Host, client: str) -> None:
    for _ in range(3):
        await run_on(client, host, bound, drivers=DRIVERS)
        assert not host.tree.find("/desk").opens


async def test_calls_under_way_and_calls_after_the_end_fail_and_nobody_waits_for_ever(host: hostd.Host) -> None:
    async with bystander(host), attached(host) as other, attach(host) as guest:
        driver = await guest.bind("desk")
        waiting = [asyncio.ensure_future(each) for each in (driver.late(), driver.bell.wait())]
        await settled(other)
        await guest.detach()
        late, bell = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(late, Reset) and isinstance(bell, LinkLost)
        attempts: list[Callable[[], Any]] = [
            guest.nop, driver.ring, driver.bell.wait, guest["other"].ring, lambda: guest.bind("other"), guest.walk,
            lambda: driver.read(1), guest.happened,
        ]  # fmt: skip
        for attempt in attempts:
            with pytest.raises(LinkLost, match="detached"):
                await attempt()
        await guest.detach()  # again: no harm
        desk(host).waiting[0].done(1)


async def test_the_blocking_client_fails_the_same_way_after_its_end(host: hostd.Host) -> None:
    def work() -> None:
        with blocking(host) as guest:
            driver = guest["desk"]
            late = guest.bind("desk").late()
            other = guest["other"]
            guest.detach()
            with pytest.raises(Reset):
                guest.run(late)
            for attempt in (guest.nop, driver.ring, other.ring, lambda: guest.run(guest.walk())):
                with pytest.raises(LinkLost, match="detached"):
                    attempt()
            with pytest.raises(LinkLost, match="detached"):
                driver.bell.wait()
            guest.detach()

    await in_thread(host, work)


@CLIENTS
async def test_the_host_ends_a_session_and_says_why(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        loop.call_soon_threadsafe(end)
        with pytest.raises(LinkLost, match="no longer welcome"):
            while True:
                await driver.same(1)
        with pytest.raises(LinkLost, match="no longer welcome"):
            await driver.same(1)

    def end() -> None:
        (doomed,) = (each for each in host.guests.by_token.values() if each.name == "doomed")
        host.guests.end(doomed, BadArgument.status, "no longer welcome")

    loop = asyncio.get_running_loop()
    async with bystander(host):
        await run_on(client, host, scenario, drivers=DRIVERS, name="doomed")
        assert not host.tree.find("/desk").opens


@CLIENTS
async def test_who_waits_for_an_interrupt_learns_that_the_device_is_gone(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        loop.call_soon_threadsafe(unplug)
        with pytest.raises(HcallError):
            await driver.bell.wait()

    def unplug() -> None:
        tasks.append(loop.create_task(host.unplug("/desk", surprise=True)))

    tasks: list[asyncio.Task[bool]] = []
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(run_on(client, host, scenario, drivers=DRIVERS))
    done, _ = await asyncio.wait([running], timeout=2)
    for each in list(host.guests.by_token.values()):
        host.guests.end(each, Reset.status, "nobody told it")
    await asyncio.gather(running, *tasks, return_exceptions=True)
    assert done and running.result() is None


@CLIENTS
async def test_without_a_host_there_is_an_os_error_and_a_refusal_is_told(tmp_path: Path, client: str) -> None:
    async def nothing(guest: Guest[Any]) -> None:
        raise AssertionError("there is nothing to attach to")

    async with served(tmp_path, guests=1) as host, attached(host):
        with pytest.raises(LinkLost, match="at most 1 guests"):
            await run_on(client, host, nothing)
    with pytest.raises(OSError):
        await run_on(client, host, nothing)


async def test_drivers_sleep_by_the_clock_that_was_given(host: hostd.Host) -> None:
    clock = ManualClock()
    async with guestd.attach(host.socket, drivers=DRIVERS, clock=clock, memory=1 << 20) as guest:
        driver = await bound(guest)
        sleeping = asyncio.ensure_future(driver.clock.sleep(100))
        await asyncio.sleep(0)
        clock.turn(99)
        await guest.nop()
        assert not sleeping.done()
        clock.turn(1)
        await sleeping
        assert driver.clock.time() == 100
        sleeping = asyncio.ensure_future(driver.clock.sleep(100))
        await asyncio.sleep(0)
        sleeping.cancel()
        await asyncio.gather(sleeping, return_exceptions=True)
        clock.turn(200)
    await until(host, lambda: not host.guests.by_token)


async def test_memory_of_a_call_whose_task_was_cancelled_is_not_used_again_before_the_answer(host: hostd.Host) -> None:
    """The host may still fill it: a new buffer in its place would change under its owner."""
    async with attach(host) as guest:
        driver = await guest.bind("desk")
        free = guest.ram.first.size
        buffer = guest.ram.alloc(8192)
        reading = asyncio.ensure_future(driver.dev.call(driver.dev.calls["hold"], (), buffer.room))
        await guest.nop()
        reading.cancel()
        address = buffer.address
        buffer.free()
        with pytest.raises(MemoryError):
            guest.ram.alloc(free)
        with guest.ram.alloc(8192) as other:
            assert other.address >= address + 8192
        desk(host).waiting.pop().done(0)
        await guest.nop()
        guest.ram.alloc(free).free()


async def test_an_answer_that_comes_after_an_interrupted_gather_does_not_end_the_next_one(host: hostd.Host) -> None:
    loop = asyncio.get_running_loop()

    def work() -> list[int]:
        with blocking(host) as guest:
            driver = guest.bind("desk")

            async def stops() -> int:
                raise KeyboardInterrupt

            late = driver.late()
            with pytest.raises(KeyboardInterrupt):
                guest.gather(driver.same(1), late, stops())
            loop.call_soon_threadsafe(lambda: desk(host).waiting.pop().done(7))
            return guest.gather(driver.same(2), driver.same(3))

    assert await in_thread(host, work) == [2, 3]
