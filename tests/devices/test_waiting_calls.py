"""Reads and writes that wait, through a host: no clock ends them, a reset and a new host do as they should."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import socket
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, TypeAlias

import msgpack
import pytest
from moving import until
from raw import ADDRESS, RawGuest, attached, run_on

import guestd
import hostd
from guestd.clients.guest import Guest
from guestd.drivers.console import ConsoleDriver
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import HcallError, Status, WouldBlock
from hostd import Machine
from hostd.calls.pending import Pending

RX_BYTES = 4  # a parameter
BUFFER = 65536  # bytes of each buffer of a stream
DATA = random.Random(1).randbytes(3 << 20)
SECONDS = 30  # after which a test says that something hangs
CLIENTS = ("asyncio", "blocking")
ISOLATED = (False, True)
Peer: TypeAlias = "tuple[asyncio.StreamReader, asyncio.StreamWriter]"


def machine(folder: Path, isolate: bool = False, names: str = "a", **limits: int) -> Machine:
    tables = {name: {"model": "console", "backing": f"unix:{name}.sock", "isolate": isolate} for name in names}
    return Machine.from_tables({"devices": tables, "limits": limits}, folder)


@contextlib.asynccontextmanager
async def served(
    folder: Path, isolate: bool = False, names: str = "a", clock: ManualClock | None = None, **limits: int
) -> AsyncIterator[hostd.Host]:
    async with (
        asyncio.timeout(SECONDS),
        hostd.serve(machine(folder, isolate, names, **limits), folder / "run", clock) as host,
    ):
        yield host


@contextlib.asynccontextmanager
async def peer(folder: Path, name: str = "a") -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_unix_connection(str(folder / f"{name}.sock"))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def bound(guest: guestd.AsyncGuest, name: str = "a") -> ConsoleDriver:
    driver = await guest.bind(name)
    assert isinstance(driver, ConsoleDriver)
    return driver


@contextlib.asynccontextmanager
async def waiting(host: hostd.Host) -> AsyncIterator[tuple[RawGuest, int, dict[str, int]]]:
    """A guest whose read waits in slot 0, and whose write does in slot 1."""
    async with attached(host) as guest:
        handle, calls = await guest.open("/a")
        guest.send(guest.next_call(calls["wait_read"], handle, (), (100,)))
        await until_full(guest, handle, calls)
        guest.send(guest.next_call(calls["wait_write"], handle, (), (b"w" * 4096,), slot=1))
        guest.send(guest.next_call(numbers.NOP, slot=2))
        assert await guest.reply() == (0, None)
        yield guest, handle, calls


def is_waiting(host: hostd.Host) -> bool:
    """Whether a call waits."""
    guests = host.guests.by_token.values()
    return any(pending.waits for guest in guests for hold in guest.account.holds.values() for pending in hold.pending)


async def until_full(guest: RawGuest, handle: int, calls: dict[str, int]) -> None:
    status = 0
    while status == 0:
        guest.send(guest.next_call(calls["write"], handle, (0,), (b"w" * 4096,), slot=1))
        status, _ = await guest.reply()
    assert status == Status.WOULD_BLOCK


@pytest.mark.parametrize("isolate", ISOLATED)
@pytest.mark.spec("T-5", "S-9", "STR-7")
async def test_no_time_is_set_for_what_waits(tmp_path: Path, isolate: bool) -> None:
    clock = ManualClock()
    async with served(tmp_path, isolate, clock=clock) as host, waiting(host) as (guest, handle, calls):
        for _ in range(200):
            clock.turn(1)
            guest.send(guest.next_call(calls["get_param"], handle, (RX_BYTES,), slot=2))
            assert await guest.reply() == (0, 0)
        async with peer(tmp_path) as (reader, writer):
            writer.write(b"typed")
            assert {await guest.reply(), await guest.reply()} == {(0, b"typed"), (0, 4096)}
            await reader.readexactly(2 * BUFFER + 4096)


@pytest.mark.parametrize("isolate", ISOLATED)
@pytest.mark.parametrize("how", ["close", "reset", "unplug", "detach"])
@pytest.mark.spec("S-10")
async def test_what_waits_ends_with_the_device(tmp_path: Path, how: str, isolate: bool) -> None:
    async with served(tmp_path, isolate) as host, waiting(host) as (guest, handle, _):
        if how == "unplug":
            await host.unplug("/a", surprise=True)
        else:
            number = {"close": numbers.CLOSE, "reset": numbers.SET_STATUS, "detach": numbers.DETACH}[how]
            args = (0,) if how == "reset" else ()
            guest.send(guest.next_call(number, 0 if how == "detach" else handle, args, slot=2))
        answers = [await guest.reply(), await guest.reply()]
        assert [status for status, _ in answers] == [Status.RESET] * 2
        if how != "unplug":
            assert (await guest.reply())[0] == 0


@pytest.mark.parametrize("isolate", ISOLATED)
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.spec("STR-10", "R-4", "R-12")
async def test_what_waits_goes_on_with_the_next_host(tmp_path: Path, client: str, isolate: bool) -> None:
    async def scenario(guest: Guest[Any]) -> bytes:
        driver = await guest.bind_path("a")
        assert isinstance(driver, ConsoleDriver)
        await driver.write_all(b"hello")
        data = await driver.read_exactly(5) + await driver.read_exactly(BUFFER)
        await guest.unbind("a")
        return data

    async with contextlib.AsyncExitStack() as stack:
        old = await stack.enter_async_context(served(tmp_path, isolate))
        reader, writer = await stack.enter_async_context(peer(tmp_path))
        talking = asyncio.create_task(run_on(client, old, scenario))
        assert await reader.readexactly(5) == b"hello"
        await until(lambda: is_waiting(old))
        await old.drain()  # which waits for no call that waits
        saved, fds = old.save()
        copies = [*map(os.dup, fds)]
        old.cede()
        again = hostd.serve(
            machine(tmp_path, isolate), tmp_path / "next", fds=copies,
            saved=msgpack.unpackb(msgpack.packb(saved), strict_map_key=False),
        )  # fmt: skip
        new = await stack.enter_async_context(again)
        new.socket.rename(old.socket)
        for link in list(old.guests.links):
            link.abort()
        writer.write(b"typed" + bytes(BUFFER))
        assert await talking == b"typed" + bytes(BUFFER)


@pytest.mark.spec("R-4", "R-6")
async def test_what_waits_outlives_its_link(tmp_path: Path) -> None:
    async with served(tmp_path) as host, guestd.attach(host.socket) as guest, peer(tmp_path) as (_, writer):
        driver = await bound(guest)
        reading = asyncio.create_task(driver.read_exactly(10))
        for half in (b"first", b"other"):
            await guest.nop()
            guest.cut()
            await guest.nop()
            assert not reading.done()
            writer.write(half)
        assert await reading == b"firstother" and guest.resumed == 2


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.spec("STR-10")
async def test_others_have_slots_while_many_wait(tmp_path: Path, client: str, slots: int) -> None:
    names = "abcdefgh"

    async def both(guest: Guest[Any], work: list[Awaitable[Any]]) -> list[Any]:
        if isinstance(guest, guestd.AsyncGuest):
            return await asyncio.gather(*work)
        return guest.gather(*work)  # type: ignore[no-any-return,attr-defined]

    async def scenario(guest: Guest[Any]) -> list[bytes]:
        drivers = [await guest.bind_path(name) for name in names]
        assert all(isinstance(driver, ConsoleDriver) for driver in drivers)

        async def last_first() -> None:
            for driver in reversed(drivers):
                assert isinstance(driver, ConsoleDriver)
                await driver.winsize()
                await driver.write_all(b"go")

        reads: list[Awaitable[Any]] = [driver.read_exactly(6) for driver in drivers]
        return (await both(guest, [*reads, last_first()]))[:-1]

    async with served(tmp_path, names=names, slots=slots) as host, contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(peer(tmp_path, name)) for name in names]

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.readexactly(2) == b"go"
            writer.write(b"answer")

        answers = [asyncio.create_task(answer(*each)) for each in peers]
        assert await run_on(client, host, scenario) == [b"answer"] * len(names)
        await asyncio.gather(*answers)


async def test_a_large_room_gets_all_that_a_socket_holds_at_once(tmp_path: Path) -> None:
    async with served(tmp_path) as host, guestd.attach(host.socket) as guest, peer(tmp_path) as (_, writer):
        driver = await bound(guest)
        with guest.ram.alloc(1 << 20) as buffer:
            call, total = driver.number("wait_read"), 0
            writer.write(DATA)
            pieces = []
            while total < len(DATA):
                count = await driver.dev.call(call, (), buffer.room)
                pieces.append(bytes(buffer.view[:count]))
                total += count
            assert b"".join(pieces) == DATA
            assert max(map(len, pieces)) > BUFFER and max(map(len, pieces)) <= 262_144


async def test_room_in_pieces_is_filled_from_the_start(tmp_path: Path) -> None:
    async with served(tmp_path) as host, guestd.attach(host.socket) as guest, peer(tmp_path) as (_, writer):
        driver = await bound(guest)
        with guest.ram.alloc(1000) as one, guest.ram.alloc(1000) as other:
            areas = (*one.part(0, 0).room, *one.part(0, 3).room, *other.room)
            reading = asyncio.ensure_future(driver.dev.call(driver.number("wait_read"), (), areas))
            await guest.nop()
            writer.write(b"abcdef")
            count = await reading
            assert count >= 3 and bytes(one.view[:3]) + bytes(other.view[: count - 3]) == b"abcdef"[:count]
            assert await driver.read_exactly(6 - count) == b"abcdef"[count:]


async def test_a_peer_that_goes_is_heard_to_its_last_byte_and_the_next_after_it(tmp_path: Path) -> None:
    async with served(tmp_path) as host, guestd.attach(host.socket) as guest:
        driver = await bound(guest)
        got = b""
        for n in range(10):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(tmp_path / "a.sock"))
                if n % 2:  # what is written to it by then makes its end a failure
                    await driver.write_all(b"x")
                sock.sendall(b"%d" % n * 1000)
            got += await driver.read_exactly(1000)
        assert got == b"".join(b"%d" % n * 1000 for n in range(10))


async def given_up_reading(driver: ConsoleDriver) -> None:
    reading = asyncio.ensure_future(driver.read_some())
    await driver.get_param(RX_BYTES)
    reading.cancel()
    await asyncio.wait({reading})


async def test_who_gave_up_a_read_is_told_of_what_comes_and_has_it(tmp_path: Path) -> None:
    async with served(tmp_path) as host, guestd.attach(host.socket) as guest, peer(tmp_path) as (_, writer):
        driver = await bound(guest)
        for n in range(5):
            await given_up_reading(driver)
            with pytest.raises(WouldBlock):
                await driver.read(10)
            writer.write(b"typed")
            await driver.rx_ready.wait()
            if n % 2:
                assert await driver.read(10) == b"typed"
            else:
                with guest.ram.alloc(10) as buffer:
                    assert bytes(buffer.view[: await driver.read_into(buffer)]) == b"typed"


async def test_the_end_is_told_to_a_read_that_does_not_wait_beside_one_that_did(tmp_path: Path) -> None:
    tables = {"a": {"model": "console", "backing": "cmd:read line; printf end"}}
    async with (
        asyncio.timeout(SECONDS),
        hostd.serve(Machine.from_tables({"devices": tables}, tmp_path), tmp_path / "run") as host,
        guestd.attach(host.socket) as guest,
    ):
        driver = await bound(guest)
        await given_up_reading(driver)
        await driver.write_all(b"\n")
        await driver.disconnected.wait()
        got = b""
        with contextlib.suppress(WouldBlock):
            while data := await driver.read(10):
                got += data
        assert got.endswith(b"end") and await driver.read(10) == b""
        with guest.ram.alloc(10) as buffer:
            assert await driver.read_into(buffer) == 0


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_read_that_waits_has_no_part_in_the_time_of_a_call(tmp_path: Path, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> bytes:
        driver = await guest.bind_path("a")
        assert isinstance(driver, ConsoleDriver)
        return await driver.read_exactly(5)

    clock = ManualClock()
    options: dict[str, Any] = {"clock": clock} | ({"timeout": 1.0} if client == "blocking" else {})
    async with served(tmp_path) as host, peer(tmp_path) as (_, writer):
        reading = asyncio.create_task(run_on(client, host, scenario, **options))
        await until(lambda: is_waiting(host))
        clock.turn(100)
        writer.write(b"typed")
        assert await reading == b"typed"


async def test_who_reads_when_the_device_goes_is_told(tmp_path: Path) -> None:
    async with served(tmp_path) as host, guestd.attach(host.socket) as guest:
        driver = await bound(guest)
        readers = [asyncio.create_task(driver.read_some()) for _ in range(3)]
        await guest.nop()
        await host.unplug("/a", surprise=True)
        for reader in readers:
            with pytest.raises(HcallError):
                await reader
        fresh = guest.ram.first.size
        del driver, readers, reader
        guest.ram.alloc(fresh).free()  # all memory is back


@pytest.mark.parametrize("name", ["wait_read", "wait_write"])
async def test_nothing_is_left_of_what_waited_for_the_garbage(tmp_path: Path, name: str) -> None:
    async with served(tmp_path) as host, attached(host, regions=8) as guest:

        async def round_of() -> None:
            handle, calls = await guest.open("/a")
            area = (ADDRESS, 8 * 4096, int(name == "wait_read"))
            for slot in range(1, 30):
                guest.send(guest.next_call(calls[name], handle, (), (area,), slot))
            guest.send(guest.next_call(numbers.CLOSE, handle))
            statuses = [(await guest.reply())[0] for _ in range(30)]
            assert statuses.count(Status.RESET) > 10

        await round_of()
        gc.collect()
        gc.disable()
        try:
            await round_of()
            assert not [each for each in gc.get_objects() if type(each) is Pending]
        finally:
            gc.enable()
