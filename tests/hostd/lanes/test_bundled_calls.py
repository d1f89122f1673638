"""Bundles on a socket: each call of one is made and answered as if it had come alone, and the others wait no longer."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from raw import ADDRESS, PAGE, RawGuest, attached, bystander, memfd, served, settled

import hostd
from hcall import numbers
from hcall.errors import Status
from hcall.messages import BUNDLES, END, FD_LANE, IRQ, REPLIES
from hostd.device import Data, Device, Irq, Later, Room, call
from hostd.machine.file import DeviceSpec

BOTH = FD_LANE | BUNDLES


class Bench(Device):
    """A call for each way that a call may go."""

    compatible = "test,bench"
    rung = Irq()

    def start(self) -> None:
        self.made: list[int] = []
        self.waiting: list[Later[Any]] = []

    def read(self, into: Room, at: int) -> int:
        self.made.append(at)
        return into.put(bytes([at % 256]) * into.nbytes)

    def write(self, data: Data, at: int) -> int:
        self.made.append(at)
        return data.nbytes

    @call
    def some(self, n: int) -> Any:
        """A failure, or an interrupt, or neither."""
        self.made.append(n)
        if n == 2:
            raise ValueError("two")
        if n == 3:
            self.rung()
        return n

    @call
    def often(self, n: int) -> int | Later[int]:
        """Late if it is 1."""
        if n == 1:
            self.waiting.append(Later())
            return self.waiting[-1]
        return n

    @call
    def slow(self) -> int:
        until = monotonic() + 0.01
        while monotonic() < until:
            pass
        self.made.append(0)
        return len(self.made)

    @call
    def long(self, size: int) -> str:
        self.made.append(size)
        return "x" * size

    @call
    def listed(self, count: int) -> list[bytes]:
        self.made.append(count)
        return [bytes(1024)] * count


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, DeviceSpec("bench", "bench", Bench, {})) as host:
        yield host


def bench(host: hostd.Host) -> Bench:
    device = host.tree.find("/bench").device
    assert isinstance(device, Bench)
    return device


async def opened(guest: RawGuest) -> tuple[int, dict[str, int]]:
    return await guest.open("/bench")


@pytest.mark.spec("G-3", "G-4", "G-7")
async def test_each_call_of_a_bundle_is_made_once_in_its_order_and_answered(host: hostd.Host) -> None:
    async with bystander(host), attached(host, features=BOTH) as guest:
        handle, calls = await opened(guest)
        guest.send(guest.next_bundle(calls["some"], handle, [((n,), ()) for n in (7, 2, 3, 8)]))
        answers = await guest.replies(4)
        assert [status for status, _ in answers] == [0, Status.INTERNAL, 0, 0]
        assert [value for status, value in answers if status == 0] == [7, 3, 8]
        assert bench(host).made == [7, 2, 3, 8] and [message[0] for message in guest.interrupts] == [IRQ]


async def test_wrong_calls_of_a_bundle_are_told_to_themselves(host: hostd.Host) -> None:
    async with bystander(host), attached(host, regions=1, features=BOTH) as guest:
        handle, calls = await opened(guest)
        several = [
            ((0,), (4,)), ((), (4,)), (("x",), (4,)), ((1,), ()), ((1,), (b"data",)), ((1,), (5000,)), ((1,), (-1,)),
            ((1,), ((ADDRESS, PAGE, 1),)), ((1,), ((ADDRESS + 1, PAGE, 1),)), ((1,), ((ADDRESS, PAGE, 0),)),
            ((9,), (2, 2)), ((9,), (2,)),
        ]  # fmt: skip
        guest.send(guest.next_bundle(calls["read"], handle, several))
        bad, area = Status.BAD_ARGUMENT, Status.BAD_AREA
        statuses = [status for status, _ in await guest.replies(len(several))]
        assert statuses == [0, bad, bad, 0, area, area, area, 0, area, area, area, 0]
        for number, wrong in [(calls["read"], handle + 100), (1 << 16 | 999, handle), (calls["read"], 0)]:
            guest.send(guest.next_bundle(number, wrong, [((0,), (4,))] * 2))
            answers = await guest.replies(2)
            guest.send(guest.next_call(number, wrong, (0,), (4,)))
            assert answers == [await guest.reply()] * 2  # as if they had come alone
        assert bench(host).made == [0, 1, 1, 9]


@pytest.mark.spec("G-4")
async def test_a_late_answer_of_a_bundle_holds_up_no_other(host: hostd.Host) -> None:
    async with bystander(host), attached(host, features=BOTH) as guest:
        handle, calls = await opened(guest)
        guest.send(guest.next_bundle(calls["often"], handle, [((n,), ()) for n in (1, 5, 1, 1, 6)]))
        first = [await guest.receive() for _ in range(2)]
        assert first == [(REPLIES, 0, guest.seq, 1, 0, (5,)), (REPLIES, 0, guest.seq, 4, 0, (6,))]
        for n in (2, 0):
            bench(host).waiting[n].done(n)
            assert await guest.receive() == (REPLIES, 0, guest.seq, (0, 2, 3)[n], 0, (n,))
        await guest_closes(guest, handle)
        assert await guest.receive() == (REPLIES, 0, guest.seq - 1, 2, (Status.RESET,), ("the device was reset",))


async def guest_closes(guest: RawGuest, handle: int) -> None:
    guest.send(guest.next_call(numbers.CLOSE, handle, slot=1))


async def test_a_turn_ends_within_a_bundle(host: hostd.Host) -> None:
    async with attached(host) as other, attached(host, features=BOTH) as guest:
        handle, calls = await opened(guest)
        guest.send(guest.next_bundle(calls["slow"], handle, [((), ())] * 20))
        await other.core(numbers.NOP)
        assert len(bench(host).made) < 10
        assert await guest.replies(20) == [(0, n) for n in range(1, 21)]
    long = {(call["device"], call["call"]): call["count"] for call in host.tree.overran()}
    assert long["/bench", "slow()"] == 20


@pytest.mark.spec("G-6")
@pytest.mark.parametrize(("name", "arg"), [("long", 250), ("listed", 4)])
async def test_calls_are_not_made_when_the_answers_are_as_long_as_a_message(
    host: hostd.Host, name: str, arg: int
) -> None:
    """What is kept of 64 calls for a guest that comes back is no more than of two calls that come alone."""
    async with bystander(host), attached(host, features=BOTH) as guest:
        handle, calls = await opened(guest)
        guest.send(guest.next_bundle(calls[name], handle, [((arg,), ())] * 64))
        answers = await guest.replies(64)
        made = len(bench(host).made)
        most = {"long": -(-16384 // 250), "listed": 16384 // 4096}[name]
        assert made == min(64, most)
        assert [status for status, _ in answers] == [0] * made + [None] * (64 - made)


async def test_rooms_of_a_bundle_count_too(host: hostd.Host) -> None:
    async with attached(host, features=BOTH) as guest:
        handle, calls = await opened(guest)
        guest.send(guest.next_bundle(calls["read"], handle, [((1,), (4096,))] * 10))
        answers = await guest.replies(10)
        assert [status for status, _ in answers] == [0] * 4 + [None] * 6
        assert len(bench(host).made) == 4


async def test_a_bundle_of_regions_is_lent_one_after_the_other(host: hostd.Host) -> None:
    async with attached(host, features=BOTH) as guest:
        fds = [memfd() for _ in range(3)]
        for n, fd in enumerate(fds):
            hand(guest, n, fd)
        added = [((ADDRESS + n * PAGE, PAGE, n), ()) for n in range(3)]
        guest.send(guest.next_bundle(numbers.ADD_MEMORY, 0, added))
        assert await guest.replies(3) == [(0, None)] * 3
        handle, calls = await opened(guest)
        status, count = await guest.call(calls["read"], handle, 5, areas=((ADDRESS, 3 * PAGE, 1),))
        assert (status, count) == (0, 3 * PAGE)


def hand(guest: RawGuest, number: int, fd: int) -> None:
    """Send *fd* by the fd lane."""
    socket.send_fds(guest.lane, [number.to_bytes(4, "little")], [fd])
    os.close(fd)


async def test_status_counts_the_calls_of_a_bundle(host: hostd.Host) -> None:
    async with attached(host, features=BOTH) as guest:
        handle, calls = await opened(guest)
        (known,) = host.guests.by_token.values()
        before = known.lane.session.calls
        guest.send(guest.next_bundle(calls["some"], handle, [((n,), ()) for n in range(10, 40)]))
        await guest.replies(30)
        assert known.lane.session.calls == before + 30


async def test_a_bundle_without_the_feature_ends_the_session(host: hostd.Host) -> None:
    async with bystander(host), attached(host) as guest:
        guest.send(guest.next_bundle(numbers.NOP, 0, [((), ())]))
        message = await guest.receive()
        assert message is not None and message[:2] == (END, Status.BAD_ARGUMENT)


async def test_a_guest_that_is_ended_within_a_bundle_makes_no_more_calls(host: hostd.Host) -> None:
    async with bystander(host) as other, attached(host, features=BOTH) as guest:
        handle, calls = await opened(guest)
        device = bench(host)
        (mine,) = [each for each in host.guests.by_token.values() if handle in each.account.holds]
        guest.send(guest.next_bundle(calls["slow"], handle, [((), ())] * 40))
        await other.core(numbers.NOP)
        host.guests.end(mine, Status.RESET, "enough")
        made = len(device.made)
        await settled(other)
        assert len(device.made) == made < 40
