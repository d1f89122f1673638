"""A driver that several tasks ask for at once, some of whom give up: a bind is undone only if nobody has got it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from desk import DeskDriver, attach, desks
from giving_up import given_up

import guestd
import hostd
from hcall.errors import NoMatch

STEPS = range(1, 50)  # of the loop: more than a bind takes


@pytest_asyncio.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with desks(tmp_path) as running:
        yield running


@pytest.mark.parametrize("steps", STEPS)
async def test_who_gives_up_takes_nothing_from_who_has_got_it(host: hostd.Host, steps: int) -> None:
    async with attach(host) as guest:
        first = asyncio.ensure_future(guest.bind("desk"))
        await given_up(guest.bind("desk"), steps)
        driver = await first
        assert guest.drivers == {"/desk": driver}
        assert await driver.same(1) == 1


@pytest.mark.parametrize("steps", STEPS)
async def test_who_asks_when_another_gives_up_gets_one_that_works(host: hostd.Host, steps: int) -> None:
    async with attach(host) as guest:
        await given_up(guest.bind("desk"), steps)
        assert await (await guest.bind("desk")).same(1) == 1
        assert len(guest.devices) == 1


class Slow(DeskDriver):
    """Has something to say before it lets go."""

    async def remove(self) -> None:
        for n in range(20):
            await self.same(n)


@pytest.mark.parametrize("steps", range(1, 20))
async def test_who_binds_while_it_is_unbound_waits_for_that(host: hostd.Host, steps: int) -> None:
    async with guestd.attach(host.socket, drivers=[Slow], memory=1 << 20) as guest:
        before = await guest.bind("desk")
        await given_up(guest.unbind("desk"), steps)  # it goes on
        with pytest.raises(NoMatch):
            await guest.unbind("/desk")
        driver = await guest.bind_found(await guest.found("desk"))
        assert driver is not before and await driver.same(1) == 1
