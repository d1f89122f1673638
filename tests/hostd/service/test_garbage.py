"""Garbage is collected when nobody waits, and at last though somebody does."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from raw import served

import hostd
from hcall.clock import ManualClock
from hostd.service.garbage import MOST_SECONDS, SECONDS, collected_when_idle


class Cycle:
    def __init__(self) -> None:
        self.own = self


class Job:
    """Work of a user's that has no end."""

    had = 0.0

    def work(self, until: float) -> bool:
        return True


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def host(tmp_path: Path, clock: ManualClock) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, clock=clock) as host:
        yield host


def old_garbage() -> weakref.ref[Cycle]:
    """Only a whole collection finds it."""
    cycle = Cycle()
    gc.collect()
    return weakref.ref(cycle)


async def test_it_is_collected_when_nobody_waits(host: hostd.Host, clock: ManualClock) -> None:
    before = gc.get_threshold()
    with collected_when_idle(host):
        for _ in range(3):
            left = old_garbage()
            clock.turn(SECONDS - 1)
            assert left() is not None
            clock.turn(1)
            assert left() is None
    assert gc.get_threshold() == before and not gc.get_freeze_count()
    left = old_garbage()
    clock.turn(2 * MOST_SECONDS)
    assert left() is not None  # it is Python's to do now


async def test_who_waits_waits_for_it_once_in_a_minute(host: hostd.Host, clock: ManualClock) -> None:
    user = host.guests.turns.of(1)
    with collected_when_idle(host), contextlib.ExitStack() as stack:
        stack.callback(user.queue.clear)
        user.enter(Job())
        left = old_garbage()
        clock.turn(MOST_SECONDS - 1)
        assert left() is not None
        clock.turn(SECONDS)
        assert left() is None
