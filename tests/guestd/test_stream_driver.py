"""The driver's half of the vuart on a pty whose other end the test holds: bulk, flow control, marks and masks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

import guestd
import hostd
from guestd.drivers.console import ConsoleDriver
from hcall import numbers
from hcall.errors import IoError, WouldBlock
from hostd import Machine

SIZE = 65536  # of each buffer of a stream
MASK, RX_BYTES, TX_BYTES = 2, 4, 6  # parameters
BEHIND = 8  # writes that are on their way
SECONDS = 30  # after which a test says that something hangs
DATA = random.Random(1).randbytes(10 << 20)


class OtherEnd:
    """The host's side of a pty, read and written without blocking the loop that the host runs in."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        self._loop = asyncio.get_running_loop()

    async def _ready(self, add: Callable[..., Any], remove: Callable[..., Any]) -> None:
        ready = self._loop.create_future()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        add(self.fd, wake)
        try:
            await ready
        finally:
            remove(self.fd)

    async def read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            try:
                data += os.read(self.fd, min(count - len(data), SIZE))
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
        return bytes(data)

    async def write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self.fd, data[:SIZE]) :]
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)

    def put(self, data: bytes) -> int:
        """As much as goes at once."""
        try:
            return os.write(self.fd, data[:SIZE])
        except BlockingIOError:
            return 0


Line: TypeAlias = "tuple[guestd.AsyncGuest, ConsoleDriver, OtherEnd]"


@contextlib.asynccontextmanager
async def other_end(host: hostd.Host, path: str) -> AsyncIterator[OtherEnd]:
    end = OtherEnd(str(host.tree.find(path).properties()["endpoint"]))
    try:
        async with asyncio.timeout(SECONDS):
            yield end
    finally:
        os.close(end.fd)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    devices = {name: {"model": "console"} for name in ("console", "other")}
    async with hostd.serve(Machine.from_tables({"devices": devices}, tmp_path), tmp_path / "run") as host:
        yield host


@pytest.fixture
async def one_slot(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    """A host for guests of which no call can wait: their drivers do."""
    tables = {"devices": {name: {"model": "console"} for name in ("console", "other")}, "limits": {"slots": 1}}
    async with hostd.serve(Machine.from_tables(tables, tmp_path), tmp_path / "run") as host:
        yield host


@contextlib.asynccontextmanager
async def line(host: hostd.Host, path: str = "console") -> AsyncIterator[Line]:
    async with guestd.attach(host.socket) as guest, other_end(host, path) as end:
        driver = await guest.bind(path)
        assert isinstance(driver, ConsoleDriver)
        yield guest, driver, end


async def read(driver: ConsoleDriver, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        data += await driver.read_some(min(count - len(data), 4096))
    return bytes(data)


async def counts(guest: guestd.AsyncGuest, driver: ConsoleDriver) -> dict[str, int]:
    """How often each interrupt was raised, as the host counts."""
    ((_, values),) = await guest.core(0, numbers.POLL, 0)
    return {name: values[vector] for name, vector in driver.dev.vectors.items()}


async def test_ten_megabytes_both_ways_at_once_arrive_as_they_are(host: hostd.Host) -> None:
    async with line(host) as (_, driver, end):
        ends = end.write(DATA), end.read(len(DATA))
        received, _, _, sent = await asyncio.gather(read(driver, len(DATA)), driver.write_all(DATA[::-1]), *ends)
        assert received == DATA
        assert sent == DATA[::-1]


async def test_ten_megabytes_both_ways_at_once_without_a_loop(host: hostd.Host) -> None:
    def blocking() -> bytes | None:
        with guestd.attach_blocking(host.socket) as guest:
            driver = guest.bind("console")
            assert isinstance(driver, ConsoleDriver)
            work: list[Awaitable[Any]] = [read(driver, len(DATA)), driver.write_all(DATA[::-1])]
            received: bytes = guest.gather(*work)[0]
            return received

    async with other_end(host, "console") as end:
        received, _, sent = await asyncio.gather(asyncio.to_thread(blocking), end.write(DATA), end.read(len(DATA)))
        assert received == DATA
        assert sent == DATA[::-1]


@pytest.mark.parametrize("count", [4097, SIZE, SIZE + 1, 1 << 20])
async def test_much_is_read_as_it_is_and_no_more_than_was_asked_for(host: hostd.Host, count: int) -> None:
    async with line(host) as (_, driver, end):
        writing = asyncio.ensure_future(end.write(DATA[: count + 100]))
        assert await driver.read_exactly(count) == DATA[:count]
        assert await driver.read_exactly(100) == DATA[count : count + 100]
        await writing
        reading = asyncio.ensure_future(driver.read_some(count))
        await driver.get_param(0)
        assert not reading.done()
        await end.write(b"few")
        assert await reading == b"few"


async def test_a_guest_that_does_not_read_stops_the_writer_and_loses_nothing(host: hostd.Host) -> None:
    async with line(host) as (_, driver, end):
        put = 0
        while (n := end.put(DATA[put:])) or await driver.get_param(RX_BYTES) < SIZE:
            put += n
            assert put < 1 << 20, "it takes without end"
        assert await read(driver, put) == DATA[:put]
        rest = DATA[put : put + (1 << 20)]
        _, received = await asyncio.gather(end.write(rest), read(driver, len(rest)))
        assert received == rest


async def test_a_host_side_that_does_not_read_stops_the_guest_and_loses_nothing(host: hostd.Host) -> None:
    async with line(host) as (_, driver, end):
        put = 0
        with pytest.raises(WouldBlock):
            while put < 1 << 20:
                put += await driver.write(DATA[put : put + 4096])
        assert await driver.get_param(TX_BYTES) == SIZE
        more = (BEHIND + 1) * SIZE
        writing = asyncio.ensure_future(driver.write_all(DATA[put : put + more]))
        for _ in range(BEHIND):
            await driver.get_param(TX_BYTES)
        assert not writing.done()
        assert await end.read(put + more) == DATA[: put + more]
        await writing


@pytest.mark.spec("CON-1")
async def test_settle_waits_until_nothing_waits_in_the_device(host: hostd.Host) -> None:
    async with line(host) as (guest, driver, end):
        await driver.settle()  # nothing does
        put = 0
        while await driver.get_param(TX_BYTES) < SIZE:
            put += await driver.write(DATA[put : put + 4096])
        settling = asyncio.gather(driver.settle(), driver.settle())
        for _ in range(4):  # calls during which both come to wait
            with pytest.raises(WouldBlock):
                await driver.sync()
        assert not settling.done()
        assert await end.read(put) == DATA[:put]
        await settling
        assert await driver.get_param(TX_BYTES) == 0 and await driver.get_param(MASK) == 6  # TX is masked
        before = await counts(guest, driver)
        await end.write(b"hello")
        assert await driver.read_exactly(5) == b"hello"
        assert (await counts(guest, driver))["tx_ready"] == before["tx_ready"]


async def test_one_blocked_console_does_not_stall_another_device(host: hostd.Host) -> None:
    async with line(host) as (_, driver, end), line(host, "other") as (_, other, other_end):
        with pytest.raises(WouldBlock):
            while True:
                await driver.write(DATA[:4096])
        while end.put(DATA) or await driver.get_param(RX_BYTES) < SIZE:
            pass
        _, received = await asyncio.gather(other_end.write(DATA[:SIZE]), read(other, SIZE))
        assert received == DATA[:SIZE]
        await other.write_all(DATA[:SIZE])
        assert await other_end.read(SIZE) == DATA[:SIZE]


async def test_transmit_interrupts_come_only_while_somebody_waits_for_room(one_slot: hostd.Host) -> None:
    async with line(one_slot) as (guest, driver, end):
        before = await counts(guest, driver)
        for n in range(100):
            await driver.write(DATA[n : n + 100])
        assert await end.read(10_000) == b"".join(DATA[n : n + 100] for n in range(100))
        assert await counts(guest, driver) == before
        writing = asyncio.ensure_future(driver.write_all(DATA[: 1 << 20]))
        while not await driver.get_param(MASK) & 1:
            pass
        assert await end.read(1 << 20) == DATA[: 1 << 20]
        await writing
        assert await driver.get_param(MASK) == 6  # TX is masked again
        after = await counts(guest, driver)
        await driver.write_all(DATA[:100])
        assert await counts(guest, driver) == after


async def test_two_writers_of_one_stream_both_end(host: hostd.Host) -> None:
    async with line(host) as (_, driver, end):
        writing = asyncio.gather(driver.write_all(b"a" * 300_000), driver.write_all(b"b" * 500_000))
        while not await driver.get_param(TX_BYTES):
            pass
        async with asyncio.timeout(5):
            sent, _ = await asyncio.gather(end.read(800_000), writing)
        assert (sent.count(b"a"), sent.count(b"b")) == (300_000, 500_000)


async def test_a_write_that_was_given_up_does_not_show_the_host_the_bytes_of_the_next_one(host: hostd.Host) -> None:
    async with line(host) as (_, driver, end):
        for letter in (b"a", b"b"):
            writing = driver.write_all(letter * 8192)
            with contextlib.suppress(StopIteration):
                writing.send(None)  # the call is on its way, and the host has not looked at it
            writing.close()
        assert await end.read(16384) == b"a" * 8192 + b"b" * 8192


async def test_without_free_guest_memory_much_is_written_within_messages(host: hostd.Host) -> None:
    async with line(host) as (guest, driver, end):
        taken = []
        with contextlib.suppress(MemoryError):
            while True:
                taken.append(guest.ram.alloc(1 << 16))
        while len(taken) < 100_000:  # what is left in smaller pieces
            try:
                taken.append(guest.ram.alloc(4096))
            except MemoryError:
                break
        _, sent = await asyncio.gather(driver.write_all(DATA[:200_000]), end.read(200_000))
        assert sent == DATA[:200_000]
        for buffer in taken:
            buffer.free()


async def test_the_memory_for_writing_comes_back_with_the_device(host: hostd.Host) -> None:
    async def use(guest: guestd.AsyncGuest, end: OtherEnd) -> None:
        driver = await guest.bind("console")
        for _ in range(2):
            _, sent = await asyncio.gather(driver.write_all(DATA[:SIZE]), end.read(SIZE))
            assert sent == DATA[:SIZE] and _free_bytes(guest) == free - SIZE

    async with guestd.attach(host.socket) as guest, other_end(host, "console") as end:
        free = _free_bytes(guest)
        for _ in range(3):
            await use(guest, end)
            await guest.unbind("console")
            gc.collect()
            assert _free_bytes(guest) == free


def _free_bytes(guest: guestd.AsyncGuest) -> int:
    """The largest buffer there is."""
    low, high = 0, 1 << 40
    while low < high:
        middle = (low + high + 1) // 2
        try:
            guest.ram.alloc(middle).free()
            low = middle
        except MemoryError:
            high = middle - 1
    return low


async def test_triggers_are_set_in_bytes_of_room_and_bytes_that_wait(host: hostd.Host) -> None:
    async with line(host) as (guest, driver, end):
        await driver.set_triggers(tx_free=1000, rx_waiting=300)
        assert (await driver.get_param(0), await driver.get_param(1)) == (1000, SIZE - 300)
        await end.write(b"x" * 299)
        while await driver.get_param(RX_BYTES) < 299:
            pass
        assert (await counts(guest, driver))["rx_ready"] == 0
        await end.write(b"y")
        await driver.rx_ready.wait()
        assert await driver.read_some() == b"x" * 299 + b"y"


async def test_read_until_keeps_what_follows_for_the_next_read(host: hostd.Host) -> None:
    async with line(host) as (_, driver, end):
        await end.write(b"one\r\ntwo\r\nthree")
        assert await driver.read_until(b"\r\n") == b"one\r\n"
        assert await driver.read_until(b"\r\n") == b"two\r\n"
        assert await driver.read_some(2) == b"th"
        waiting = asyncio.ensure_future(driver.read_until(b"!"))
        await driver.get_param(0)
        await end.write(b"\r")  # a mark may come in pieces
        await end.write(b"!?")
        assert await waiting == b"ree\r!"
        assert await driver.read_some() == b"?"


async def test_read_until_gives_up_at_its_limit(host: hostd.Host) -> None:
    async with line(host) as (_, driver, end):
        await end.write(b"x" * 200)
        while await driver.get_param(RX_BYTES) < 200:
            pass
        with pytest.raises(ValueError, match="100 bytes"):
            await driver.read_until(b"\n", limit=100)


async def test_read_exactly_waits_for_the_rest_and_takes_what_was_kept_first(host: hostd.Host) -> None:
    async with line(host) as (_, driver, end):
        await end.write(b"mark:abc")
        assert await driver.read_until(b":") == b"mark:"
        reading = asyncio.ensure_future(driver.read_exactly(6))
        await driver.get_param(0)
        await end.write(b"def")
        assert await reading == b"abcdef"


@pytest.mark.parametrize("how", ["read_until", "read_some", "read_exactly"])
async def test_the_end_of_the_stream_is_told_by_each_read(tmp_path: Path, how: str) -> None:
    devices = {"console": {"model": "console", "backing": "cmd:printf abc"}}
    machine = Machine.from_tables({"devices": devices}, tmp_path)
    async with hostd.serve(machine, tmp_path / "run") as host, guestd.attach(host.socket) as guest:
        async with asyncio.timeout(SECONDS):
            driver = await guest.bind("console")
            assert isinstance(driver, ConsoleDriver)
            if how == "read_until":
                with pytest.raises(EOFError, match="before b'z'"):
                    await driver.read_until(b"z")
            elif how == "read_exactly":
                with pytest.raises(IoError, match="1 bytes early"):
                    await driver.read_exactly(4)
            else:
                assert [await driver.read_some(2) for _ in range(4)] == [b"ab", b"c", b"", b""]
