"""The watchdog: its model and its driver together, on a clock that is turned by hand."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from raw import LIVE, RawGuest, attached
from stopped import Stopped

import guestd
import hostd
from guestd.drivers.watchdog import WatchdogDriver
from hcall import numbers
from hcall.clock import ManualClock, Timer
from hcall.errors import BadArgument, Busy, LinkLost, NotAllowed, Status
from hostd import Machine
from hostd.devices.watchdog import Watchdog

SECONDS = 10  # after which a test says that something hangs
CARDRESET = 0x20


@contextlib.asynccontextmanager
async def served(folder: Path, clock: ManualClock, **config: object) -> AsyncIterator[hostd.Host]:
    devices = {"watchdog": {"model": "watchdog", **config}, "rng": {"model": "rng"}}
    async with hostd.serve(Machine.from_tables({"devices": devices}, folder), folder / "run", clock) as host:
        yield host


async def bound(guest: guestd.AsyncGuest) -> WatchdogDriver:
    driver = await guest.bind("watchdog")
    assert isinstance(driver, WatchdogDriver)
    return driver


async def reason(guest: guestd.AsyncGuest) -> str:
    """Why the session of *guest* ends."""
    try:
        await asyncio.wait_for(guest.happened(), SECONDS)
    except LinkLost as error:
        return str(error).removeprefix("the host ended the session: ")
    raise AssertionError("it goes on")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def host(tmp_path: Path, clock: ManualClock) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, clock) as host:
        yield host


async def test_a_guest_lives_as_long_as_it_attends(tmp_path: Path, clock: ManualClock) -> None:
    async with served(tmp_path, clock, timeout=10) as host, guestd.attach(host.socket, clock=clock) as guest:
        watchdog = await bound(guest)
        attending = asyncio.ensure_future(watchdog.attend())
        for _ in range(10):
            for _ in range(4):
                await guest.nop()  # its two calls have been answered meanwhile
            assert await watchdog.time_left() == 10
            clock.turn(5)
        attending.cancel()
        clock.turn(10)
        assert await reason(guest) == "the watchdog fired: no ping for 10 s"


@pytest.mark.spec("WDG-2")
async def test_a_guest_that_is_silent_is_reset_on_the_second_and_no_other(host: hostd.Host, clock: ManualClock) -> None:
    async with guestd.attach(host.socket) as other, guestd.attach(host.socket) as guest:
        watchdog = await bound(guest)
        clock.turn(59.999)
        assert await watchdog.time_left() == pytest.approx(0.001)
        await guest.nop()
        clock.turn(0.001)
        assert await reason(guest) == "the watchdog fired: no ping for 60 s"
        assert len(await other["rng"].getrandom(8)) == 8


@pytest.mark.parametrize("how", ["ping", "keepalive", "disarm", "set_timeout"])
@pytest.mark.spec("WDG-1")
async def test_every_kind_of_ping_starts_anew(host: hostd.Host, clock: ManualClock, how: str) -> None:
    async with guestd.attach(host.socket) as guest:
        watchdog = await bound(guest)
        for _ in range(3):
            clock.turn(59)
            await (watchdog.set_timeout(60) if how == "set_timeout" else getattr(watchdog, how)())
            assert await watchdog.time_left() == 60
        clock.turn(60)
        assert "fired" in await reason(guest)


async def test_what_only_looks_is_no_ping(host: hostd.Host, clock: ManualClock) -> None:
    async with guestd.attach(host.socket) as guest:
        watchdog = await bound(guest)
        clock.turn(30)
        assert (await watchdog.get_timeout(), await watchdog.get_pretimeout(), await watchdog.time_left()) == (
            60,
            0,
            30,
        )
        await watchdog.set_pretimeout(10)
        await watchdog.write(b"")
        assert await watchdog.time_left() == 30


@pytest.mark.parametrize(("asked", "set_to"), [(30, 30), (1, 5), (0, 5), (-(1 << 63), 5), (1 << 62, 100), (100, 100)])
@pytest.mark.spec("WDG-4")
async def test_a_timeout_comes_back_as_it_was_set(tmp_path: Path, clock: ManualClock, asked: int, set_to: int) -> None:
    async with (
        served(tmp_path, clock, timeout=50, min_timeout=5, max_timeout=100) as host,
        guestd.attach(host.socket) as guest,
    ):
        watchdog = await bound(guest)
        clock.turn(3)
        assert await watchdog.set_timeout(asked) == await watchdog.get_timeout() == await watchdog.time_left() == set_to
        clock.turn(set_to)
        assert await reason(guest) == f"the watchdog fired: no ping for {set_to} s"


async def raised(guest: guestd.AsyncGuest, watchdog: WatchdogDriver) -> int:
    """How often the pretimeout was raised."""
    polled = dict(await guest.core(0, numbers.POLL, 0))
    count: int = polled[watchdog.dev.handle][watchdog.dev.vectors["pretimeout"]]  # type: ignore[attr-defined]
    return count


@pytest.mark.spec("WDG-5")
async def test_the_pretimeout_comes_so_many_seconds_before_and_once(host: hostd.Host, clock: ManualClock) -> None:
    async with guestd.attach(host.socket) as guest:
        watchdog = await bound(guest)
        assert await watchdog.set_pretimeout(20) == await watchdog.get_pretimeout() == 20
        clock.turn(39.5)
        assert await raised(guest, watchdog) == 0
        clock.turn(0.5)
        await asyncio.wait_for(watchdog.pretimeout.wait(), SECONDS)
        clock.turn(19)
        assert await raised(guest, watchdog) == 1
        await watchdog.ping()
        clock.turn(40)
        assert await raised(guest, watchdog) == 2
        await watchdog.set_pretimeout(0)
        await watchdog.ping()
        clock.turn(59)
        assert await raised(guest, watchdog) == 2


async def test_a_pretimeout_that_is_past_already_comes_at_once(host: hostd.Host, clock: ManualClock) -> None:
    async with guestd.attach(host.socket) as guest:
        watchdog = await bound(guest)
        clock.turn(50)
        await watchdog.set_pretimeout(20)
        clock.turn(0)
        await asyncio.wait_for(watchdog.pretimeout.wait(), SECONDS)


@pytest.mark.spec("WDG-5")
async def test_a_pretimeout_is_less_than_the_timeout(host: hostd.Host) -> None:
    async with guestd.attach(host.socket) as guest:
        watchdog = await bound(guest)
        for seconds in (60, 61, -1, 1 << 62):
            with pytest.raises(BadArgument, match="timeout of 60 seconds"):
                await watchdog.set_pretimeout(seconds)
        await watchdog.set_pretimeout(59)
        await watchdog.set_timeout(59)
        assert await watchdog.get_pretimeout() == 0


@pytest.mark.parametrize(
    ("writes", "stops"),
    [
        ([b"V"], True), ([b"make sure: V, please"], True), ([b"a", b"V"], True), ([b"V", b""], True),
        ([], False), ([b"v"], False), ([b"V", b"a"], False), ([b"V", b"V", b"\0"], False),
    ],
)  # fmt: skip
@pytest.mark.spec("WDG-3")
async def test_only_the_magic_character_in_the_latest_write_stops_it(
    host: hostd.Host, clock: ManualClock, writes: list[bytes], stops: bool
) -> None:
    async with guestd.attach(host.socket) as guest:
        watchdog = await bound(guest)
        for data in writes:
            assert await watchdog.write(data) == len(data)
        await guest.unbind("watchdog")
        clock.turn(59)
        await guest.nop()
        clock.turn(3600)
        if stops:
            await guest.nop()
            assert await (await bound(guest)).boot_status() == 0
        else:
            assert "fired" in await reason(guest)


async def test_without_a_way_out_not_even_the_magic_character_stops_it(tmp_path: Path, clock: ManualClock) -> None:
    async with served(tmp_path, clock, nowayout=True) as host, guestd.attach(host.socket) as guest:
        await (await bound(guest)).disarm()
        await guest.unbind("watchdog")
        clock.turn(60)
        assert "fired" in await reason(guest)


@pytest.mark.spec("WDG-1", "WDG-3")
async def test_who_opens_it_again_has_what_was_left_running(host: hostd.Host, clock: ManualClock) -> None:
    async with guestd.attach(host.socket) as guest:
        await (await bound(guest)).set_timeout(7)
        await guest.unbind("watchdog")
        clock.turn(6)
        watchdog = await bound(guest)
        assert (await watchdog.get_timeout(), await watchdog.time_left()) == (7, 7)
        await watchdog.disarm()
        await guest.unbind("watchdog")
        clock.turn(8)
        assert await (await bound(guest)).get_timeout() == 60  # as new


async def test_the_countdown_that_one_guest_left_is_not_another_ones(host: hostd.Host, clock: ManualClock) -> None:
    async with guestd.attach(host.socket) as other, guestd.attach(host.socket) as guest:
        first = await bound(guest)
        await first.set_timeout(10)
        await first.set_pretimeout(5)
        await guest.unbind("watchdog")
        second = await bound(other)
        assert (await second.get_timeout(), await second.get_pretimeout(), await second.time_left()) == (60, 0, 60)
        clock.turn(10)
        assert "no ping for 10 s" in await reason(guest)
        assert await raised(other, second) == 0
        await second.ping()
        assert await second.boot_status() == 0  # it fired after this guest had opened it
    async with guestd.attach(host.socket) as third:
        assert await (await bound(third)).boot_status() == CARDRESET


@pytest.mark.spec("WDG-7")
async def test_the_next_guest_reads_that_it_fired_and_the_one_after_that_it_did_not(
    host: hostd.Host, clock: ManualClock
) -> None:
    async with guestd.attach(host.socket) as guest:
        await bound(guest)
        clock.turn(60)
        await reason(guest)
    for status in (CARDRESET, 0):
        async with guestd.attach(host.socket) as guest:
            watchdog = await bound(guest)
            assert await watchdog.boot_status() == status
            await watchdog.disarm()


async def test_it_is_one_guests_at_a_time(host: hostd.Host) -> None:
    async with guestd.attach(host.socket) as other, guestd.attach(host.socket) as guest:
        await bound(guest)
        with pytest.raises(Busy):
            await bound(other)


async def test_a_guest_that_died_is_told_to_the_next_one(host: hostd.Host, clock: ManualClock) -> None:
    async with guestd.attach(host.socket) as guest:
        await bound(guest)
    clock.turn(60)  # it left the watchdog running
    async with guestd.attach(host.socket) as guest:
        assert await (await bound(guest)).boot_status() == CARDRESET


async def leave_running(guest: RawGuest) -> tuple[int, object]:
    """Open the watchdog, and close it without the magic character: how setting it up went."""
    handle, *_ = await guest.core(numbers.OPEN, await guest.core(numbers.FIND, 0, "/watchdog"), 0)
    for status in LIVE[:-1]:
        await guest.core(numbers.SET_STATUS, handle, status)
    answer = await guest.call(numbers.SET_STATUS, handle, LIVE[-1])
    await guest.core(numbers.CLOSE, handle)
    return answer


async def test_at_the_bound_who_asks_is_refused_and_nobody_else_pays(host: hostd.Host, clock: ManualClock) -> None:
    """Memory is bounded: 256 countdowns without an open handle."""
    async with contextlib.AsyncExitStack() as stack:
        guests = [await stack.enter_async_context(attached(host)) for _ in range(258)]
        for guest in guests[:256]:
            assert (await leave_running(guest))[0] == Status.OK
        for _ in range(2):
            status, text = await leave_running(guests[257])
            assert status == Status.BUSY and "256 guests have closed the watchdog" in str(text)
        assert (await leave_running(guests[0]))[0] == Status.OK  # which has one there
        clock.turn(59)
        for guest in guests:
            await guest.core(numbers.NOP)
    async with attached(host) as guest:  # all others are gone
        assert (await leave_running(guest))[0] == Status.OK
        device = host.tree.find("/watchdog").device
        assert isinstance(device, Watchdog) and len(device._left) == 1


async def test_time_in_which_the_host_stood_still_is_not_held_against_a_guest(tmp_path: Path) -> None:
    clock = Stopped()
    async with served(tmp_path, clock, timeout=10) as host, attached(host) as guest:
        handle, calls = await guest.open("/watchdog")
        for _ in range(5):
            clock.turn(1)
            clock.stand_still(60)
        assert (await guest.call(calls["time_left"], handle))[1] == pytest.approx(5, abs=2)
        clock.turn(6)
        assert await guest.ended() == (Status.RESET, "the watchdog fired: no ping for 10 s")


async def test_a_ping_that_came_in_time_counts_though_it_was_not_read(tmp_path: Path) -> None:
    clock = Round()
    async with served(tmp_path, clock, timeout=10) as host, attached(host) as guest:
        handle, calls = await guest.open("/watchdog")
        for _ in range(3):
            guest.send(guest.next_call(calls["keepalive"], handle))
            clock.turn(10)  # the loop has had no time to look
            assert await guest.reply() == (0, None)
            assert (await guest.call(calls["time_left"], handle))[1] == 10
        clock.turn(10)
        assert await guest.ended() == (Status.RESET, "the watchdog fired: no ping for 10 s")


class Round(ManualClock):
    """What is due at once comes when the loop has gone round, as by the system's clock."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        return super().call_later(delay, callback) if delay else asyncio.get_running_loop().call_soon(callback)


@pytest.mark.parametrize("closed", [True, False])
async def test_a_countdown_that_has_fired_is_forgotten(host: hostd.Host, clock: ManualClock, closed: bool) -> None:
    device = host.tree.find("/watchdog").device
    assert isinstance(device, Watchdog)
    async with guestd.attach(host.socket) as guest:
        await bound(guest)
        if closed:
            await guest.unbind("watchdog")
        clock.turn(60)
        if not closed:
            with pytest.raises(NotAllowed, match="has fired"):
                device.keepalive()
        await reason(guest)
    assert device._left == {} and device._running is None


@pytest.mark.spec("WDG-6")
async def test_a_write_has_a_bound(host: hostd.Host) -> None:
    async with guestd.attach(host.socket) as guest:
        watchdog = await bound(guest)
        with guest.ram.alloc(1 << 20) as buffer, pytest.raises(BadArgument, match="4096 bytes"):
            await watchdog.write_from(buffer)


async def test_it_says_what_it_is(host: hostd.Host) -> None:
    async with guestd.attach(host.socket) as guest:
        watchdog = await bound(guest)
        assert await watchdog.dev.property("identity") == "hostd watchdog"
        assert await watchdog.dev.property("options") == 0x0020 | 0x0080 | 0x0100 | 0x0200 | 0x8000
        await watchdog.disarm()


@pytest.mark.parametrize("config", [{"timeout": 0}, {"min_timeout": 61}, {"max_timeout": 59}, {"min_timeout": 0}])
async def test_bounds_that_hold_no_timeout_are_refused(tmp_path: Path, config: dict[str, int]) -> None:
    with pytest.raises(hostd.MachineError, match="is not within"):
        async with served(tmp_path, ManualClock(), **config):
            pass


async def test_unplugging_it_ends_all_countdowns(host: hostd.Host, clock: ManualClock) -> None:
    async with guestd.attach(host.socket) as guest:
        await bound(guest)
        await host.unplug("/watchdog", surprise=True)
        clock.turn(100)
        await guest.nop()


def test_the_same_driver_on_the_blocking_client(tmp_path: Path) -> None:
    async def scenario() -> None:
        clock = ManualClock()
        async with served(tmp_path, clock) as host:

            def blocking() -> tuple[int, float]:
                with guestd.attach_blocking(host.socket) as guest:
                    guest["watchdog"].ping()
                    left = guest["watchdog"].set_timeout(9), guest["watchdog"].time_left()
                    guest["watchdog"].disarm()
                    return left

            assert await asyncio.to_thread(blocking) == (9, 9.0)

    asyncio.run(scenario())
