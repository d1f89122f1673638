"""The clock that is turned by hand calls what falls due, in order, each at its time, and never runs backwards."""

from __future__ import annotations

import asyncio

import pytest

from hcall.clock import LoopClock, ManualClock, sleep, timeout


class Diary:
    """Who was called, and what the clock said then."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.entries: list[tuple[str, float]] = []

    def note(self, name: str) -> None:
        self.entries.append((name, self.clock.time()))


def test_timers_are_called_by_time_then_by_age_and_see_their_own_time() -> None:
    diary = Diary()
    for name, delay in [("late", 3.0), ("a", 1.0), ("b", 2.0), ("c", 1.0), ("now", 0.0), ("never", 3.5)]:
        diary.clock.call_later(delay, lambda name=name: diary.note(name))  # type: ignore[misc]
    assert diary.entries == [] and diary.clock.time() == 0
    diary.clock.turn(3)
    assert diary.entries == [("now", 0), ("a", 1), ("c", 1), ("b", 2), ("late", 3)]
    assert diary.clock.time() == 3


@pytest.mark.parametrize("steps", [[2.0], [1.0, 1.0], [0.5] * 4, [0.0, 1.5, 0.5]])
def test_however_the_clock_is_turned_a_timer_is_called_once(steps: list[float]) -> None:
    diary = Diary()
    diary.clock.call_later(1, lambda: diary.note("a"))
    diary.clock.call_later(2, lambda: diary.note("b"))
    for seconds in steps:
        diary.clock.turn(seconds)
    assert diary.entries == [("a", 1), ("b", 2)] and diary.clock.time() == 2


def test_a_cancelled_timer_is_not_called_and_late_cancelling_does_nothing() -> None:
    diary = Diary()
    first = diary.clock.call_later(1, lambda: diary.note("first"))
    second = diary.clock.call_later(2, lambda: diary.note("second"))
    third = diary.clock.call_later(2, lambda: diary.note("third"))
    diary.clock.call_later(1, third.cancel)  # in the same turn as its time
    second.cancel()
    second.cancel()
    diary.clock.turn(2)
    first.cancel()
    diary.clock.turn(2)
    assert diary.entries == [("first", 1)]


def test_a_timer_made_by_a_timer_is_called_within_the_same_turn() -> None:
    diary = Diary()

    def tick() -> None:
        diary.note("tick")
        diary.clock.call_later(2, tick)

    diary.clock.call_later(2, tick)
    diary.clock.call_later(3, lambda: diary.clock.call_later(0, lambda: diary.note("at once")))
    diary.clock.turn(7)
    assert diary.entries == [("tick", 2), ("at once", 3), ("tick", 4), ("tick", 6)]
    diary.clock.turn(1)
    assert diary.entries[4:] == [("tick", 8)]


def test_a_timer_that_was_due_before_it_was_made_does_not_turn_the_clock_back() -> None:
    diary = Diary()
    diary.clock.turn(10)
    diary.clock.call_later(-4, lambda: diary.note("overdue"))  # an event loop takes it, too
    diary.clock.turn(1)
    assert diary.entries == [("overdue", 10)] and diary.clock.time() == 11


async def test_a_sleep_ends_when_its_clock_says_so_and_no_sooner() -> None:
    clock = ManualClock()
    sleeping = asyncio.create_task(sleep(clock, 3600))
    await asyncio.sleep(0)
    clock.turn(3599)
    await asyncio.sleep(0)
    assert not sleeping.done()
    clock.turn(1)
    await sleeping


async def test_a_sleep_that_is_cancelled_and_due_at_once_is_cancelled() -> None:
    clock = ManualClock()
    sleeping = asyncio.create_task(sleep(clock, 1))
    await asyncio.sleep(0)
    sleeping.cancel()
    clock.turn(1)
    with pytest.raises(asyncio.CancelledError):
        await sleeping


async def test_a_wait_ends_when_its_clock_says_so_and_is_over_by_then() -> None:
    clock, cleaned = ManualClock(), asyncio.Event()

    async def waits() -> None:
        async with timeout(clock, 60):
            try:
                await asyncio.Event().wait()
            finally:
                cleaned.set()

    waiting = asyncio.create_task(waits())
    await asyncio.sleep(0)
    clock.turn(59)
    await asyncio.sleep(0)
    assert not waiting.done()
    clock.turn(1)
    with pytest.raises(TimeoutError):
        await waiting
    assert cleaned.is_set()


@pytest.mark.parametrize("seconds", [60, 0, None])
async def test_what_is_ready_in_time_is_not_disturbed_later(seconds: float | None) -> None:
    clock = ManualClock()
    async with timeout(clock, seconds):
        pass
    clock.turn(120)
    await asyncio.sleep(0)  # would raise what was left of it


async def test_a_cancelled_wait_is_no_timeout() -> None:
    clock = ManualClock()

    async def waits() -> None:
        async with timeout(clock, 60):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(waits())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    clock.turn(120)


async def test_of_two_waits_the_one_whose_time_is_up_ends() -> None:
    clock = ManualClock()

    async def waits() -> str:
        try:
            async with timeout(clock, 60):
                try:
                    async with timeout(clock, 10):
                        await asyncio.Event().wait()
                except TimeoutError:
                    return "inner"
        except TimeoutError:
            return "outer"
        return "none"

    waiting = asyncio.create_task(waits())
    await asyncio.sleep(0)
    clock.turn(10)
    assert await waiting == "inner"


async def test_the_clock_of_a_loop_goes_on_within_a_callback_and_keeps_its_word() -> None:
    clock = LoopClock()
    began = clock.time()
    while clock.time() < began + 0.003:  # uvloop's own time stands still here
        pass
    due, woken = clock.time() + 0.01, asyncio.Event()
    clock.call_later(0.01, woken.set)
    await woken.wait()
    assert clock.time() > due - 0.001  # a millisecond: uvloop counts no finer


async def test_no_delay_is_the_next_round_of_the_loop_however_long_this_one_took() -> None:
    clock, rounds, called = LoopClock(), list[float](), asyncio.Event()
    until = clock.time() + 0.002

    def round_of_the_loop() -> None:
        rounds.append(clock.time())
        if not called.is_set():
            asyncio.get_running_loop().call_soon(round_of_the_loop)

    while clock.time() < until:  # a timer would count from when the round began
        pass
    clock.call_later(0, called.set)
    round_of_the_loop()
    await called.wait()
    assert len(rounds) <= 2
