"""Who is answered fast looks again before it sleeps, and stops where that does not pay, by a clock turned by hand."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Final

import pytest

from hcall.clock import ManualClock
from hcall.kernel import processors
from hcall.spin import CHECK_SECONDS, LOOKS, SECONDS, Awake, Spin

LOOK: Final = SECONDS / 9.99  # that one look takes here: ten of them


class Bench:
    """A spin, whose time, processors and lost ones are set by hand."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.switches, self.processors = 0, 2
        self.asked = 0  # times that the kernel was asked for switches
        self.spin = Spin(self.clock.time, self._switches, lambda: self.processors)

    def _switches(self) -> int:
        self.asked += 1
        return self.switches

    def looks(self, after: int | None = None) -> int:
        """Something came: how often it looks until something else comes, *after* so many looks, or never."""
        if not self.spin.came():
            return 0
        looks = 1
        while looks != after:
            self.clock.turn(LOOK)
            if not self.spin.again():
                break
            looks += 1
        return looks

    def rounds(self, count: int, lost: int = 0) -> list[int]:
        """The looks of *count* times that something comes at the third look, the core lost *lost* times in each."""
        found = []
        for _ in range(count):
            found.append(self.looks(after=3))
            self.clock.turn(LOOK)
            self.switches += lost
        return found


def test_who_is_answered_in_time_looks_each_time_until_the_answer_comes() -> None:
    bench = Bench()
    assert bench.rounds(1000) == [3] * 1000


def test_it_looks_for_100_us_and_no_longer() -> None:
    bench = Bench()
    assert bench.looks() == 10 and SECONDS == 0.0001
    assert not bench.spin.again()


def test_what_comes_late_is_waited_for_anew() -> None:
    bench = Bench()
    assert [bench.looks(after=9) for _ in range(4)] == [9] * 4  # each has 100 us from the last one on


def test_sparse_callers_are_left_out_ever_more_often() -> None:
    bench = Bench()
    found = []
    for _ in range(5000):
        found.append(bench.looks())
        bench.clock.turn(0.01)
    spun = [n for n, looks in enumerate(found) if looks]
    apart = [after - before - 1 for before, after in pairwise(spun)]
    assert apart == [1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 1023, 1023]


def test_one_who_was_sparse_and_calls_much_again_is_forgiven() -> None:
    bench = Bench()
    for _ in range(8):
        bench.looks()  # 3 times in vain
    bench.rounds(200)
    assert bench.looks() == 10 and bench.looks() == 10  # it came in time until then: that was no miss
    assert [bench.looks() for _ in range(3)] == [0, 10, 0]


@pytest.mark.parametrize(("found", "looks", "then"), [(3, 2, 0), (4, 2, 10), (99, 2, 10), (99, 1, 0)])
def test_what_was_found_makes_up_for_a_miss_if_it_was_enough_and_looked_for(found: int, looks: int, then: int) -> None:
    bench = Bench()
    for _ in range(found):
        assert bench.looks(after=looks) == looks  # the first one is there already: nobody would have slept
    assert [bench.looks(), bench.looks()] == [10, then]


def test_a_core_that_is_shared_is_left_alone() -> None:
    bench = Bench()
    found = bench.rounds(20_000, lost=1)  # once in 30 us
    assert sum(map(bool, found)) < len(found) / 100
    bench.switches = 0
    assert sum(map(bool, bench.rounds(4000))) > 2500  # the others are gone: within 1,023 times it notices


def test_to_lose_the_core_now_and_then_is_no_reason() -> None:
    bench = Bench()
    for _ in range(200):
        assert bench.rounds(50) == [3] * 50  # 1.5 ms
        bench.switches += 3


def test_a_core_that_is_lost_at_once_is_a_miss_however_soon_the_answer_came() -> None:
    bench = Bench()
    assert bench.looks(after=2) == 2
    bench.switches += 1  # the kernel gave it to the peer, who answered
    assert bench.looks() == 10
    assert [bench.looks(), bench.looks()] == [0, 10]


def test_the_kernel_is_asked_once_in_a_millisecond() -> None:
    bench = Bench()
    bench.rounds(1000)
    assert bench.asked <= 2 * bench.clock.time() / CHECK_SECONDS


def test_one_processor_is_not_spun_on() -> None:
    bench = Bench()
    bench.processors = 1
    assert bench.rounds(3000) == [0] * 3000
    bench.processors = 2
    assert 3 in bench.rounds(1024)


def test_a_clock_that_stands_still_ends_it_too() -> None:
    spin = Spin(ManualClock().time, lambda: 0, lambda: 2)
    assert spin.came()
    assert sum(iter(spin.again, False)) == LOOKS - 1


def test_who_is_told_to_rest_looks_no_more_and_that_was_no_miss() -> None:
    bench = Bench()
    assert bench.spin.came() and bench.spin.again()
    bench.spin.rest()
    assert not bench.spin.again()
    assert bench.looks() == 10


def test_what_the_kernel_tells() -> None:
    assert processors.switches() >= 0 and processors.count() >= 1
    spin = processors.spin(ManualClock().time)
    assert spin.came() is (processors.count() > 1)


# A loop is kept awake by a callback, and by one only.


class Loop:
    """What an event loop has to do."""

    def __init__(self) -> None:
        self.ready: deque[Callable[[], None]] = deque()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.ready.append(callback)

    def round(self) -> int:
        """Make the callbacks that are there now; how many there are then."""
        for _ in range(len(self.ready)):
            self.ready.popleft()()
        return len(self.ready)


def test_a_loop_goes_round_as_long_as_something_may_come_and_then_rests() -> None:
    bench, loop = Bench(), Loop()
    awake = Awake(bench.spin, loop.call_soon)
    assert not loop.ready
    for _ in range(50):
        awake.came()
        awake.came()
        for _ in range(5):
            assert loop.round() == 1
            bench.clock.turn(LOOK)
    rounds = 0
    while loop.round():
        bench.clock.turn(LOOK)
        rounds += 1
    assert rounds == 5  # the rest of 100 us
    awake.came()
    assert loop.round() == 1  # that was no miss


def test_a_loop_that_is_told_to_rest_has_nothing_to_do() -> None:
    bench, loop = Bench(), Loop()
    awake = Awake(bench.spin, loop.call_soon)
    awake.came()
    awake.rest()
    assert loop.round() == 0
    awake.came()
    awake.rest()
    awake.came()  # before it went round
    assert loop.round() == 1
    awake.rest()
    assert loop.round() == 0


async def test_a_real_loop_looks_and_ends() -> None:
    loop = asyncio.get_running_loop()
    made: list[Callable[[], None]] = []

    def call_soon(callback: Callable[[], None]) -> None:
        made.append(callback)
        loop.call_soon(callback)

    awake = Awake(Spin(ManualClock().time, lambda: 0, lambda: 2), call_soon)
    awake.came()
    for _ in range(2 * LOOKS):
        await asyncio.sleep(0)
    assert len(made) == LOOKS
