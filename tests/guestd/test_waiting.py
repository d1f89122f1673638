"""Drivers that wait: for a time, for this or that long, beside each other; the same on both clients, by a clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest
from desk import CLIENTS, DRIVERS, SLOTS, DeskDriver, blocking, bound, desk, desks
from raw import attached, in_thread, run_on, settled

import guestd
import hostd
from guestd.clients.guest import Guest
from hcall.clock import ManualClock
from hcall.errors import BadArgument, LinkLost


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with desks(tmp_path) as host:
        yield host


async def both(guest: Guest[Any], *work: Coroutine[Any, Any, Any]) -> list[Any]:
    """Run them beside each other, on whichever client."""
    if isinstance(guest, guestd.BlockingGuest):
        return guest.gather(*work)
    return list(await asyncio.gather(*work))


def turned(clock: ManualClock, seconds: float) -> Coroutine[Any, Any, None]:
    async def turn() -> None:
        clock.turn(seconds)

    return turn()


async def waits(driver: DeskDriver, seconds: float) -> str:
    try:
        await driver.bell.wait(seconds)
    except TimeoutError:
        return "nothing"
    return "rung"


@CLIENTS
async def test_a_signal_or_so_many_seconds_whichever_comes_first(host: hostd.Host, client: str) -> None:
    clock = ManualClock()

    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        assert await both(guest, waits(driver, 100), turned(clock, 99), driver_rings(driver)) == ["rung", None, None]
        assert await both(guest, waits(driver, 100), turned(clock, 100)) == ["nothing", None]
        await driver.ring()  # just after: it is there for the next one
        assert await waits(driver, 100) == "rung"
        assert await waits(driver, 0) == "nothing"
        await driver.ring()
        assert await waits(driver, 0) == "rung"
        assert await driver.same(1) == 1

    await run_on(client, host, scenario, drivers=DRIVERS, clock=clock)


async def driver_rings(driver: DeskDriver) -> None:
    await driver.ring()


@CLIENTS
async def test_what_takes_too_long_is_told_to_the_innermost_that_it_is_too_long_for(
    host: hostd.Host, client: str
) -> None:
    clock = ManualClock()

    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        told: list[str] = []

        async def nested(outer: float, inner: float) -> None:
            try:
                async with driver.clock.timeout(outer):
                    try:
                        async with driver.clock.timeout(inner), driver.clock.timeout(None):
                            await driver.clock.sleep(1000)
                    except TimeoutError:
                        told.append("inner")
                    await driver.same(1)
                    await driver.clock.sleep(5)
                    told.append("through")
            except TimeoutError:
                told.append("outer")
            assert await driver.same(2) == 2

        async def turn(*seconds: float) -> None:
            for each in seconds:
                clock.turn(each)
                for n in range(5):  # round trips, by which the other has got on
                    assert await driver.same(n) == n

        await both(guest, nested(50, 20), turn(20, 4, 1))
        await both(guest, nested(20, 50), turn(60))
        await both(guest, nested(22, 20), turn(20, 3))
        assert told == ["inner", "through", "outer", "inner", "outer"]

    await run_on(client, host, scenario, drivers=DRIVERS, clock=clock)


@CLIENTS
async def test_errors_and_clean_ups_go_through_a_time_that_is_over(host: hostd.Host, client: str) -> None:
    clock, cleaned = ManualClock(), []

    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)

        async def cleans_up() -> None:
            async with driver.clock.timeout(10):
                try:
                    await driver.clock.sleep(20)
                except Exception:  # a driver's own handling of errors does not stop it
                    cleaned.append("never")
                finally:
                    cleaned.append(await driver.same(5))

        with pytest.raises(TimeoutError):
            await both(guest, cleans_up(), turned(clock, 10))
        assert cleaned == [5]
        with pytest.raises(BadArgument):
            async with driver.clock.timeout(10):
                await driver.same(-1)
        clock.turn(100)  # none of them is left
        assert await driver.same(1) == 1

    await run_on(client, host, scenario, drivers=DRIVERS, clock=clock)


@CLIENTS
async def test_sleepers_and_waiters_let_the_others_go_on(host: hostd.Host, client: str) -> None:
    clock, order = ManualClock(), []

    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)

        async def sleeps(seconds: float) -> None:
            await driver.clock.sleep(seconds)
            order.append(seconds)

        async def hears() -> None:
            await driver.bell.wait()
            order.append("bell")
            clock.turn(25)

        async def calls() -> None:
            for n in range(20):
                assert await driver.same(n) == n
            order.append("calls")
            await driver.ring()

        await both(guest, sleeps(20), sleeps(10), sleeps(25), hears(), calls(), sleeps(0))
        order.remove(0)
        assert order == ["calls", "bell", 10, 20, 25] and driver.clock.time() == 25

    await run_on(client, host, scenario, drivers=DRIVERS, clock=clock)


async def test_gather_of_many_sleepers_takes_as_long_as_the_longest(host: hostd.Host) -> None:
    def work() -> float:
        with blocking(host) as guest:
            driver = guest.bind("desk")
            began = driver.clock.time()
            guest.gather(*(driver.clock.sleep(0.001 * (n % 40)) for n in range(400)))
            return driver.clock.time() - began  # type: ignore[no-any-return]

    assert 0.039 <= await in_thread(host, work) < 2


async def test_a_clock_that_another_thread_turns_wakes_the_blocking_client(host: hostd.Host) -> None:
    clock = ManualClock()

    def work() -> float:
        with guestd.attach_blocking(host.socket, drivers=DRIVERS, memory=4096, clock=clock) as guest:
            driver = guest.bind("desk")
            driver_sleeps.set()
            guest.run(driver.clock.sleep(3600))
            assert not guest.wait(0)
            return driver.clock.time()

    loop = asyncio.get_running_loop()
    driver_sleeps = Flag(loop)
    task = asyncio.create_task(in_thread(host, work))
    await driver_sleeps.wait()
    while not task.done():
        clock.turn(1800)
        await asyncio.sleep(0)
    assert await task >= 3600


class Flag:
    """An event that another thread sets."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._event = loop, asyncio.Event()
        self.wait = self._event.wait

    def set(self) -> None:
        self._loop.call_soon_threadsafe(self._event.set)


# Calls of the blocking client that take long.


async def test_a_result_is_waited_for_so_long_and_may_be_asked_for_again(host: hostd.Host) -> None:
    loop = asyncio.get_running_loop()

    def work() -> int:
        with blocking(host) as guest:
            late = guest.bind("desk").late().call
            for seconds in (0, 0.01):
                with pytest.raises(TimeoutError, match=f"no answer within {seconds:g} s"):
                    late.result(seconds)
            loop.call_soon_threadsafe(lambda: desk(host).waiting.pop().done(7))
            assert late.result(100) == 7
            return late.result(0)  # type: ignore[no-any-return]

    assert await in_thread(host, work) == 7


@pytest.mark.parametrize("how", ["result", "run", "gather", "driver", "in a coroutine"])
async def test_a_guest_with_a_timeout_waits_no_longer_for_any_call(host: hostd.Host, how: str) -> None:
    def work() -> None:
        options: Any = {"drivers": DRIVERS, "memory": 4096}
        with guestd.attach_blocking(host.socket, timeout=0.02, **options) as guest:
            driver: Any = guest.bind("desk")

            async def calls() -> int:
                with pytest.raises(TimeoutError):
                    await driver.late()
                return await driver.same(3)  # type: ignore[no-any-return]

            waits = {
                "result": lambda: guest.run(driver.late().call), "run": lambda: guest.run(driver.late()),
                "gather": lambda: guest.gather(driver.late(), driver.same(1)), "driver": guest["desk"].late,
                "in a coroutine": None,
            }[how]  # fmt: skip
            if waits is None:
                assert guest.run(calls()) == 3
            else:
                with pytest.raises(TimeoutError):
                    waits()
            assert guest["desk"].same(2) == 2

    await in_thread(host, work)
    assert len(desk(host).waiting) == 1


async def test_a_call_whose_time_is_over_in_the_queue_is_told_so_too(host: hostd.Host) -> None:
    def work() -> None:
        with blocking(host) as guest:
            driver = guest.bind("desk")
            lates = [driver.late().call for _ in range(SLOTS)]
            queued = driver.same(9).call
            with pytest.raises(TimeoutError):
                queued.result(0.01)
            finish.set()
            assert queued.result() == 9 and [late.result() for late in lates] == [1] * SLOTS

    finish = Flag(asyncio.get_running_loop())
    async with attached(host) as other:
        task = asyncio.create_task(in_thread(host, work))
        await finish.wait()
        await settled(other)
        for late in desk(host).waiting:
            late.done(1)
        await task


@CLIENTS
async def test_who_sleeps_when_the_session_ends_hears_of_it_when_he_calls(host: hostd.Host, client: str) -> None:
    loop = asyncio.get_running_loop()

    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        loop.call_soon_threadsafe(end)
        with pytest.raises(LinkLost, match="enough"):
            await driver.bell.wait(3600)
        with pytest.raises(LinkLost, match="enough"):
            await driver.same(1)

    def end() -> None:
        (guest,) = host.guests.by_token.values()
        host.guests.end(guest, BadArgument.status, "enough")

    await run_on(client, host, scenario, drivers=DRIVERS)


async def test_what_a_driver_must_not_await_is_told(host: hostd.Host) -> None:
    class Foreign:
        def __await__(self) -> Any:
            yield "something"

    async def strange() -> None:
        await Foreign()

    def work() -> None:
        with blocking(host) as guest:
            for run in (guest.run, guest.gather):
                with pytest.raises(RuntimeError, match="a driver awaited something that is not its device"):
                    run(strange())
            with pytest.raises(RuntimeError, match="a driver awaited"):
                guest.gather(strange(), guest.bind("desk").same(1))

    await in_thread(host, work)
