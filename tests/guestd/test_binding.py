"""How a device is bound: in few round trips, and with the same outcome as step by step; counted on the wire."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any, Final

import pytest
from desk import CLIENTS
from fake_host import OPEN, READ, lying
from test_lying_host import within

from guestd.bus.places import Places
from guestd.clients.guest import Guest
from guestd.driver import Driver
from guestd.probers import Found
from hcall import numbers
from hcall.errors import Busy, HcallError, IoError, NoMatch, NotAllowed, Status
from hcall.messages import REPLY
from hcall.wire import encode

NAMES: Final = {"A": 0, "B": 3}  # feature bits


class ThingDriver(Driver):
    compatible = ("test,thing",)
    wants = ("A", "B", "UNHEARD_OF")


class PlainDriver(Driver):
    compatible = ("test,thing",)


def opened(features: dict[str, int]) -> tuple[Any, ...]:
    return OPEN, {"read": READ}, {"rx_ready": 0}, features


class Negotiating:
    """A device that offers these bits, as a host takes the steps one by one."""

    def __init__(self, offered: int, refuses: bool = False) -> None:
        self.offered, self.refuses = offered, refuses
        self.status = self.accepted = 0
        self.lies = {
            numbers.OPEN: opened(NAMES), numbers.GET_FEATURES: offered, numbers.SET_FEATURES: self._accept,
            numbers.SET_STATUS: self._write,
        }  # fmt: skip

    def _accept(self, _: int, bits: int) -> None:
        self.accepted = bits

    def _write(self, _: int, status: int) -> int:
        if status == 0:
            self.accepted = 0
        if status & 8 and (self.refuses or self.accepted & ~self.offered):
            status &= ~12
        self.status = status
        return status


async def bind(path: Path, client: str, driver: type[Driver], with_path: bool = True) -> Driver:
    """The driver of the host's only device."""
    bound: list[Driver] = []

    async def scenario(guest: Guest[Any]) -> None:
        guest.known = [driver]
        found = await guest.found("thing") if not with_path else None
        bound.append(await (guest.bind_path("/thing") if found is None else guest.bind_found(found)))

    await within(path, client, scenario)
    return bound[0]


def of_binding(batches: list[list[tuple[Any, ...]]], first: int) -> list[list[tuple[Any, ...]]]:
    """The round trips from the one that begins with the call *first* to the guest's leave."""
    begins = next(n for n, batch in enumerate(batches) if batch and batch[0][0] == first)
    return [batch for batch in batches[begins:] if batch and batch[0][0] != numbers.DETACH]


@CLIENTS
@pytest.mark.parametrize("driver", [PlainDriver, ThingDriver])
async def test_a_device_is_bound_in_three_round_trips_whatever_its_driver_wants(
    tmp_path: Path, client: str, driver: type[Driver]
) -> None:
    device = Negotiating(0b1001)
    with lying(tmp_path, device.lies) as host:
        bound = await bind(host.path, client, driver)
        trips = of_binding(host.batches, numbers.FIND)
    accepted = {"A", "B"} if driver.wants else set()
    assert bound.dev.features == accepted and device.status == 15 and len(trips) == 3
    assert [[call[0] for call in trip] for trip in trips[:2]] == [
        [numbers.FIND], [numbers.INFO, numbers.GET_FEATURES, numbers.OPEN]
    ]  # fmt: skip
    assert [call[1] for call in trips[-1] if call[0] == numbers.SET_STATUS] == ([0, 3, 11, 15] if accepted else [0, 15])


@CLIENTS
@pytest.mark.parametrize(("offered", "accepted"), [(0b0001, {"A"}), (0b1000, {"B"}), (0b0110, set()), (0, set())])
async def test_a_device_that_offers_less_than_it_has_names_for_takes_no_more(
    tmp_path: Path, client: str, offered: int, accepted: set[str]
) -> None:
    device = Negotiating(offered)
    with lying(tmp_path, device.lies) as host:
        bound = await bind(host.path, client, ThingDriver, with_path=False)
        trips = of_binding(host.batches, numbers.GET_FEATURES)
    assert bound.dev.features == accepted and device.status == 15 and len(trips) == 2
    assert device.accepted == sum(1 << NAMES[name] for name in accepted)


class ReadingDriver(ThingDriver):
    properties = ("size", "none")
    size = 0

    async def probe(self) -> None:
        self.size = await self.dev.property("size", int)


@CLIENTS
async def test_what_a_driver_reads_comes_with_the_negotiation_and_later_it_is_asked_anew(
    tmp_path: Path, client: str
) -> None:
    sizes = itertools.count(1)

    def told(_: int, name: str) -> Any:
        return next(sizes) if name == "size" else "what nobody reads is no matter"

    async def scenario(guest: Guest[Any]) -> None:
        guest.known = [ReadingDriver]
        read = 0
        for device.offered, trips, asked in ((9, 3, 1), (9, 2, 1), (1, 3, 2)):  # of features that have changed, twice
            host.batches.clear()
            driver = await guest.bind_path("/thing")
            read += asked
            assert isinstance(driver, ReadingDriver) and driver.size == read and len(host.batches) == trips
            assert [await driver.dev.property("size") for _ in range(2)] == [read + 1, read + 2]
            assert await driver.dev.property("none") == "what nobody reads is no matter"
            read += 2
            assert [call[1:] for batch in host.batches for call in batch].count(("none",)) == asked + 1
            await guest.unbind("thing")

    device = Negotiating(9)
    lies = device.lies | {numbers.GETPROP: told, numbers.GET_FEATURES: lambda _: device.offered}
    with lying(tmp_path, lies) as host:
        await within(host.path, client, scenario)


@CLIENTS
@pytest.mark.parametrize("driver", [PlainDriver, ThingDriver])
async def test_a_device_that_was_bound_before_takes_two_round_trips_whatever_it_offers_now(
    tmp_path: Path, client: str, driver: type[Driver]
) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        guest.known = [driver]
        trips = []
        for offered, taken in ((1, {"A"}), (1, {"A"}), (9, {"A", "B"}), (8, {"B"}), (8, {"B"})):
            device.offered = offered
            host.batches.clear()
            bound = await guest.bind_path("/thing")
            assert bound.dev.features == (taken if driver.wants else set()) and device.status == 15
            assert device.accepted == sum(1 << NAMES[name] for name in bound.dev.features)
            trips.append(len(host.batches))
            await guest.unbind("thing")
        assert trips == ([3, 2, 3, 3, 2] if driver.wants else [3, 2, 2, 2, 2])

    device = Negotiating(1)
    with lying(tmp_path, device.lies | {numbers.GET_FEATURES: lambda _: device.offered}) as host:
        await within(host.path, client, scenario)


@CLIENTS
@pytest.mark.parametrize("epoch", [1, 2])
async def test_in_another_life_of_the_host_every_place_is_looked_at_again(
    tmp_path: Path, client: str, epoch: int
) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        guest.known = [PlainDriver]
        await guest.bind_path("thing")
        await guest.unbind("thing")
        host.welcome = host.welcome._replace(epoch=epoch)
        host.cut()
        await guest.call(0, numbers.NOP)
        host.batches.clear()
        await guest.bind_path("thing")
        assert [call[0] for call in host.batches[0]] == [numbers.OPEN if epoch == 1 else numbers.FIND]

    with lying(tmp_path, {numbers.OPEN: opened({})}) as host:
        await within(host.path, client, scenario)


def test_a_guest_remembers_so_many_places() -> None:
    places = Places()
    for n in range(1000):
        places.note(Found(n, f"/{n}", f"{n}", (), (0, 0)), 1 << n)
    known = [n for n in range(1000) if places.at(f"/{n}") is not None]
    assert known == list(range(744, 1000)) and places.offered(Found(999, "/999", "999", (), (0, 0))) == 1 << 999
    assert places.offered(Found(5, "/999", "999", (), (0, 0))) is None  # another node


@CLIENTS
async def test_a_device_that_refuses_what_it_offers_is_told_that_its_driver_has_failed(
    tmp_path: Path, client: str
) -> None:
    device = Negotiating(0b1001, refuses=True)
    with lying(tmp_path, device.lies) as host:
        with pytest.raises(NotAllowed, match="thing refuses the features A, B"):
            await bind(host.path, client, ThingDriver)
        assert device.status == 128 | 3 and host.batches[-2] == [(numbers.CLOSE,)]


@CLIENTS
async def test_a_device_that_has_failed_and_stays_so_says_it(tmp_path: Path, client: str) -> None:
    lies = {numbers.OPEN: opened({}), numbers.SET_STATUS: lambda _, status: status | 64}
    with lying(tmp_path, lies) as host:
        with pytest.raises(IoError, match="thing has failed, and cannot be reset"):
            await bind(host.path, client, PlainDriver)
        assert host.batches[-2] == [(numbers.CLOSE,)]


class Other(Driver):
    compatible = ("test,other",)


@CLIENTS
@pytest.mark.parametrize(
    ("driver", "taken", "error"), [(Other, False, NoMatch), (Other, True, NoMatch), (PlainDriver, True, Busy)]
)
async def test_why_there_is_no_driver_counts_more_than_that_the_device_is_taken(
    tmp_path: Path, client: str, driver: type[Driver], taken: bool, error: type[HcallError]
) -> None:
    """The device is opened before the guest knows that: it is given back."""
    busy = bytearray(encode((REPLY, 2, 5, int(Status.BUSY), "taken")))  # the fifth call of all, in the third slot
    with lying(tmp_path, {numbers.OPEN: (lambda *_: busy) if taken else opened({})}) as host:
        with pytest.raises(error, match="taken" if error is Busy else "no driver for test,thing"):
            await bind(host.path, client, driver)
        assert ((numbers.CLOSE,) in host.batches[-2]) is not taken
