"""The bus core: which driver takes which device, and that a device that fails a step is given back, and no other."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from raw import attached, bystander, run_on, served, until

import hostd
from guestd.bus.device import OpenDevice
from guestd.bus.known import known_drivers, match
from guestd.clients.guest import Guest
from guestd.driver import Driver, Op, Signal
from guestd.probers import Found
from hcall import numbers
from hcall.errors import BadArgument, BadHandle, Busy, HcallError, NoMatch, NoSuchCall, NotAllowed, StaleHandle
from hcall.features import DeviceStatus
from hostd.device import Data, Device, Feature, Irq, Property, Room, call
from hostd.devices.rng import Rng
from hostd.machine import models
from hostd.machine.file import DeviceSpec


class Lamp(Device):
    """A device with something of everything."""

    compatible: ClassVar[str | tuple[str, ...]] = ("test,lamp-2", "test,lamp")
    ids = (0x1234, 0x55)
    COLOUR, DIM = Feature(0), Feature(63)
    first, second = Irq(), Irq()
    watts = Property(int)

    def start(self) -> None:
        self.watts, self.text, self.resets = 60, b"", 0

    def reset(self) -> None:
        self.resets += 1

    def read(self, into: Room, at: int) -> int:
        return into.put(self.text[at:])

    def write(self, data: Data, at: int) -> int:
        self.text = self.text[:at] + data.get()
        return data.nbytes

    def sync(self) -> None:
        self.second()

    @call
    def double(self, value: int) -> int:
        return 2 * value

    @call(needs=DIM)
    def dim(self, level: int) -> int:
        self.first()
        return level


class Shuffled(Lamp):
    """The same with other numbers for everything: drivers know none."""

    compatible = "test,lamp"


Shuffled.declares = dataclasses.replace(
    Lamp.declares,
    handlers=tuple(
        handler._replace(number=number)
        for handler, number in zip(Lamp.declares.handlers, [0xFFFF, 1000, 17, 1, 2], strict=True)
    ),
    irqs=(*(f"unused{n}" for n in range(30)), "second", "first"),
)


class Plain(Lamp):
    """Offers no feature."""

    compatible = "test,lamp"

    def start(self) -> None:
        super().start()
        self.offered = 0


class Broken(Lamp):
    """Its driver will not like it."""

    compatible, ids = "test,broken", (0, 0)


class LampDriver(Driver):
    compatible, wants = ("test,lamp",), ("DIM", "SOUND")
    double = Op[[int], int]()
    dim = Op[[int], int]()
    explode = Op[[], None]()
    first, second = Signal(), Signal()
    removed = False

    async def probe(self) -> None:
        self.watts = await self.dev.property("watts")

    async def remove(self) -> None:
        self.removed = True


class BrokenDriver(Driver):
    compatible = ("test,broken",)

    async def probe(self) -> None:
        await self.write(b"half done")
        raise ZeroDivisionError("a mistake of the driver")


class ClumsyDriver(Driver):
    compatible = ("test,lamp",)

    async def remove(self) -> None:
        raise ZeroDivisionError("a mistake of the driver")


CLIENTS = pytest.mark.parametrize("client", ["asyncio", "blocking"])
DRIVERS = [LampDriver, BrokenDriver]


def spec(path: str, device: type[Device]) -> DeviceSpec:
    return DeviceSpec(path, device.__name__, device, {})


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    devices = [("a-lamp", Lamp), ("b-broken", Broken), ("bus/shuffled", Shuffled), ("c-plain", Plain), ("rng2", Rng)]
    async with served(tmp_path, *(spec(path, device) for path, device in devices)) as host:
        yield host


def lamp(host: hostd.Host, path: str) -> Lamp:
    device = host.tree.find(path).device
    assert isinstance(device, Lamp)
    return device


@CLIENTS
@pytest.mark.spec("V-2")
async def test_drivers_know_no_number(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any], path: str) -> dict[str, int]:
        driver = await guest.bind_found(await guest.found(path))
        assert isinstance(driver, LampDriver) and driver.watts == 60
        assert await driver.double(21) == 42 and await driver.dim(7) == 7
        await driver.first.wait()
        await driver.write_all(b"0123456789" * 500)
        assert await driver.read_exactly(4999, 1) == (b"0123456789" * 500)[1:]
        await driver.sync()
        await driver.second.wait()
        assert driver.dev.features == {"DIM"}
        with pytest.raises(NoSuchCall, match="explode"):
            await driver.explode()
        return driver.dev.calls

    async with bystander(host):
        usual = await run_on(client, host, lambda guest: scenario(guest, "/a-lamp"), drivers=DRIVERS)
        other = await run_on(client, host, lambda guest: scenario(guest, "bus/shuffled"), drivers=DRIVERS)
        assert usual.keys() == other.keys() and all(usual[name] != other[name] for name in usual)


@CLIENTS
@pytest.mark.spec("N-4")
async def test_a_feature_that_is_not_offered_is_not_accepted_and_its_calls_are_not_there(
    host: hostd.Host, client: str
) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await guest.bind_found(await guest.found("/c-plain"))
        assert isinstance(driver, LampDriver) and driver.dev.features == frozenset()
        assert await driver.double(1) == 2
        with pytest.raises(NoSuchCall, match="feature"):
            await driver.dim(1)

    await run_on(client, host, scenario, drivers=DRIVERS)


@CLIENTS
async def test_a_driver_that_fails_concerns_its_device_only_which_is_given_back(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        outcome = await guest.bind_all()
        assert {path: type(each) for path, each in outcome.items()} == {
            "/rng": NoMatch, "/a-lamp": LampDriver, "/b-broken": ZeroDivisionError, "/bus/shuffled": LampDriver,
            "/c-plain": LampDriver, "/rng2": NoMatch,
        }  # fmt: skip
        assert sorted(guest.drivers) == ["/a-lamp", "/bus/shuffled", "/c-plain"]
        broken = host.tree.find("/b-broken")
        assert not broken.opens and lamp(host, "/b-broken").resets == 2  # the driver's, and the close
        with pytest.raises(ZeroDivisionError):
            await guest.bind_found(await guest.found("/b-broken"))
        assert (await guest.bind_all()).keys() == {"/rng", "/b-broken", "/rng2"}  # what is bound is let alone

    async with bystander(host):
        await run_on(client, host, scenario, drivers=DRIVERS)
    await until(host, lambda: not any(node.opens for node in host.tree.root.walk()))


@CLIENTS
async def test_an_owned_device_is_busy_and_the_next_one_is_bound(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        outcome = await guest.bind_all()
        assert isinstance(outcome["/a-lamp"], Busy) and isinstance(outcome["/c-plain"], LampDriver)

    async with attached(host) as owner:
        await owner.open("/a-lamp")
        await run_on(client, host, scenario, drivers=DRIVERS)


@CLIENTS
@pytest.mark.parametrize("driver_class", [LampDriver, ClumsyDriver])
async def test_unbinding_gives_the_device_back_even_if_the_driver_fails(
    host: hostd.Host, client: str, driver_class: type[Driver]
) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await guest.bind_found(await guest.found("/a-lamp"))
        assert host.tree.find("/a-lamp").opens
        if driver_class is ClumsyDriver:
            with pytest.raises(ZeroDivisionError):
                await guest.unbind("/a-lamp")
        else:
            await guest.unbind("a-lamp")
            assert isinstance(driver, LampDriver) and driver.removed
        assert not host.tree.find("/a-lamp").opens and not guest.drivers
        with pytest.raises(StaleHandle):
            await driver.read(1)
        assert await guest.bind_found(await guest.found("/a-lamp")) is not driver

    await run_on(client, host, scenario, drivers=[driver_class])


@CLIENTS
async def test_a_name_that_is_wrong_is_told_by_a_sentence_wherever_it_is_given(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await guest.bind_found(await guest.found("/a-lamp"))
        attempts: list[tuple[Callable[[], Any], type[HcallError], str]] = [
            (lambda: guest.unbind("c-plain"), NoMatch, "no driver is bound to /c-plain"),
            (lambda: guest.unbind("a-lamb"), NoMatch, "did you mean '/a-lamp'"),
            (lambda: guest.unbind(""), NoMatch, "no driver is bound to /"),
            (lambda: guest.found("a-lamb"), NoMatch, "a-lamb"),
            (lambda: guest.found("x" * 300), BadArgument, "cannot be sent"),
            (lambda: driver.dev.property("wats"), NoMatch, "no property 'wats'"),
            (lambda: driver.dev.property("\udc80"), BadArgument, "cannot be sent"),
            (lambda: guest.properties(12345), BadHandle, "never given"),
        ]
        for attempt, error, text in attempts:
            with pytest.raises(error, match=text):
                await attempt()
        await guest.unbind("a-lamp")
        with pytest.raises(NoMatch):
            await guest.unbind("a-lamp")

    await run_on(client, host, scenario, drivers=DRIVERS)


@CLIENTS
async def test_what_stands_now_where_a_device_was_bound_before_is_bound(host: hostd.Host, client: str) -> None:
    loop = asyncio.get_running_loop()

    async def replace(device: type[Device] | None) -> None:
        if any(node.path == "/c-plain" for node in host.tree.root.walk()):
            await host.unplug("/c-plain", surprise=True)
        if device is not None:
            host.plug(spec("c-plain", device))

    async def scenario(guest: Guest[Any]) -> None:
        for device, bound in ((Plain, LampDriver), (Broken, ZeroDivisionError), (None, NoMatch), (Lamp, LampDriver)):
            replaced = asyncio.run_coroutine_threadsafe(replace(device), loop)
            _ = replaced.result() if client == "blocking" else await asyncio.wrap_future(replaced)
            for _ in range(2):
                if issubclass(bound, Exception):
                    with pytest.raises(bound):
                        await guest.bind_path("c-plain")
                else:
                    assert type(await guest.bind_path("c-plain")) is bound
                    await guest.unbind("c-plain")

    await run_on(client, host, scenario, drivers=DRIVERS)


@CLIENTS
async def test_the_guest_sees_what_there_is(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        found = {each.path: each for each in await guest.walk()}
        assert sorted(found) == ["/", "/a-lamp", "/b-broken", "/bus", "/bus/shuffled", "/c-plain", "/rng", "/rng2"]
        assert found["/a-lamp"][2:] == ("a-lamp", ("test,lamp-2", "test,lamp"), (0x1234, 0x55))
        assert found["/bus"].compatible == () and found["/bus"].ids == (0, 0)
        assert await guest.properties(found["/a-lamp"].node) == {
            "name": "a-lamp", "compatible": ("test,lamp-2", "test,lamp"), "vendor-id": 0x1234, "device-id": 0x55,
            "hcall-class": 0x55, "watts": 60,
        }  # fmt: skip
        for path in ("/bus", "/"):
            with pytest.raises(NoMatch, match="no device"):
                await guest.bind_found(await guest.found(path))
        with pytest.raises(NoMatch, match="none"):
            await guest.found("/bus/none")

    await run_on(client, host, scenario)


@CLIENTS
async def test_a_failed_device_takes_no_calls_until_it_is_negotiated_again(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await guest.bind_found(await guest.found("/a-lamp"))
        assert isinstance(driver, LampDriver)
        device = driver.dev
        assert isinstance(device, OpenDevice)
        await guest.core(device.handle, numbers.SET_STATUS, 15 | DeviceStatus.FAILED)
        with pytest.raises(NotAllowed):
            await driver.double(1)
        await device.negotiate(["COLOUR"])
        assert device.features == {"COLOUR"} and await driver.double(1) == 2
        with pytest.raises(NoSuchCall):
            await driver.dim(1)

    await run_on(client, host, scenario, drivers=DRIVERS)


def driver(name: str, compatible: str = "", ids: tuple[int, int] = (0, 0)) -> type[Driver]:
    return type(name, (Driver,), {"compatible": (compatible,) if compatible else (), "ids": (ids,) if any(ids) else ()})


@pytest.mark.spec("V-1")
def test_the_most_specific_string_decides_then_the_ids_then_the_order() -> None:
    found = Found(1, "/x", "x", ("v,special", "v,usual"), (5, 6))
    special, usual, by_ids = driver("Special", "v,special"), driver("Usual", "v,usual"), driver("Ids", "", (5, 6))
    first, second, nobody = driver("A", "v,usual"), driver("B", "v,usual"), driver("Nobody", "v,other", (5, 7))
    for order in itertools.permutations([special, usual, by_ids, nobody]):
        assert match(found, order) is special
    for order in itertools.permutations([usual, by_ids, nobody]):
        assert match(found, order) is usual
    for order in itertools.permutations([by_ids, nobody]):
        assert match(found, order) is by_ids
    for order in itertools.permutations([first, second]):
        assert match(found, order) is order[0]
    assert match(found, [nobody]) is None
    assert match(found._replace(compatible=(), ids=(0, 0)), [driver("Zero", "", (0, 0)), nobody]) is None


def test_every_model_of_the_host_has_exactly_one_driver() -> None:
    for name in models.names():
        compatible = models.load(name, Path()).compatible
        strings = (compatible,) if isinstance(compatible, str) else compatible
        assert len([each for each in known_drivers() if set(each.compatible) & set(strings)]) == 1, name
