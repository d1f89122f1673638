"""The lane of rings, by a guest on the bare wire, which writes into them what it likes."""

from __future__ import annotations

import asyncio
import mmap
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from raw import ADDRESS, PAGE, RawGuest, attached, bystander, lent, served, until
from slow import SPECS, slow

import hostd
from hcall import numbers
from hcall.errors import Status
from hcall.formats.lanes import ring
from hcall.formats.lanes.ring import Chain
from hcall.messages import IRQ

SIZE = 8
TABLE, AVAILABLE, USED, BODY, ANSWER, DATA = 0, 0x100, 0x200, 0x400, 0x600, 0x800
ANSWER_BYTES = 300


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, *SPECS) as host:
        yield host


class RawRing:
    """A ring in the first page of a guest, written by hand."""

    def __init__(self, guest: RawGuest, page: mmap.mmap) -> None:
        self.guest, self.map, self.put, self.seen = guest, page, 0, 0
        self.device = self.handle = 0

    async def add(self, path: str, features: int = 0, fds: tuple[int, ...] = ()) -> dict[str, int]:
        """Open the device at *path*, and have a ring for it: its calls.  *fds*: its eventfds."""
        self.device, calls = await self.guest.open(path)
        for number, fd in enumerate(fds, 1):
            socket.send_fds(self.guest.lane, [number.to_bytes(4, "little")], [fd])
        parts = (ADDRESS + TABLE, ADDRESS + AVAILABLE, ADDRESS + USED)
        self.handle = await self.guest.core(
            numbers.ADD_RING, self.device, SIZE, *parts, features, *((1, 2) if fds else (0, 0))
        )
        return calls

    def write(self, head: int, chain: Chain) -> None:
        self.at(16 * head, ring.describe(chain, head))

    def at(self, offset: int, data: bytes) -> None:
        self.map[offset : offset + len(data)] = data

    def call(self, number: int, args: tuple[Any, ...] = (), room: int = 0, handle: int = 0, head: int = 0) -> None:
        """Put one call; its places are those of *head*, an even one."""
        body = ring.pack_body(number, handle or self.device, args)
        self.at(BODY + 32 * head, body)
        rooms = ((ADDRESS + DATA, room),) if room else ()
        answer = ADDRESS + PAGE + 512 * head, ANSWER_BYTES
        self.write(head, Chain((ADDRESS + BODY + 32 * head, len(body)), (), answer, rooms))
        self.offer(head)

    def offer(self, head: int) -> None:
        self.at(AVAILABLE + 4 + 2 * (self.put % SIZE), struct.pack("<H", head))
        self.put += 1
        self.at(AVAILABLE + 2, struct.pack("<H", self.put & 0xFFFF))

    async def kick(self) -> None:
        await self.guest.core(numbers.KICK, self.handle)

    @property
    def flags(self) -> int:
        return int(struct.unpack_from("<H", self.map, USED)[0])

    def answers(self, second: mmap.mmap) -> list[tuple[int, int, object]]:
        """(head, status, value) of what came since the last time; answers are in the *second* page."""
        found = []
        while self.seen != struct.unpack_from("<H", self.map, USED + 2)[0]:
            head, size = struct.unpack_from("<II", self.map, USED + 4 + 8 * (self.seen % SIZE))
            found.append((head, *ring.unpack_answer(second[512 * head : 512 * head + size])))
            self.seen += 1
        return found


class Pages:
    """A guest with two pages, and a ring in the first."""

    def __init__(self, guest: RawGuest, maps: list[mmap.mmap]) -> None:
        self.guest, self.ring, self.first, self.second = guest, RawRing(guest, maps[0]), *maps

    def answers(self) -> list[tuple[int, int, object]]:
        return self.ring.answers(self.second)


@pytest.fixture
async def pages(host: hostd.Host) -> AsyncIterator[Pages]:
    async with attached(host, regions=2) as guest:
        maps = [mmap.mmap(fd, PAGE) for fd in guest.fds]
        yield Pages(guest, maps)
        for each in maps:
            each.close()


@pytest.mark.spec("RING-1", "RING-2", "RING-3")
async def test_a_call_in_a_ring_fills_memory_and_is_answered_with_a_count(pages: Pages) -> None:
    calls = await pages.ring.add("/rng")
    pages.ring.call(calls["read"], (0,), room=16)
    await pages.ring.kick()
    assert pages.answers() == [(0, 0, 16)] and any(pages.first[DATA : DATA + 16])
    pages.ring.call(calls["read"], (0,), room=16)  # the same descriptors
    pages.ring.call(calls["read"], (), room=16, head=4)  # without its argument
    await pages.ring.kick()
    (first, (head, status, text)) = pages.answers()
    assert first == (0, 0, 16) and (head, status) == (4, Status.BAD_ARGUMENT) and "this call takes (int)" in str(text)


@pytest.mark.spec("RING-3", "RING-4")
async def test_indices_go_round_and_an_event_index_says_who_is_told_when(pages: Pages) -> None:
    calls = await pages.ring.add("/slow", ring.EVENT_IDX)
    pages.ring.at(AVAILABLE + 4 + 2 * SIZE, struct.pack("<H", 0x8000))  # used_event: not for long
    for n in range(70_000 // SIZE):
        for head in range(0, SIZE, 2):
            pages.ring.call(calls["now"], (n,), head=head)
        pages.ring.put &= 0xFFFF
        if n % 50 == 0:
            await pages.ring.kick()
            assert pages.answers() == [(head, 0, n) for head in range(0, SIZE, 2)]
            pages.ring.seen &= 0xFFFF
            assert struct.unpack_from("<H", pages.first, USED + 4 + 8 * SIZE)[0] == pages.ring.put  # avail_event
        else:
            pages.ring.put -= SIZE // 2
            pages.ring.put &= 0xFFFF
    pages.guest.interrupts.clear()
    pages.ring.at(AVAILABLE + 4 + 2 * SIZE, struct.pack("<H", pages.ring.seen))  # at once
    pages.ring.call(calls["now"], (1,))
    await pages.ring.kick()
    assert [each[:3] for each in pages.guest.interrupts] == [(IRQ, pages.ring.handle, 0)]


@pytest.mark.spec("RING-4")
async def test_a_late_answer_is_told(host: hostd.Host, pages: Pages) -> None:
    calls = await pages.ring.add("/slow")
    pages.ring.call(calls["late"], (1,))
    pages.ring.call(calls["now"], (2,), head=4)
    pages.ring.at(AVAILABLE, struct.pack("<H", ring.NO_TELL))
    await pages.ring.kick()
    assert pages.answers() == [(4, 0, 2)] and not pages.guest.interrupts
    pages.ring.at(AVAILABLE, struct.pack("<H", 0))
    slow(host).waiting[1].done(7)
    assert await pages.guest.receive() == (IRQ, pages.ring.handle, 0, 1)
    assert pages.answers() == [(0, 0, 7)]


@pytest.mark.spec("RING-5")
async def test_a_ring_carries_calls_of_its_device_only(pages: Pages) -> None:
    calls = await pages.ring.add("/rng")
    other, _ = await pages.guest.open("/slow")
    pages.ring.call(numbers.CLOSE, head=0)
    pages.ring.call(calls["read"], (0,), handle=other, head=4)
    await pages.ring.kick()
    assert [(head, status) for head, status, _ in pages.answers()] == [(0, Status.NOT_ALLOWED), (4, Status.NOT_ALLOWED)]
    assert await pages.guest.core(numbers.GET_STATUS, pages.ring.device) == 15


@pytest.mark.spec("RING-6")
@pytest.mark.parametrize("how", ["close", "reset", "unplug", "remove"])
async def test_what_ends_a_ring_answers_what_was_taken_and_says_that_the_rest_was_not(
    host: hostd.Host, pages: Pages, how: str
) -> None:
    calls = await pages.ring.add("/slow")
    pages.ring.call(calls["late"], (1,))
    await pages.ring.kick()
    pages.ring.call(calls["now"], (2,), head=4)  # it is there, and not kicked
    if how == "close":
        await pages.guest.core(numbers.CLOSE, pages.ring.device)
    elif how == "reset":
        await pages.guest.core(numbers.SET_STATUS, pages.ring.device, 0)
    elif how == "unplug":
        await host.unplug("/slow", surprise=True)
    else:
        pages.guest.send(pages.guest.next_call(numbers.REMOVE_RING, pages.ring.handle, slot=1))
        await pages.guest.call(numbers.NOP)  # nothing is answered before that
        slow(host).waiting[1].done(5)
        assert await pages.guest.reply() == (0, None)
    expected = (0, 0, 5) if how == "remove" else (0, Status.RESET)
    for _ in range(3):
        await pages.guest.call(numbers.NOP)
    assert [each[: len(expected)] for each in pages.answers()] == [expected]
    assert pages.ring.flags == ring.ENDED
    assert (await pages.guest.call(numbers.KICK, pages.ring.handle))[0] == Status.STALE_HANDLE


RULES = {
    "jumps": lambda it: it.at(AVAILABLE + 2, struct.pack("<H", SIZE + 1)),
    "goes back": lambda it: it.at(AVAILABLE + 2, struct.pack("<H", 0xFFFF)),
    "a chain that begins at 8": lambda it: it.offer(SIZE),
    "circle": lambda it: (it.at(0, ring.DESCRIPTOR.pack(ADDRESS, 1, 1, 0)), it.offer(0)),
    "of what is not there": lambda it: (
        it.write(0, Chain((ADDRESS, 25), (), (ADDRESS + 2 * PAGE, 300), ())),
        it.offer(0),
    ),
    "300 bytes or more": lambda it: (it.write(0, Chain((ADDRESS, 25), (), (ADDRESS, 299), ())), it.offer(0)),
    "the body of a call": lambda it: (it.write(0, Chain((ADDRESS + PAGE, 1), (), (ADDRESS, 300), ())), it.offer(0)),
}


@pytest.mark.spec("RING-7", "RING-8")
@pytest.mark.parametrize("rule", RULES)
async def test_a_ring_that_breaks_a_rule_ends_its_guest_with_a_sentence_and_no_other(
    host: hostd.Host, rule: str
) -> None:
    async with bystander(host), attached(host, regions=2) as guest:
        with mmap.mmap(guest.fds[0], PAGE) as first:
            it = RawRing(guest, first)
            await it.add("/rng")
            RULES[rule](it)  # type: ignore[no-untyped-call]
            guest.send(guest.next_call(numbers.KICK, it.handle))
            *_, end = await guest.rest()
            assert end[1] == Status.BAD_ARGUMENT and "a ring that breaks its rules: " in end[2]
            assert {"goes back": "jumps"}.get(rule, rule) in end[2]


@pytest.mark.spec("RING-7")
async def test_a_ring_whose_memory_is_taken_away_ends_its_guest(host: hostd.Host, pages: Pages) -> None:
    calls = await pages.ring.add("/rng")
    await pages.guest.core(numbers.REMOVE_MEMORY, 0, ADDRESS)
    pages.ring.call(calls["read"], (0,), room=16)
    pages.guest.send(pages.guest.next_call(numbers.KICK, pages.ring.handle))
    *_, end = await pages.guest.rest()
    assert "the memory of a ring was taken away" in end[2]
    await until(host, lambda: not host.guests.by_token)


@pytest.mark.spec("RING-1")
@pytest.mark.parametrize(
    ("args", "status"),
    [
        ((3, ADDRESS, ADDRESS + 0x100, ADDRESS + 0x200, 0, 0, 0), Status.BAD_ARGUMENT),
        ((8, ADDRESS + 8, ADDRESS + 0x100, ADDRESS + 0x200, 0, 0, 0), Status.BAD_AREA),
        ((8, ADDRESS, ADDRESS + 0x101, ADDRESS + 0x200, 0, 0, 0), Status.BAD_AREA),
        ((8, ADDRESS, ADDRESS + 0x100, ADDRESS + 0x202, 0, 0, 0), Status.BAD_AREA),
        ((8, ADDRESS, ADDRESS + 0x100, ADDRESS + 2 * PAGE - 64, 0, 0, 0), Status.BAD_AREA),
        ((512, ADDRESS, ADDRESS + 0x100, ADDRESS + 0x200, 0, 0, 0), Status.BAD_AREA),  # over two regions
        ((8, -16, ADDRESS + 0x100, ADDRESS + 0x200, 0, 0, 0), Status.BAD_ARGUMENT),
        ((8, ADDRESS, ADDRESS + 0x100, ADDRESS + 0x200, 1, 0, 0), Status.NOT_ALLOWED),
    ],
)
async def test_what_can_be_no_ring_is_refused(pages: Pages, args: tuple[int, ...], status: Status) -> None:
    device, _ = await pages.guest.open("/rng")
    assert (await pages.guest.call(numbers.ADD_RING, device, *args))[0] == status


@pytest.mark.spec("RING-1")
async def test_a_guest_has_64_rings_at_most_and_each_that_goes_makes_room(pages: Pages) -> None:
    device, _ = await pages.guest.open("/rng")
    parts = (SIZE, ADDRESS + TABLE, ADDRESS + AVAILABLE, ADDRESS + USED, 0, 0, 0)
    rings = [await pages.guest.core(numbers.ADD_RING, device, *parts) for _ in range(64)]
    assert (await pages.guest.call(numbers.ADD_RING, device, *parts))[0] == Status.BUSY
    await pages.guest.core(numbers.REMOVE_RING, rings[5])
    await pages.guest.core(numbers.ADD_RING, device, *parts)
    await pages.guest.core(numbers.CLOSE, device)
    assert (await pages.guest.call(numbers.KICK, rings[0]))[0] == Status.STALE_HANDLE


async def told(fd: int) -> int:
    """What is in the eventfd, once something is."""
    loop, came = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, came.set)
    try:
        async with asyncio.timeout(3):
            await came.wait()
    finally:
        loop.remove_reader(fd)
    return os.eventfd_read(fd)


@pytest.mark.spec("RING-9")
async def test_eventfds_kick_and_tell_and_one_that_is_full_and_blocks_is_not_waited_for(pages: Pages) -> None:
    kick, tell = os.eventfd(0), os.eventfd(0)  # which block
    with lent(kick, tell):
        calls = await pages.ring.add("/rng", fds=(kick, tell))
        pages.ring.call(calls["read"], (0,), room=16)
        os.eventfd_write(kick, 1)
        assert await told(tell) == 1 and pages.answers() == [(0, 0, 16)]
        os.eventfd_write(tell, (1 << 64) - 2)  # one more would wait
        pages.ring.call(calls["read"], (0,), room=16)
        os.eventfd_write(kick, 1)
        while not (answers := pages.answers()):
            await pages.guest.core(numbers.NOP)
        assert answers == [(0, 0, 16)] and not pages.guest.interrupts
        await pages.guest.core(numbers.REMOVE_RING, pages.ring.handle)


@pytest.mark.spec("RING-9")
@pytest.mark.parametrize("bad", [0, 1])
async def test_what_is_no_eventfd_is_refused(pages: Pages, bad: int) -> None:
    device, _ = await pages.guest.open("/rng")
    good, (read, write) = os.eventfd(0), os.pipe()
    with lent(good, read, write):
        fds = [good, good]
        fds[bad] = read
        for number, fd in enumerate(fds, 1):
            socket.send_fds(pages.guest.lane, [number.to_bytes(4, "little")], [fd])
        parts = ADDRESS + TABLE, ADDRESS + AVAILABLE, ADDRESS + USED
        status, text = await pages.guest.call(numbers.ADD_RING, device, SIZE, *parts, 0, 1, 2)
        assert status == Status.BAD_AREA and "no eventfd" in text
        assert (await pages.guest.call(numbers.ADD_RING, device, SIZE, *parts, 0, 3, 0))[0] == Status.BAD_ARGUMENT
