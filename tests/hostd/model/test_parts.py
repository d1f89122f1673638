"""Work in parts: what is short is answered at once, what is long lets others have turns; in order, and not in vain."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from raw import RawGuest, attached, plugged, served

from hcall import numbers
from hcall.clock import ManualClock, Timer
from hcall.errors import BadArgument, Reset, Status
from hostd.device import Device, Later, Steps, call
from hostd.machine.file import DeviceSpec
from hostd.model.later import SLICE_SECONDS
from hostd.tree.plugged import Plugged

TURN = 5  # steps; each takes a quarter of a slice


class Passing(ManualClock):
    """A clock on which every look takes time."""

    def time(self) -> float:
        self._now += SLICE_SECONDS / 4
        return self._now


class Counting(Device):
    """Counts in parts, and keeps what it did."""

    compatible = "test,counting"

    def start(self) -> None:
        self.did: list[str] = []

    @call
    def count(self, name: str, to: int) -> int | Later[int]:
        return self.in_parts(self._count(name, to))

    @call
    def now(self) -> int:
        return len(self.did)

    @call
    def without_end(self) -> Later[int]:
        return self.offload(self._without_end)

    def _without_end(self) -> Steps[int]:
        while True:
            self.did.append("worker")
            yield

    def _count(self, name: str, to: int) -> Steps[int]:
        try:
            for number in range(to):
                self.did.append(f"{name}{number}")
                yield
            if to == 13:
                raise BadArgument("bad luck")
            return to
        finally:
            self.did.append(f"{name} ends")


def made(clock: ManualClock | None = None) -> Counting:
    device = Counting()
    plugged(device, clock=clock or Passing())
    device.start()
    return device


def outcome(later: int | Later[int]) -> list[object]:
    """Where its outcome is going to be."""
    assert isinstance(later, Later)
    found: list[object] = []
    later.then(found.append)
    return found


def test_what_is_short_is_answered_at_once_and_what_it_raises_is_raised() -> None:
    device = made(ManualClock())
    assert device.count("a", 1000) == 1000
    with pytest.raises(BadArgument, match="bad luck"):
        device.count("b", 13)
    assert made().count("a", TURN - 2) == TURN - 2


def test_what_is_long_goes_on_turn_by_turn() -> None:
    device = made(clock := Passing())
    found = outcome(device.count("a", 50))
    turns = 0
    while not found:
        before = len(device.did)
        assert turns < 50
        turns += 1
        run_one(clock)
        assert 0 < len(device.did) - before <= TURN + 1
    assert found == [50] and turns >= 50 / TURN - 2
    error = outcome(device.count("b", 13))
    clock.turn(1)
    assert isinstance(error[0], BadArgument)


def run_one(clock: ManualClock) -> None:
    """The timer that is due first, and nothing else."""
    timers, clock._timers = clock._timers, []
    timers.pop(0)[2].callback()  # type: ignore[misc]  # none was cancelled
    clock._timers += timers


def test_works_of_one_device_are_done_in_their_order() -> None:
    device = made(clock := Passing())
    one, other = outcome(device.count("a", 50)), outcome(device.count("b", 1))
    assert "b0" not in device.did
    clock.turn(1)
    assert (one, other) == ([50], [1])
    assert device.did.index("a ends") < device.did.index("b0")


def test_a_reset_ends_it_between_two_parts_and_what_waits_never_begins() -> None:
    device = made(clock := Passing())
    works = [device.count("a", 50), device.count("b", 50)]
    found = [outcome(work) for work in works]
    for work in works:
        assert isinstance(work, Later)
        work.abandon()
    assert [type(outcome) for (outcome,) in found] == [Reset, Reset]
    assert device.did[-1] == "a ends" and "b0" not in device.did
    clock.turn(1)
    assert device.did[-1] == "a ends"
    assert outcome(device.count("c", 50)) == [] and device.did[-1].startswith("c")


def test_devices_go_on_in_turn_one_in_each() -> None:
    clock = Passing()
    did: list[str] = []
    devices = [Counting(), Counting()]
    one = plugged(devices[0], clock=clock)
    Plugged(devices[1], "/other", clock, one.random, one.common)
    for name, device in zip("ab", devices, strict=True):
        device.did = did
        outcome(device.count(name, 20))
    begun = len(did)
    seen = [len(did)]
    for _ in range(4):
        run_one(clock)
        seen.append(len(did))
    order = "".join(each[0] for each in did[begun:])
    assert order.startswith("a") and "b" in order
    assert all(0 < after - before <= TURN + 1 for before, after in itertools.pairwise(seen))


def test_a_callback_that_was_cancelled_is_not_made_and_one_that_raises_stops_no_other() -> None:
    device = made(clock := ManualClock())
    called: list[str] = []
    timers: list[Timer] = [device.clock.call_later(0, _noting(called, name)) for name in "abcd"]
    timers[1].cancel()
    device.clock.call_later(0, lambda: 1 // 0)
    device.clock.call_later(0, _noting(called, "e"))
    clock.turn(0)
    assert called == ["a", "c", "d", "e"]


def _noting(called: list[str], name: str) -> Callable[[], None]:
    return lambda: called.append(name)


@pytest.fixture
async def guest(tmp_path: Path) -> AsyncIterator[RawGuest]:
    async with served(tmp_path, DeviceSpec("counting", "counting", Counting, {})) as host, attached(host) as guest:
        yield guest


async def test_other_calls_are_answered_between_the_parts(guest: RawGuest) -> None:
    handle, calls = await guest.open("/counting")
    long = guest.next_call(calls["count"], handle, ("a", 200_000), slot=1)
    guest.send(long + guest.next_call(calls["now"], handle, slot=2))
    status, seen = await guest.reply()
    assert status == 0 and 0 < seen < 200_000
    assert await guest.reply() == (0, 200_000)


async def test_closing_the_device_answers_with_reset_at_once(guest: RawGuest) -> None:
    handle, calls = await guest.open("/counting")
    guest.send(guest.next_call(calls["count"], handle, ("a", 1 << 40), slot=1))
    guest.send(guest.next_call(numbers.CLOSE, handle, slot=2))
    assert (await guest.reply())[0] == Status.RESET
    assert await guest.reply() == (0, 0)


async def test_a_worker_ends_between_two_parts_when_nobody_wants_its_outcome(guest: RawGuest) -> None:
    handle, calls = await guest.open("/counting")
    for slot in range(1, 20):  # more than there are workers
        guest.send(guest.next_call(calls["without_end"], handle, slot=slot))
    guest.send(guest.next_call(numbers.CLOSE, handle, slot=20))
    assert [(await guest.reply())[0] for _ in range(19)] == [Status.RESET] * 19
    assert await guest.reply() == (0, 0)
