"""What a driver's cancelled call has taken or begun, device by device: nothing is lost, torn or left open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, cast

import pytest
from giving_up import STEPS, done, given_up
from input_ends import edges, encoded, key, model

import guestd
import hostd
from guestd.commands.trees import copy_out
from guestd.drivers.folder import FolderDriver
from guestd.drivers.hid import HidDriver
from guestd.drivers.net import NetDriver
from guestd.drivers.ppp import PppDriver
from guestd.drivers.printer import PrinterDriver
from guestd.drivers.sysman import SysmanDriver
from hcall.errors import LinkLost, WouldBlock
from hcall.formats import ipv4
from hcall.formats.folder import Access
from hcall.formats.input import EV_KEY, Event, Packet, codes_of
from hcall.formats.keycodes import KEYS
from hcall.formats.sysmgmt import Attribute, Command, Happened
from hcall.formats.sysmgmt import Event as Told
from hostd import Machine
from hostd.backings.parts.event_queue import QUEUE
from hostd.service.panel import act

SECONDS = 30  # after which a test says that something hangs


@contextlib.asynccontextmanager
async def served(folder: Path, device: str, **keys: object) -> AsyncIterator[tuple[hostd.Host, Any]]:
    tables = {device: {"model": device, **keys}}
    machine = Machine.from_tables({"devices": tables}, folder)
    async with (
        hostd.serve(machine, folder / "run") as host,
        asyncio.timeout(SECONDS),
        guestd.attach(host.socket) as guest,
    ):
        yield host, await guest.bind(device)


async def test_events_of_a_keyboard(tmp_path: Path) -> None:
    async with served(tmp_path, "hid") as (host, driver):
        hid, got = cast(HidDriver, driver), list[Packet]()
        for n in range(200):
            await act(host.tree.find("/hid"), "tap", ["KEY_A" if n % 3 else "KEY_B"])
            got += await given_up(hid.events(), STEPS[n % len(STEPS)]) or []
        while len(edges(got)) < 400:
            got += await hid.events()
        codes = [KEYS["KEY_A" if n % 3 else "KEY_B"] for n in range(200)]
        assert edges(got) == [Event(EV_KEY, code, value) for code in codes for value in (1, 0)]
        assert hid.pressed == set()


async def test_a_look_at_the_keys_that_is_given_up_forgets_none(tmp_path: Path) -> None:
    async with served(tmp_path, "hid") as (host, driver):
        hid, node = cast(HidDriver, driver), host.tree.find("/hid")
        for steps in STEPS:
            await act(node, "release" if hid.pressed else "press", ["KEY_A"])
            model(host).send(encoded(key(KEYS["KEY_B"], 1, 0) * (QUEUE // 4 + 1)))
            held = codes_of(await hid.keys()) ^ {KEYS["KEY_A"]}
            got = await given_up(hid.events(), steps) or []
            while hid.pressed != held:
                got += await hid.events()
            assert any(packet.dropped for packet in got) and KEYS["KEY_A"] in {each.code for each in edges(got)}
            with contextlib.suppress(WouldBlock):
                while True:
                    await hid.read(4096)


async def received(net: NetDriver, how: str) -> list[bytes]:
    if how == "receive":
        return await net.receive()
    try:
        with await (net.poll() if how == "poll" else net.borrow()) as frames:
            return list(map(bytes, frames))
    except WouldBlock:
        return []


@pytest.mark.parametrize("how", ["receive", "poll", "borrow"])
async def test_frames(tmp_path: Path, how: str) -> None:
    machine = Machine.from_tables({"devices": {name: {"model": "net"} for name in "ab"}}, tmp_path)

    async with (
        hostd.serve(machine, tmp_path / "run") as host,
        asyncio.timeout(SECONDS),
        guestd.attach(host.socket) as here,
        guestd.attach(host.socket) as there,
    ):
        a, b = cast(NetDriver, await here.bind("a")), cast(NetDriver, await there.bind("b"))
        got: list[bytes] = []
        sent = [b.mac + a.mac + b"\x88\xb5" + n.to_bytes(2, "big") for n in range(300)]
        for n, frame in enumerate(sent):
            await a.send([frame])
            got += await given_up(received(b, how), STEPS[n % len(STEPS)]) or []
        while len(got) < len(sent):
            got += await b.receive()
        assert got == sent
        await given_up(b.receive(), 3)
        free = there.ram.first.size
        await there.unbind("b")
        del b
        there.ram.alloc(free).free()  # all memory is back


async def test_packets_both_ways(tmp_path: Path) -> None:
    host_side, guest_side = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
    async with served(tmp_path, "ppp") as (_, driver):
        ppp, got = cast(PppDriver, driver), list[bytes]()
        for steps in STEPS:
            await given_up(ppp.up(), steps)
        await ppp.up()
        for n in range(200):
            ping = ipv4.echo_request(guest_side, host_side, 7, n, b"x" * (n * 7))
            await given_up(done(ppp.send(ping)), STEPS[n // len(STEPS) % len(STEPS)])
            got.append(await given_up(ppp.receive(), STEPS[n % len(STEPS)]) or b"")
        answers = [ipv4.Packet.decode(each) for each in got if each]
        while len(answers) < 200:
            answers.append(ipv4.Packet.decode(await ppp.receive()))
        numbers = [int.from_bytes(each.payload[6:8], "big") for each in answers if each]
        assert numbers == list(range(200))


async def test_what_the_system_manager_says(tmp_path: Path) -> None:
    async with served(tmp_path, "sysman") as (host, driver):
        sysman, got = cast(SysmanDriver, driver), list[object]()
        for n in range(100):
            await act(host.tree.find("/sysman"), "overheat" if n % 2 == 0 else "cool", [str(n // 2 % 8)])
            for steps in (STEPS[n % len(STEPS)], 3):
                if (event := await given_up(sysman.event(), steps)) is not None:
                    got.append(event)
            await given_up(done(sysman.listen(Attribute.ALL)), STEPS[n % len(STEPS)])
        while len(got) < 100:
            got.append(await sysman.event())
        kinds = (Happened.THERMAL_ALERT, Happened.THERMAL_CLEARED)
        assert got == [Told(kinds[n % 2], n // 2 % 8) for n in range(100)]


@pytest.mark.parametrize("steps", [*STEPS, 20, 30])
async def test_a_guest_that_gave_up_its_end_is_told_of_events_again(tmp_path: Path, steps: int) -> None:
    async with served(tmp_path, "sysman") as (host, driver):
        sysman = cast(SysmanDriver, driver)
        if await given_up(done(sysman.shutdown()), steps):
            return
        waiting = asyncio.ensure_future(sysman.event())
        try:
            for _ in range(20):
                await sysman.get_time()
        except LinkLost:  # or it has ended
            with pytest.raises(LinkLost):
                await waiting
            return
        if waiting.done():  # it was too late: the host has commanded what it was asked for
            assert isinstance(await waiting, Command)
            await sysman.respond()
            with pytest.raises(LinkLost):
                await sysman.event()
            return
        await act(host.tree.find("/sysman"), "overheat", ["1"])
        assert await waiting == Told(Happened.THERMAL_ALERT, 1)


async def test_a_job_that_was_given_up_is_dropped_whole_or_printed_whole(tmp_path: Path) -> None:
    async with served(tmp_path, "printer", spool="spool:jobs") as (_, driver):
        printer, whole = cast(PrinterDriver, driver), []
        for n, steps in enumerate([*range(1, 61, 2)] * 2):
            first, second = (f"{n} {part} ".encode() * 20_000 for part in ("first", "second"))
            await given_up(printer.print_job(first), steps)
            await printer.print_job(second)
            whole += [first, second]
        printed = [path.read_bytes() for path in sorted((tmp_path / "jobs").iterdir(), key=lambda path: path.name)]
        assert all(job in whole for job in printed) and len(set(printed)) == len(printed)
        assert all(second in printed for second in whole[1::2])
        assert any(first in printed for first in whole[::2]) and not all(first in printed for first in whole[::2])


async def test_files_and_folders_that_are_opened_and_given_up_are_closed_again(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    for n in range(20):
        (tmp_path / "shared" / f"file{n}").write_bytes(b"x" * 5000)
    async with served(tmp_path, "folder", path="shared") as (_, driver):
        folder = cast(FolderDriver, driver)
        works: list[Callable[[], Awaitable[object]]] = [
            folder.listdir, partial(folder.read_bytes, "file3"), partial(folder.write_bytes, "new", b"y" * 9000),
            partial(copy_out, folder, "", tmp_path / "out"),
        ]  # fmt: skip
        for n in range(400):  # far more than may be open at a time
            await given_up(done(works[n % 4]()), 1 + n // 4 % 30)
        files = [await folder.open("file1", Access.READ) for _ in range(60)]
        for file in files:
            await file.close()
