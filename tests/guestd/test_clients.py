"""Both clients: more calls than slots, failures beside successes, finding devices, and growing memory."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from desk import CLIENTS, DRIVERS, LIMIT, SLOTS, DeskDriver, attach, blocking, bound, desk, desks, take_all_slots
from raw import attached, bystander, in_thread, run_on, settled, until

import guestd
import hostd
from guestd.clients.guest import Guest
from guestd.driver import Driver
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import BadArea, BadArgument, Busy, HcallError, NoMatch


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with desks(tmp_path) as host:
        yield host


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


async def test_a_call_that_nobody_waits_for_any_more_is_not_made_if_it_was_not_yet(host: hostd.Host) -> None:
    async with bystander(host) as other, attach(host) as guest:
        driver = await guest.bind("desk")
        made, queued = await take_all_slots(driver), [driver.ring().call for _ in range(20)]
        await settled(other)
        for each in [made[0], *queued[:-1]]:
            each.cancel()
        for late in desk(host).waiting:
            late.done(1)
        await queued[-1]
        assert await asyncio.gather(*made[1:]) == [1] * (SLOTS - 1)
        (opened,) = host.tree.find("/desk").opens
        assert opened.counts == (1,)  # it rang once


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


async def cancelled(work: Coroutine[Any, Any, Any], steps: int, times: int = 1) -> bool:
    """Cancel *work* after so many steps of the loop, perhaps again meanwhile; whether it did not get through before."""
    task = asyncio.create_task(work)
    for _ in range(steps):
        await asyncio.sleep(0)
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    await asyncio.gather(task, return_exceptions=True)
    return task.cancelled()


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("how", ["bind_found", "bind_as", "bind", "a call"])
async def test_a_cancelled_bind_has_happened_and_is_closed_again(host: hostd.Host, how: str, times: int) -> None:
    """Wherever that is; and the next one, which does not even look for the device first, gets it."""
    async with attach(host) as guest:
        found, undone = await guest.found("desk"), 0
        bind: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
            "bind_found": lambda: guest.bind_found(found), "bind_as": lambda: guest.bind_as(found, Driver),
            "bind": lambda: guest.bind("desk"), "a call": lambda: guest["desk"].same(1),
        }  # fmt: skip
        for steps in range(60):
            if await cancelled(bind[how](), steps, times):
                undone += 1
                if times == 1 and how != "a call":  # which may have been bound, and then cancelled
                    await guest.nop()
                    assert not guest.drivers and not host.tree.find("/desk").opens
                await asyncio.sleep(0)
                driver = guest.drivers.get("/desk") or await guest.bind_found(found)
                assert await driver.same(1) == 1
            await guest.unbind("desk")
        assert 5 < undone < 60


async def test_what_was_bound_before_a_cancelled_bind_all_stays(host: hostd.Host) -> None:
    async with attach(host) as guest:
        for steps in range(60):
            await cancelled(guest.bind_all(), steps)
            assert await (await guest.bind("desk")).same(1) == 1
            for path in list(guest.drivers):
                await guest.unbind(path)


async def test_a_bind_that_is_cancelled_while_it_waits_for_a_slot_is_not_made(host: hostd.Host) -> None:
    async with bystander(host) as other, attach(host) as guest:
        driver, found = await guest.bind("desk"), await guest.found("other")
        waiting = await take_all_slots(driver)
        await settled(other)
        async with asyncio.timeout(2):  # it need not wait for an answer
            assert await cancelled(guest.bind_as(found, Driver), 1)
        for late in desk(host).waiting:
            late.done(1)
        assert await asyncio.gather(*waiting) == [1] * SLOTS
        status = await guest.core(found.node, numbers.OPEN, 0)
        assert status[0] == driver.dev.handle + 1  # handles are given in turn: nobody had one meanwhile


async def test_what_is_claimed_is_not_lost_with_the_task_and_comes_first(host: hostd.Host) -> None:
    async with bystander(host) as other, attach(host) as guest:
        driver = await guest.bind("desk")
        order: list[object] = []
        late, handle = driver.number("late"), driver.dev.handle

        async def claims() -> None:
            await guest.claim(order.append, order.append, handle, late)

        first = asyncio.create_task(claims())
        await settled(other)
        first.cancel()
        await guest.nop()
        first.cancel()  # it does not even wait for that
        await asyncio.gather(first, return_exceptions=True)
        second = asyncio.create_task(claims())
        await guest.nop()
        (waiting,) = desk(host).waiting  # the second call is made when the first one's answer is there
        waiting.done(7)
        while len(desk(host).waiting) < 2:
            await guest.nop()
        desk(host).waiting[1].done(8)
        await second
        assert order == [7, 8] and first.cancelled()
        third = asyncio.create_task(claims())
        while len(desk(host).waiting) < 3:
            await guest.nop()
        third.cancel()
        await asyncio.sleep(0)
        await guest.detach()
        await asyncio.gather(third, return_exceptions=True)  # nobody waits for what will not come
        assert third.cancelled() and order == [7, 8]


async def test_who_gives_up_while_a_device_is_given_back_has_given_it_back(host: hostd.Host) -> None:
    async with bystander(host) as other, attach(host) as guest:
        driver = await guest.bind("desk")
        waiting = await take_all_slots(driver)
        unbinding = asyncio.create_task(guest.unbind("desk"))  # CLOSE has to queue
        await settled(other)
        unbinding.cancel()
        await asyncio.gather(unbinding, return_exceptions=True)
        for late in desk(host).waiting:
            late.done(1)
        assert await asyncio.gather(*waiting) == [1] * SLOTS
        assert await (await guest.bind("desk")).same(1) == 1


@pytest.mark.parametrize("drivers", [["desk.py"], "desk.py", [DeskDriver, "x"]])
async def test_drivers_that_are_no_classes_are_told_at_once(host: hostd.Host, drivers: Any) -> None:
    async with bystander(host):
        for client in (guestd.AsyncGuest, guestd.BlockingGuest):
            with pytest.raises(TypeError, match=r"is no class of a driver; guestd.bus.own_drivers"):
                client(host.socket, drivers=drivers)


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
            await guest.core(0, numbers.ADD_MEMORY, 1 << 40, 4096, 99)
        with pytest.raises(BadArea):
            await guest.core(0, numbers.REMOVE_MEMORY, 1 << 40)

    async with bystander(host):
        await run_on(client, host, scenario, drivers=DRIVERS, memory=1 << 20)


async def test_memory_whose_lending_is_cancelled_is_given_back(host: hostd.Host) -> None:
    async with attach(host) as guest:
        steps = 0
        while await cancelled(guest.grow(4 << 20), steps):  # which there is room for once
            steps += 1
            with pytest.raises(MemoryError):
                guest.ram.alloc(4 << 20)
        assert steps > 1
        guest.ram.alloc(4 << 20).free()


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
        assert (await guest.call(numbers.ADD_MEMORY, 0, address, size, 6))[0] == error.status
        assert (await guest.call(numbers.ADD_MEMORY, 0, 1 << 40, 4096, 5))[0] == BadArgument.status


@pytest.mark.spec("S-11")
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
