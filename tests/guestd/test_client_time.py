"""How long a guest waits for its host, by the clock that it was given: no second of the system's passes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import pytest
from desk import CLIENTS
from fake_host import FakeHost, lying

import guestd
from guestd.clients.guest import Guest
from guestd.clients.reaching import DETACH_SECONDS, PATIENCE_SECONDS, WELCOME_SECONDS
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import LinkLost

STEP: Final = 0.5
GUARD: Final = 10  # seconds of real time, which no test uses up


async def attached(client: str, path: Path, clock: ManualClock, scenario: Any) -> None:
    """Attach by *clock*, and run *scenario*(guest)."""
    if client == "asyncio":
        async with guestd.attach(path, clock=clock, memory=4096) as guest:
            await scenario(guest)
        return

    def work() -> None:
        with guestd.attach_blocking(path, clock=clock, memory=4096) as guest:
            guest.run(scenario(guest))

    await asyncio.to_thread(work)


async def turned(clock: ManualClock, work: Coroutine[Any, Any, None], when: Callable[[], object]) -> float:
    """Do *work* while the clock is turned, step by step from *when* on; how far it was turned."""
    began = clock.time()
    async with asyncio.timeout(GUARD):
        task = asyncio.create_task(work)
        while not task.done():
            clock.turn(STEP if when() else 0)
            for _ in range(20):  # what is due has its turn before the next step
                await asyncio.sleep(0)
        await task
    return clock.time() - began


async def nothing(guest: Guest[Any]) -> None:
    """Only attach, and leave."""


@CLIENTS
async def test_a_host_that_does_not_say_welcome(tmp_path: Path, client: str) -> None:
    async def attach() -> None:
        with pytest.raises(TimeoutError, match="did not answer within 5 s"):
            await attached(client, host.path, clock, nothing)

    clock = ManualClock()
    with lying(tmp_path, {}) as host:
        host.mute = True
        assert await turned(clock, attach(), lambda: host.hellos) >= WELCOME_SECONDS


@CLIENTS
async def test_a_host_that_does_not_take_leave(tmp_path: Path, client: str) -> None:
    clock = ManualClock()
    with lying(tmp_path, {numbers.DETACH: bytearray()}) as host:
        leaving = attached(client, host.path, clock, nothing)
        assert await turned(clock, leaving, lambda: host.came and host.came[-1][3] == numbers.DETACH) >= DETACH_SECONDS


@CLIENTS
async def test_a_host_that_is_gone(tmp_path: Path, client: str) -> None:
    async def lose(guest: Guest[Any]) -> None:
        host.close()
        lost.append(True)
        with pytest.raises(LinkLost, match="no host at"):
            await guest.call(0, numbers.NOP)

    clock = ManualClock()
    lost: list[bool] = []
    host = FakeHost(tmp_path, "test,thing", {}, {})
    assert await turned(clock, attached(client, host.path, clock, lose), lambda: lost) >= PATIENCE_SECONDS


@CLIENTS
async def test_a_host_that_says_nothing_any_more_to_one_who_comes_back(tmp_path: Path, client: str) -> None:
    async def lose(guest: Guest[Any]) -> None:
        host.mute = True
        host.cut()
        with pytest.raises(LinkLost, match="did not answer"):
            await guest.call(0, numbers.NOP)

    clock = ManualClock()
    with lying(tmp_path, {}) as host:
        assert await turned(clock, attached(client, host.path, clock, lose), lambda: host.mute) >= WELCOME_SECONDS


@CLIENTS
async def test_a_clock_that_stands_still_keeps_nobody_from_coming_back(tmp_path: Path, client: str) -> None:
    async def cut(guest: Guest[Any]) -> None:
        for n in range(3):
            host.cut()
            await guest.call(0, numbers.NOP)
            assert guest.resumed == n + 1

    with lying(tmp_path, {}) as host:
        async with asyncio.timeout(GUARD):
            await attached(client, host.path, ManualClock(), cut)
