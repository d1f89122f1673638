"""Turns of users: who waits is served before who had more, whatever one user multiplies.  Time is a number here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from raw import attached
from users import ALICE, BOB, connect, needs_root

import hostd
from hcall import numbers
from hcall.clock import ManualClock
from hcall.messages import ACK
from hcall.session.host import HostSession
from hcall.session.states import READY, Message
from hcall.wire import MAX_MESSAGE, encode
from hostd.guests.turns import PART, TURN, Once, Steps, Turns
from hostd.lanes.socket.lane import SocketLane

ONE, OTHER = 1, 2


class Bench:
    """Turns, a time that only work moves on, and who has worked, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []
        self.turns = Turns(lambda: self.now)

    def job(self, name: str, pieces: int, seconds: float = TURN / 4) -> Job:
        return Job(self, name, pieces, seconds)


class Job:
    """Has so many pieces of work, of so many seconds each."""

    def __init__(self, bench: Bench, name: str, pieces: int, seconds: float) -> None:
        self._bench, self._name, self.pieces, self._seconds = bench, name, pieces, seconds
        self.had = 0.0

    def work(self, until: float) -> bool:
        while self.pieces:
            self.pieces -= 1
            self._bench.log.append(self._name)
            self._bench.now += self._seconds
            if self._bench.now > until:
                break
        return bool(self.pieces)


async def rounds(count: int) -> None:
    """So many of the loop."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_each_user_has_the_same_time_however_many_guests_it_has() -> None:
    bench = Bench()
    for n in range(50):
        bench.turns.of(ONE).enter(bench.job(f"many {n}", 1000))
    bench.turns.of(OTHER).enter(bench.job("single", 1000))
    await rounds(41)
    single = bench.log.count("single")
    assert 0.4 < single / len(bench.log) < 0.6


async def test_one_round_of_the_loop_has_one_users_turn() -> None:
    bench = Bench()
    for user in (ONE, OTHER):
        bench.turns.of(user).enter(bench.job(f"{user}", 1000))
    await rounds(1)
    for _ in range(6):
        before, bench.log[:] = bench.now, []
        await rounds(1)
        assert len({*bench.log}) == 1 and TURN < bench.now - before <= TURN * 1.5


async def test_who_had_least_of_a_user_is_next() -> None:
    bench, user_jobs = Bench(), []
    user = bench.turns.of(ONE)
    for n in range(20):
        user_jobs.append(bench.job(f"large {n}", 1000, PART))
        user.enter(user_jobs[-1])
    await rounds(21)
    small = bench.job("small", 1, PART)
    user.enter(small)
    bench.log.clear()
    await rounds(2)
    assert "small" in bench.log and len({*bench.log}) < 20


async def test_who_had_none_for_long_is_not_owed_for_that() -> None:
    bench = Bench()
    user = bench.turns.of(ONE)
    user.enter(bench.job("old", 400))
    await rounds(30)
    user.enter(bench.job("new", 400))
    bench.log.clear()
    await rounds(30)
    assert 0.4 < bench.log.count("new") / len(bench.log) < 0.6


async def test_who_had_much_waits_for_a_part_of_each_of_the_others_only() -> None:
    bench = Bench()
    user = bench.turns.of(ONE)
    heavy = bench.job("heavy", 1, 100 * TURN)
    user.enter(heavy)
    await rounds(2)
    for n in range(10):
        user.enter(bench.job(f"other {n}", 1000, PART / 2))
    heavy.pieces = 1
    user.enter(heavy)
    bench.log.clear()
    await rounds(6)
    assert "heavy" in bench.log and bench.log.index("heavy") <= 10 * 4


async def test_a_user_that_has_used_up_its_time_waits_and_another_does_not() -> None:
    bench = Bench()
    one, other = bench.turns.of(ONE), bench.turns.of(OTHER)
    assert one.free <= bench.now
    bench.now += 1.5 * TURN
    one.charge(bench.now - 1.5 * TURN, bench.now)
    assert one.free > bench.now and other.free <= bench.now
    bench.now += TURN
    assert one.free <= bench.now  # soon, if nobody else waits


async def test_what_happens_once_is_done_at_once_or_in_turn() -> None:
    bench, done = Bench(), []

    def does() -> None:
        done.append(bench.now)
        bench.now += 1.5 * TURN

    user = bench.turns.of(ONE)
    assert [user.do(Once(does)) for _ in range(4)] == [True, False, False, False] and len(done) == 1
    assert bench.turns.of(OTHER).do(Once(does)) and len(done) == 2
    await rounds(8)
    assert len(done) == 5 and not user.queue


async def test_work_that_fails_does_not_end_the_turns_of_the_others() -> None:
    class Failing(Job):
        def work(self, until: float) -> bool:
            raise RuntimeError("a mistake of ours")

    bench, told = Bench(), []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["exception"]))
    bench.turns.of(ONE).enter(Failing(bench, "fails", 1, 0))
    bench.turns.of(OTHER).enter(bench.job("goes on", 1))
    await rounds(4)
    assert bench.log == ["goes on"] and [str(error) for error in told] == ["a mistake of ours"]


def test_steps_stop_when_time_is_up_and_go_on_where_they_were() -> None:
    bench, done = Bench(), []

    def steps() -> Iterator[None]:
        for n in range(10):
            done.append(n)
            bench.now += 1
            yield

    work = Steps(steps(), lambda: bench.now, lambda some: some())
    assert work.work(0, 2.5) and done == [0, 1, 2]
    assert not work.work(3, 100) and done == [*range(10)]


class Noting(HostSession):
    """Notes how many bytes it decodes at once."""

    def __init__(self) -> None:
        super().__init__(state=READY)
        self.sizes: list[int] = []

    def receive(self, data: bytes) -> list[Message]:
        self.sizes.append(len(data))
        return super().receive(data)


class Owner:
    """A guest whose time is always up."""

    name, dispatch, acknowledged = "owner", None, 0

    def due(self, lane: SocketLane) -> None:
        """It is worked for by the test."""

    def acknowledge(self, handle: int, vector: int, seen: int) -> None:
        self.acknowledged += 1


def test_bytes_are_decoded_as_there_is_time_for_them() -> None:
    session, owner = Noting(), Owner()
    lane = SocketLane(session, owner, lambda: 1.0)  # type: ignore[arg-type]  # all that is asked of it
    data = encode((ACK, 0, 0, 0)) * 20_000
    assert not lane.receive(data) and not session.sizes
    assert lane.work(0.0, 0.0) and sum(session.sizes) < MAX_MESSAGE and owner.acknowledged == 1
    while lane.work(0.0, 0.0):
        pass
    assert owner.acknowledged == 20_000 and sum(session.sizes) == len(data) and max(session.sizes) < MAX_MESSAGE


class Ticking(ManualClock):
    """Each look at it takes 10 us."""

    def time(self) -> float:
        self._now += 1e-5
        return self._now


POLICY = f"""
[devices.rng]
model = "rng"
[policy.one]
users = [{ALICE}]
see = ["*"]
[policy.other]
users = [{BOB}]
see = ["*"]
"""


@pytest.fixture
def policy_file(tmp_path: Path) -> Path:
    (tmp_path / "m.toml").write_text(POLICY)
    return tmp_path / "m.toml"


@needs_root
async def test_acknowledgements_are_of_the_turn_and_hold_up_no_other_user(policy_file: Path) -> None:
    async with hostd.serve(policy_file, clock=Ticking()) as host:
        one, other = connect(host.socket, ALICE), connect(host.socket, BOB)
        async with attached(host, sock=one) as flood, attached(host, sock=other) as guest:
            acks = encode((ACK, 0, 0, 0)) * 10_000
            flood.send(acks)
            await guest.core(numbers.NOP)
            lanes = {each.peer.uid: each.lane for each in host.guests.by_token.values()}
            assert lanes[ALICE].bytes < len(acks) or lanes[ALICE].waits
            assert not lanes[BOB].waits
            assert await flood.core(numbers.NOP) is None
