"""What the host does to many guests at once goes on in parts, and is nevertheless seen as a whole."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import pytest
from raw import RawGuest, attached, connected, served, until
from test_users_turns import ONE, Bench, rounds

import hostd
from hcall import numbers
from hcall.clock import LoopClock, ManualClock
from hcall.errors import Status
from hostd.guests.policy import Policy, Rule
from hostd.guests.turns import TURN, Chores

MANY = 12


class Slow(LoopClock):
    """By this clock whatever is done takes more than a turn."""

    def __init__(self) -> None:
        super().__init__()
        self._looks, self._real = 0, self.time
        self.time = self._slow

    def _slow(self) -> float:
        self._looks += 1
        return self._real() + self._looks * TURN


class Working(ManualClock):
    """So does this one, which is turned by hand."""

    def time(self) -> float:
        self._now += TURN
        return self._now


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, clock=Slow()) as host:
        yield host


async def test_chores_are_done_in_turns_one_after_the_other() -> None:
    bench, log = Bench(), list[str]()
    chores = Chores(bench.turns)

    def steps(name: str) -> Iterator[None]:
        for n in range(6):
            log.append(f"{name} {n}")
            bench.now += TURN
            yield

    chores.add(steps("a"))
    chores.add(steps("b"))
    bench.turns.of(ONE).enter(bench.job("guest", 4, TURN))
    assert 0 < len(log) < 6 and not bench.log
    await rounds(4)
    assert len(log) < 12 and bench.log
    await rounds(20)
    assert log == [f"{name} {n}" for name in "ab" for n in range(6)]


async def test_much_is_gathered_in_turns_and_what_fails_on_the_way_is_raised() -> None:
    bench = Bench()
    chores = Chores(bench.turns)

    def each(most: int) -> Iterator[int]:
        for n in range(most):
            bench.now += TURN
            yield n
        raise ValueError("so far")

    gathering = asyncio.ensure_future(chores.gather(itertools.islice(each(10), 9)))
    await rounds(2)
    bench.turns.of(ONE).enter(bench.job("guest", 4, TURN))
    await rounds(4)
    assert bench.log and not gathering.done()
    assert await gathering == list(range(9))
    with pytest.raises(ValueError, match="so far"):
        await chores.gather(each(3))


async def test_a_chore_that_fails_is_told_and_the_next_is_done() -> None:
    bench, told, done = Bench(), [], list[int]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))

    def fails() -> Iterator[None]:
        raise RuntimeError("a mistake of ours")
        yield

    chores = Chores(bench.turns)
    await chores.do(fails())
    await chores.do(iter([None]))
    chores.add(map(done.append, [1]))
    assert [str(error) for error in told] == ["a mistake of ours"] and done == [1]


async def test_what_is_left_can_be_finished_at_once() -> None:
    bench, done = Bench(), list[int]()

    def steps() -> Iterator[None]:
        for n in range(6):
            done.append(n)
            bench.now += TURN
            yield

    chores = Chores(bench.turns)
    chores.add(steps())
    assert len(done) < 6
    chores.finish()
    assert len(done) == 6
    await rounds(4)


async def test_what_is_unplugged_is_gone_at_once_and_closed_in_parts(host: hostd.Host) -> None:
    node = host.tree.find("/rng")
    async with attached(host) as guest:
        handles = [(await guest.open("/rng"))[0] for _ in range(MANY)]
        _, calls = await guest.open("/rng")
        unplugging = asyncio.create_task(host.unplug("/rng", surprise=True))
        await asyncio.sleep(0)
        assert node.gone and len(node.opens) > MANY / 2, "closed, or not begun"
        sent = [guest.next_call(calls["read"], handles[-1], (0,), (8,), slot=0),
                guest.next_call(numbers.GET_STATUS, handles[-1], slot=1),
                guest.next_call(numbers.CLOSE, handles[-1], slot=2)]  # fmt: skip
        way_in = host.guests.by_number[1].dispatch
        assert way_in(calls["read"], handles[-1], (0,), (8,))[0] == Status.STALE_HANDLE  # type: ignore[index]
        assert way_in(numbers.CLOSE, handles[-1], (), ())[0] == Status.STALE_HANDLE  # type: ignore[index]
        assert len(node.opens) > MANY / 2 and not node.plugged.stopped  # type: ignore[union-attr]
        guest.send(b"".join(sent))
        assert [(await guest.reply())[0] for _ in sent] == [Status.STALE_HANDLE] * 3
        assert await unplugging
        assert not node.opens and node.plugged.stopped  # type: ignore[union-attr]


async def test_those_who_watch_are_told_in_parts(host: hostd.Host) -> None:
    async with AsyncExitStack() as stack:
        guests = [await stack.enter_async_context(attached(host)) for _ in range(MANY)]
        for guest in guests:
            await guest.core(numbers.CHANGES, 0, 0)
        told = list[int]()
        for number, each in host.guests.by_number.items():
            each.account.tree.watchers[number] = lambda *_, number=number: told.append(number)
        unplugging = asyncio.create_task(host.unplug("/rng", surprise=True))
        await asyncio.sleep(0)
        assert len(told) < MANY
        await unplugging
        assert len(told) == MANY
        for number in list(host.guests.by_number):
            del host.tree.watchers[number]
        for guest in guests:
            await guest.core(numbers.NOP)
            assert guest.interrupts


async def test_a_new_policy_comes_to_one_guest_after_the_other_and_then_holds_for_all(host: hostd.Host) -> None:
    async with AsyncExitStack() as stack:
        guests: list[RawGuest] = [await stack.enter_async_context(attached(host)) for _ in range(MANY)]
        for guest in guests:
            await guest.open("/rng")
        obeying = asyncio.create_task(host.guests.obey(Policy((Rule("none", open=("other",)),))))
        await asyncio.sleep(0)
        having = [bool(each.rights.rules) for each in host.guests.by_token.values()]
        assert having.count(True) < MANY
        await obeying
        assert all(each.rights.rules for each in host.guests.by_token.values())
        for guest in guests:
            assert (await guest.call(numbers.FIND, 0, "/rng"))[0] == Status.NO_MATCH
        assert not host.tree.find("/rng").opens


async def test_not_all_who_connect_are_let_in_in_one_round_of_the_loop(host: hostd.Host) -> None:
    seen = list[int]()
    with ExitStack() as stack:
        for _ in range(MANY):
            stack.enter_context(connected(host))
        while len(host.guests.greetings) < MANY:  # in rounds of the loop, which are what it is about
            seen.append(len(host.guests.greetings))
            await asyncio.sleep(0)
        seen.append(len(host.guests.greetings))
    assert all(later - before <= 1 for before, later in itertools.pairwise(seen))
    await until(host, lambda: not host.guests.greetings)


async def test_those_who_say_nothing_are_hung_up_on_in_turns(tmp_path: Path) -> None:
    clock = Working()
    async with served(tmp_path, clock=clock) as host:
        with ExitStack() as stack:
            guests = [stack.enter_context(connected(host)) for _ in range(MANY)]
            while len(host.guests.greetings) < MANY:  # noqa: ASYNC110  # nobody is told
                await asyncio.sleep(0)
            later = 0  # not when the clock said so, but in a round of the loop after that
            while host.guests.greetings:
                clock.turn(1)
                before = len(host.guests.greetings)
                await asyncio.sleep(0)
                later += before - len(host.guests.greetings)
            assert later > MANY / 2
            assert [(await guest.ended())[0] for guest in guests] == [Status.BAD_ARGUMENT] * MANY
