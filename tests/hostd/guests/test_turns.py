"""Turns: however much one guest sends at once, the others wait for little of it; and each call is still made once."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

import pytest
from raw import RawGuest, attached, bystander, connected, hello, lent, memfd, served

import hostd
from hcall import numbers
from hcall.errors import Status
from hcall.messages import END, FD_LANE
from hostd.device import Device, call
from hostd.machine.file import DeviceSpec

CALLS = 20  # sent at once
LANE_SENDERS = 4


class Slow(Device):
    """Takes longer for a call than a turn is."""

    compatible = "test,slow"
    made = 0

    @call
    def work(self) -> int:
        until = monotonic() + 0.01
        while monotonic() < until:
            pass
        self.made += 1
        return self.made

    def reset(self) -> None:
        self.work()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, DeviceSpec("slow", "slow", Slow, {})) as host:
        yield host


def slow(host: hostd.Host) -> Slow:
    device = host.tree.find("/slow").device
    assert isinstance(device, Slow)
    return device


async def calls_at_once(guest: RawGuest) -> bytes:
    """As many as make several turns."""
    handle, calls = await guest.open("/slow")
    return b"".join(guest.next_call(calls["work"], handle, slot=slot) for slot in range(CALLS))


async def test_a_guest_waits_for_no_more_than_a_turn_of_another(host: hostd.Host) -> None:
    async with attached(host) as other, attached(host) as guest:
        guest.send(await calls_at_once(guest))
        await other.core(numbers.NOP)
        assert slow(host).made < CALLS / 2
        assert [await guest.reply() for _ in range(CALLS)] == [(0, n) for n in range(1, CALLS + 1)]


async def test_what_took_longer_than_a_turn_is_counted_by_device_and_name(host: hostd.Host) -> None:
    async with attached(host) as guest:
        guest.send(await calls_at_once(guest))
        for _ in range(CALLS):
            await guest.reply()
    await host.guests.wait_for(lambda: not host.tree.find("/slow").opens)
    long = {(call["device"], call["call"]): call for call in host.tree.overran()}
    assert long["/slow", "work()"]["count"] == CALLS and long["/slow", "reset()"]["count"] == 1
    assert long["/slow", "work()"]["longest_ms"] >= 10


async def test_calls_that_wait_for_their_turn_are_made_once_though_the_link_is_lost(host: hostd.Host) -> None:
    token = os.urandom(16)
    async with bystander(host) as other, attached(host, token=token) as guest:
        many = await calls_at_once(guest)
        guest.send(many)
        await other.core(numbers.NOP)
        guest.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with connected(host) as again, ours:
            with theirs:
                welcome = await again.greet(hello(token=token, features=FD_LANE), [theirs.fileno()])
            assert welcome[-1] is True
            again.send(many)
            answers = [await again.reply() for _ in range(CALLS)]
        assert sorted(answers) == [(0, n) for n in range(1, CALLS + 1)]
        assert slow(host).made == CALLS


@pytest.mark.parametrize("more", [b"", b"\x97\x00"], ids=["the end", "half a message, and the end"])
async def test_calls_that_wait_for_their_turn_are_made_though_no_more_comes(host: hostd.Host, more: bytes) -> None:
    async with bystander(host) as other, attached(host) as guest:
        guest.send(await calls_at_once(guest))
        await other.core(numbers.NOP)
        if more:
            guest.send(more)
            await other.core(numbers.NOP)
        guest.sock.shutdown(socket.SHUT_WR)
        answers = [await guest.reply() for _ in range(CALLS)]
        assert answers == [(0, n) for n in range(1, CALLS + 1)] and await guest.receive() is None


async def test_calls_that_wait_for_their_turn_end_with_the_session(host: hostd.Host) -> None:
    async with bystander(host), attached(host) as guest:
        guest.send(await calls_at_once(guest) + b"\xc1")
        *_, last = await guest.rest()
        assert last[:2] == (END, Status.BAD_ARGUMENT)
        assert slow(host).made < CALLS / 2


async def test_a_flood_of_descriptors_holds_up_nobody(host: hostd.Host) -> None:
    sent = [0] * LANE_SENDERS

    def flood(sender: int) -> None:
        try:
            while True:
                socket.send_fds(guest.lane, [bytes(4)], fds)
                sent[sender] += 1
        except OSError:  # the other end is closed
            pass

    with lent(memfd()) as fds:
        async with bystander(host), attached(host) as guest:
            threads = [threading.Thread(target=flood, args=[sender]) for sender in range(LANE_SENDERS)]
            for thread in threads:
                thread.start()
            try:
                before = sum(sent)
                status, text = await guest.call(numbers.ADD_MEMORY, 0, 0, 4096, 1)
                assert status == Status.BAD_ARGUMENT and "no descriptor with the id 1" in text
                assert sum(sent) - before < 4096
            finally:
                guest.lane.shutdown(socket.SHUT_RDWR)
                for thread in threads:
                    thread.join()
