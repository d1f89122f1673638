"""Hosts and guests that look again before they sleep: they do, they stop, and all else is as it is without.

The machine that tests run on may be busy, or have one processor: here it has two, and nobody else wants them.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from desk import CLIENTS, DRIVERS, bound, desk, desks
from raw import PATIENCE, bystander, in_thread, run_on, until

import guestd
import hostd
from guestd.clients.guest import Guest
from guestd.clients.plain.clock import HandedClock, WallClock
from guestd.clients.plain.link import READ, BlockingLink
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import LinkLost, StaleHandle, Status
from hcall.kernel import processors
from hcall.spin import LOOKS


@pytest.fixture(autouse=True)
def two_idle_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processors, "count", lambda: 2)
    monkeypatch.setattr(processors, "switches", lambda: 0)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with desks(tmp_path, spin=True) as host:
        yield host


# A loop, and how it waits.


class Watched(selectors.DefaultSelector):
    """Counts how often a loop only looks, and tells when it would sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self._sleeps: asyncio.Future[float | None] | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0:
            self.looks += 1
        elif self._sleeps is not None:
            self._sleeps.set_result(timeout)
            self._sleeps, timeout = None, 0
        return super().select(timeout)

    async def rest(self) -> float | None:
        """Until the loop has nothing to do any more, and for how long that is; None: until something comes."""
        self._sleeps = asyncio.get_running_loop().create_future()
        return await self._sleeps

    async def looks_until_rest(self, work: Coroutine[Any, Any, Any]) -> int:
        """How often the loop looks because of *work*; the time of its clocks stands still."""
        before = self.looks
        await work
        assert await self.rest() is None  # no timer, no callback
        return self.looks - before


def watched(scenario: Callable[[Watched], Coroutine[Any, Any, None]]) -> None:
    """Run *scenario* in a loop that is watched."""
    selector = Watched()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(scenario(selector))


@pytest.mark.parametrize(("host_spins", "guest_spins"), [(True, False), (False, True), (True, True)])
def test_a_loop_looks_after_a_call_and_then_sleeps_for_good(
    tmp_path: Path, host_spins: bool, guest_spins: bool
) -> None:
    async def scenario(loop: Watched) -> None:
        clock = ManualClock()
        async with desks(tmp_path, clock, host_spins) as host:
            async with guestd.attach(host.socket, clock=clock, spin=guest_spins, memory=1 << 20) as guest:
                await loop.rest()
                looks = [await loop.looks_until_rest(guest.nop()) for _ in range(100)]
                spun = [n for n, count in enumerate(looks) if count >= LOOKS - 1]
                assert spun and all(looks[n] < 20 for n in range(100) if n not in spun)
                assert len(spun) <= 2 * 7  # each at 1, 3, 7, ... calls: these are sparse
                assert await loop.looks_until_rest(_many(guest)) > 200
            await until(host, lambda: not host.guests.by_token)
            assert await loop.rest() is None
        assert await loop.rest() is None

    watched(scenario)


def test_without_being_told_nobody_looks(tmp_path: Path) -> None:
    async def scenario(loop: Watched) -> None:
        clock = ManualClock()
        async with desks(tmp_path, clock) as host:
            async with guestd.attach(host.socket, clock=clock, memory=1 << 20) as guest:
                await loop.rest()
                assert max([await loop.looks_until_rest(guest.nop()) for _ in range(20)]) < 20
            await until(host, lambda: not host.guests.by_token)

    watched(scenario)


async def _many(guest: guestd.AsyncGuest) -> None:
    for _ in range(100):
        await guest.nop()


def test_a_guest_without_a_link_does_not_look_for_more(tmp_path: Path) -> None:
    async def scenario(loop: Watched) -> None:
        clock, away = ManualClock(), tmp_path / "away"
        async with desks(tmp_path, clock) as host:
            async with guestd.attach(host.socket, clock=clock, spin=True, memory=1 << 20) as guest:
                for n in range(3):
                    await _many(guest)
                    host.socket.rename(away)
                    before = loop.looks
                    guest.cut()
                    await loop.rest()  # it will try again, when its clock goes on
                    assert loop.looks - before < 50
                    away.rename(host.socket)
                    clock.turn(1)
                    await guest.nop()
                    assert guest.resumed == n + 1
                await _many(guest)
            before = loop.looks
            await until(host, lambda: not host.guests.by_token)
            assert await loop.rest() is None and loop.looks - before < 50

    watched(scenario)


# A thread.


class Asked:
    """A time that stands still; the *n*-th time that it is asked for, something happens.  Each look asks once."""

    def __init__(self, n: int = 0, happens: Callable[[], object] = lambda: None) -> None:
        self.times, self._n, self._happens = 0, n, happens

    def time(self) -> float:
        self.times += 1
        if self.times == self._n:
            self._happens()
        return 0.0


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        yield listener


@contextlib.contextmanager
def linked(listener: socket.socket, asked: Asked) -> Iterator[tuple[BlockingLink, socket.socket]]:
    """A link that looks, and the host's end of it."""
    link = BlockingLink(Path(listener.getsockname()), processors.spin(asked.time))
    with contextlib.closing(link), listener.accept()[0] as peer:
        yield link, peer


def test_a_thread_looks_until_something_comes(listener: socket.socket) -> None:
    asked = Asked(10, lambda: peer.send(b"x"))
    with linked(listener, asked) as (link, peer):
        assert link.spin is not None
        link.look(link.spin)
        assert asked.times == 10 and link.recv(READ) == b"x"
        link.look(link.spin)
        assert asked.times == 10 + LOOKS + 1  # and then it would sleep
        peer.close()
        for _ in range(2):  # that was in vain: the next one is left out
            link.look(link.spin)
        assert asked.times == 10 + LOOKS + 2 and link.recv(READ) == b""  # that comes, too


def test_a_thread_that_waits_for_a_moment_too_looks_for_both(listener: socket.socket) -> None:
    asked, clock, rung = Asked(10, lambda: peer.send(b"x")), ManualClock(), list[str]()
    handed = HandedClock(clock)
    with contextlib.closing(handed), linked(listener, asked) as (link, peer):
        handed.call_later(5, lambda: rung.append("late"))
        assert link.readable(handed, []) and asked.times == 10 and link.recv(READ) == b"x"
        asked = Asked(10, lambda: clock.turn(5))
        link.spin = processors.spin(asked.time)
        assert not link.readable(handed, []) and asked.times == 10
        handed.fire()
        assert rung == ["late"]


@pytest.mark.parametrize(("seconds", "looks"), [(0.00005, 0), (60, 10)])
def test_a_moment_that_is_near_is_not_looked_over(listener: socket.socket, seconds: float, looks: int) -> None:
    asked, wall = Asked(10, lambda: peer.send(b"x")), WallClock()
    with linked(listener, asked) as (link, peer):
        timer = wall.call_later(seconds, list)
        assert link.readable(wall, []) is bool(looks) and asked.times == looks
        timer.cancel()


@pytest.mark.parametrize("spin", [True, False])
async def test_a_blocking_guest_looks_if_it_is_told_to(host: hostd.Host, spin: bool) -> None:
    class Counted(ManualClock):
        times = 0

        def time(self) -> float:
            self.times += 1
            return super().time()

    def work() -> int:
        with guestd.attach_blocking(host.socket, clock=clock, spin=spin, memory=1 << 20) as guest:
            before = clock.times
            for _ in range(100):
                guest.nop()
            return clock.times - before

    clock = Counted()
    assert (await in_thread(host, work) > 0) is spin


# All else is as it is without.


@CLIENTS
async def test_calls_interrupts_cut_links_and_what_is_unplugged(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        for n in range(200):
            assert await driver.same(n) == n
        for _ in range(20):
            await driver.ring()
            await driver.bell.wait()
        for n in range(5):
            late = driver.late()
            cut()
            await guest.call(0, numbers.NOP)
            assert guest.resumed == n + 1
            answer(n)
            assert await late == n
        unplug()
        with pytest.raises(StaleHandle):
            while True:
                await driver.bell.wait()
        end()
        with pytest.raises(LinkLost):
            await guest.call(0, numbers.NOP)

    loop, tasks = asyncio.get_running_loop(), list[asyncio.Task[bool]]()

    def on_host(work: Callable[[], object]) -> None:
        if client == "asyncio":
            work()
        else:
            asyncio.run_coroutine_threadsafe(_call(work), loop).result(PATIENCE)

    def mine() -> list[Any]:
        return [each for each in host.guests.by_token.values() if each.name != "raw"]

    def cut() -> None:
        on_host(lambda: [each.lane.link.abort() for each in mine()])

    def answer(n: int) -> None:
        on_host(lambda: desk(host).waiting.pop().done(n))

    def unplug() -> None:
        on_host(lambda: tasks.append(asyncio.ensure_future(host.unplug("/desk", surprise=True))))

    def end() -> None:
        on_host(lambda: [host.guests.end(each, Status.RESET, "over") for each in mine()])

    async with bystander(host):
        await run_on(client, host, scenario, drivers=DRIVERS, spin=True)
    await asyncio.gather(*tasks)


async def _call(work: Callable[[], object]) -> None:
    work()
