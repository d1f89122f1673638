"""What a driver does by several calls is not mixed with the same of another task; the same on both clients."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from desk import CLIENTS, DRIVERS, DeskDriver, bound, desks
from raw import run_on
from test_waiting import both

import hostd
from guestd.clients.guest import Guest
from hcall.clock import ManualClock
from hcall.errors import BadArgument


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with desks(tmp_path) as running:
        yield running


@CLIENTS
async def test_one_has_it_at_a_time_in_the_order_of_asking(host: hostd.Host, client: str) -> None:
    done: list[tuple[int, int]] = []

    async def steps(driver: DeskDriver, lock: Any, n: int) -> None:
        async with lock:
            for step in range(3):
                done.append((n, await driver.same(step)))

    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        lock = driver.dev.lock()
        for _ in range(2):
            done.clear()
            await both(guest, *(steps(driver, lock, n) for n in range(20)))
            assert done == [(n, step) for n in range(20) for step in range(3)]

    await run_on(client, host, scenario, drivers=DRIVERS, memory=1 << 20)


@CLIENTS
async def test_who_fails_or_has_no_more_time_hands_it_on(host: hostd.Host, client: str) -> None:
    clock = ManualClock()
    done: list[str] = []

    async def fails(driver: DeskDriver, lock: Any) -> None:
        try:
            async with lock:
                await driver.same(-1)
        except BadArgument:
            done.append("failed")

    async def sleeps(driver: DeskDriver, lock: Any) -> None:
        async with lock:
            await driver.clock.sleep(10)
            done.append("slept")

    async def gives_up(driver: DeskDriver, lock: Any) -> None:
        try:
            async with driver.clock.timeout(5), lock:
                done.append("wrong")
        except TimeoutError:
            done.append("gave up")

    async def comes_last(driver: DeskDriver, lock: Any) -> None:
        async with lock:
            done.append("last")

    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        lock = driver.dev.lock()
        work = [each(driver, lock) for each in (fails, sleeps, gives_up, comes_last)]
        await both(guest, *work, later(driver))
        assert done == ["failed", "gave up", "slept", "last"]

    async def later(driver: DeskDriver) -> None:
        for _ in range(20):  # until all of them wait
            await driver.same(1)
        clock.turn(5)
        for _ in range(20):
            await driver.same(1)
        clock.turn(5)

    await run_on(client, host, scenario, drivers=DRIVERS, memory=1 << 20, clock=clock)
