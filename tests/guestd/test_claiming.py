"""Devices by class, with either client: bound when one is free, waited for until then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from raw import attached, in_thread, served, settled

import guestd
import hostd
from guestd.clients.claiming import bind_class
from guestd.driver import Driver
from hcall import numbers
from hcall.errors import Busy, NoMatch
from hostd.device import Device
from hostd.machine.file import DeviceSpec


class Lamp(Device):
    compatible = ("test,lamp-2", "test,lamp")


class LampDriver(Driver):
    compatible = ("test,lamp",)


class Refuses(Driver):
    compatible = ("test,lamp-2",)

    async def probe(self) -> None:
        raise RuntimeError("no")


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, DeviceSpec("bus/lamp", "lamp", Lamp, {})) as host:
        yield host


@pytest.mark.spec("Q-4")
async def test_who_waits_for_a_class_has_the_device_when_it_is_given_back(host: hostd.Host) -> None:
    async with (
        guestd.attach(host.socket, drivers=[LampDriver]) as one,
        guestd.attach(host.socket, drivers=[LampDriver]) as two,
    ):
        driver = await bind_class(one, "test,lamp-2")
        assert one.drivers == {"/bus/lamp": driver}
        with pytest.raises(Busy):
            await bind_class(two, "test,lamp", waits=False)
        waiting = [asyncio.create_task(bind_class(two, sort)) for sort in ("test,lamp", "test,other")]
        for _ in range(5):
            await two.core(0, numbers.NOP)
        assert not any(each.done() for each in waiting)
        await one.unbind("/bus/lamp")
        assert await waiting[0] is two.drivers["/bus/lamp"]
        assert not waiting[1].done()
        waiting[1].cancel()
        await asyncio.wait(waiting)
        host.plug(DeviceSpec("more", "lamp", Lamp, {}))  # hints of the root are still taken up
        assert (numbers.ADDED, "/more") in await two.happened()
        async with asyncio.timeout(5):
            assert (await bind_class(one, "test,lamp")).dev.name == "more"


async def test_a_driver_that_refuses_gives_the_device_back(host: hostd.Host) -> None:
    async with guestd.attach(host.socket, drivers=[Refuses]) as guest:
        with pytest.raises(RuntimeError):
            await bind_class(guest, "test,lamp")
        async with attached(host) as other:
            await other.open("/bus/lamp")
    async with guestd.attach(host.socket, drivers=[]) as guest:
        with pytest.raises(NoMatch):
            await bind_class(guest, "test,lamp")
        async with attached(host) as other:
            await other.open("/bus/lamp")


async def test_a_guest_without_a_loop_waits_too(host: hostd.Host) -> None:
    begun = threading.Event()

    def work() -> str:
        with guestd.attach_blocking(host.socket, drivers=[LampDriver]) as guest:
            with pytest.raises(Busy):
                guest.run(bind_class(guest, "test,lamp", waits=False))
            begun.set()
            guest.run(bind_class(guest, "test,lamp"))
            return next(iter(guest.drivers))

    async with attached(host) as other:
        handle, _ = await other.open("/bus/lamp")
        working = asyncio.create_task(in_thread(host, work))
        await asyncio.to_thread(begun.wait, 10)
        await settled(other)
        await other.core(numbers.CLOSE, handle)
        assert await working == "/bus/lamp"
