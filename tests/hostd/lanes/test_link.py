"""A link: broken rules, silence and floods cost one guest its session, and nobody else anything."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from probe import PROBE, probe
from raw import RawGuest, attached, bystander, connected, hello, served, settled, until
from stopped import Stopped

import hostd
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import Status
from hcall.messages import ACK, CALL, END, HELLO, REPLY, WELCOME
from hcall.wire import encode


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def host(tmp_path: Path, clock: ManualClock) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, PROBE, clock=clock) as host:
        yield host


SLOT, SEQ = 0, 10  # of the next call, after those that opened the device and two more


def call_with(slot: object = SLOT, seq: object = SEQ, number: object = numbers.NOP, args: object = ()) -> bytes:
    return encode((CALL, slot, seq, number, 0, args, ()))


@pytest.mark.parametrize(
    "rubbish",
    [
        pytest.param(b"\xc1", id="no msgpack"),
        pytest.param(b"\x00", id="no array"),
        pytest.param(encode({0: 1}), id="a map"),
        pytest.param(encode(()), id="an empty array"),
        pytest.param(encode((CALL, 0, SEQ)), id="half a call"),
        pytest.param(encode((99, 0, SEQ, numbers.NOP, 0, (), ())), id="no known kind"),
        pytest.param(encode((False, 0, SEQ, numbers.NOP, 0, (), ())), id="a bool for a kind"),
        pytest.param(encode((HELLO, "hcall", 1, 1, 0, "again", bytes(16), ())), id="a second hello"),
        pytest.param(encode((REPLY, 0, SEQ, 0, None)), id="a reply"),
        pytest.param(call_with(slot=False), id="a bool for a slot"),
        pytest.param(call_with(seq=float(SEQ)), id="a seq with a point"),
        pytest.param(call_with(number="nop"), id="a number in words"),
        pytest.param(call_with(args={}), id="arguments in a map"),
        pytest.param(call_with(args=("x" * 257,)), id="a long string"),
        pytest.param(call_with(args=(bytes(4097),)), id="many bytes"),
        pytest.param(call_with(args=(0,) * 65), id="many arguments"),
        pytest.param(call_with(args=((bytes(4096),) * 5,)), id="a message of 20 KiB"),
        pytest.param(b"\xd4\x01\x00", id="an extension type"),
        pytest.param(b"\x91" * 2000, id="arrays in arrays"),
        pytest.param(call_with(seq=SEQ + 1), id="a seq that jumps"),
        pytest.param(call_with(slot=1, seq=SEQ - 1), id="a call again on the same link"),
        pytest.param(call_with(seq=1), id="an old seq"),
        pytest.param(call_with(seq=0), id="seq 0"),
        pytest.param(call_with(slot=-1), id="a negative slot"),
        pytest.param(call_with(slot=64), id="a slot that is not there"),
        pytest.param(call_with(slot=3), id="a slot out of turn"),
        pytest.param(encode((ACK, 0, 32, 0)), id="an acknowledgement of vector 32"),
        pytest.param(encode((ACK, 0, -1, 0)), id="an acknowledgement of vector -1"),
        pytest.param(encode((ACK, 0, 0, None)), id="an acknowledgement of nothing"),
        pytest.param(encode((ACK, 0, 0)), id="half an acknowledgement"),
    ],
)
@pytest.mark.spec("E-3", "E-5", "E-6", "E-7", "K-1", "S-3", "I-3", "R-5", "F-3")
async def test_a_broken_rule_ends_the_session_after_the_good_calls_before_it(host: hostd.Host, rubbish: bytes) -> None:
    async with bystander(host), attached(host) as guest:
        handle, calls = await guest.open("/probe")
        guest.send(b"".join(guest.next_call(calls["bump"], handle, slot=slot) for slot in range(2)) + rubbish)
        assert guest.seq == SEQ - 1
        *answers, last = await guest.rest()
        assert [answer[3:] for answer in answers] == [(0, 1), (0, 2)]
        assert last[0] == END and last[1] == Status.BAD_ARGUMENT and last[2]
        assert probe(host).count == 2 and not host.tree.find("/probe").opens


@pytest.mark.spec("S-3", "X-3")
async def test_a_slot_whose_call_is_not_answered_takes_no_other(host: hostd.Host) -> None:
    async with bystander(host), attached(host) as guest:
        handle, calls = await guest.open("/probe")
        guest.send(guest.next_call(calls["late"], handle) + guest.next_call(calls["bump"], handle))
        waiting, last = await guest.rest()
        assert waiting[3] == Status.RESET and last[:2] == (END, Status.BAD_ARGUMENT)
        assert probe(host).count == 0
        probe(host).waiting[0].done(1)  # too late, and no harm


@pytest.mark.spec("R-7")
async def test_half_a_call_has_no_effect(host: hostd.Host) -> None:
    async with bystander(host):
        async with attached(host) as guest:
            handle, calls = await guest.open("/probe")
            guest.send(guest.next_call(calls["bump"], handle)[:-1])
        assert probe(host).count == 0 and not host.tree.find("/probe").opens


@pytest.mark.spec("T-2")
async def test_a_message_has_five_seconds(host: hostd.Host, clock: ManualClock) -> None:
    async with bystander(host) as other, attached(host) as guest:
        data = guest.next_call(numbers.NOP)
        for n in range(5):
            guest.send(data[n : n + 1])
            await settled(other)
            clock.turn(1)
        assert len(host.guests.by_token) == 2
        guest.send(data[5:6])
        await settled(other)
        clock.turn(1.1)
        status, text = await guest.ended()
        assert status == Status.BAD_ARGUMENT and "5 s" in text


@pytest.mark.spec("T-2")
async def test_messages_that_overlap_have_five_seconds_each(host: hostd.Host, clock: ManualClock) -> None:
    """A guest whose every write ends in the middle of a message keeps the rule as long as each message does."""
    async with bystander(host) as other, attached(host) as guest:
        calls = [guest.next_call(numbers.NOP) for _ in range(10)]
        halves = [calls[0][:4], *(before[4:] + after[:4] for before, after in itertools.pairwise(calls))]
        for data in halves:
            guest.send(data)
            await settled(other)
            clock.turn(1)
        guest.send(calls[-1][4:])
        assert [await guest.reply() for _ in calls] == [(0, None)] * 10


async def fill(guest: RawGuest, other: RawGuest) -> None:
    """Make calls and read no answer, until the host reads no more."""
    handle, calls = await guest.open("/probe")
    for _ in range(1000):
        burst = b"".join(guest.next_call(calls["read"], handle, (0,), (4096,), slot) for slot in range(16))
        try:
            guest.send(burst)
        except BlockingIOError:
            return
        await settled(other)
    raise AssertionError("the host reads for ever")


@pytest.mark.spec("T-4")
async def test_a_guest_that_does_not_read_is_cut_off_after_ten_seconds(host: hostd.Host, clock: ManualClock) -> None:
    token = os.urandom(16)
    async with bystander(host) as other, attached(host, token=token) as guest:
        await fill(guest, other)
        link = host.guests.by_token[token].lane.link
        clock.turn(10)
        await settled(other)
        assert host.guests.by_token[token].lane.link is link
        clock.turn(1.1)
        answers = await guest.rest()
        assert 16 < len(answers) < guest.seq and all(answer[0] == REPLY for answer in answers)
        with connected(host) as again:  # the link was cut, not the session
            assert (await again.greet(hello(token=token)))[-1] is True


@pytest.mark.spec("T-4")
async def test_a_guest_that_reads_slowly_is_not_cut_off(host: hostd.Host, clock: ManualClock) -> None:
    token = os.urandom(16)
    async with bystander(host) as other, attached(host, token=token) as guest:
        await fill(guest, other)
        link, asked, answered = host.guests.by_token[token].lane.link, guest.seq, 0
        for _ in range(3):
            clock.turn(8)
            for _ in range(20):
                answered += (await guest.receive())[0] == REPLY  # type: ignore[index]  # it would be None at the end
            await settled(other)
        assert host.guests.by_token[token].lane.link is link and answered < asked
        clock.turn(13)  # and then not at all
        await settled(other)
        assert host.guests.by_token[token].lane.link is None


@pytest.mark.parametrize("slots", [64, 4096])
@pytest.mark.parametrize("queued", [1 << 18, 1 << 20])
@pytest.mark.spec("T-4")
async def test_what_all_slots_can_ask_for_may_wait(tmp_path: Path, slots: int, queued: int) -> None:
    """A guest that writes all its calls, and reads then, has done nothing wrong."""
    async with served(tmp_path, PROBE, slots=slots, queued=queued) as host, bystander(host), attached(host) as guest:
        handle, calls = await guest.open("/probe")
        many = b"".join(guest.next_call(calls["read"], handle, (0,), (4096,), slot) for slot in range(slots))
        await asyncio.get_running_loop().sock_sendall(guest.sock, many)
        for _ in range(slots):
            status, data = await guest.reply()
            assert status == 0 and len(data) == 4096


@pytest.mark.spec("T-1", "T-2", "T-4", "T-6")
async def test_time_in_which_the_host_stood_still_is_nobodys(tmp_path: Path) -> None:
    """What guests sent meanwhile lies in their sockets: whoever looks at the clock before these must not blame them."""
    clock = Stopped()
    token = os.urandom(16)
    async with served(tmp_path, PROBE, clock=clock) as host, bystander(host) as other:
        with connected(host) as away:
            await away.greet(hello(token=token))
        await until(host, lambda: host.guests.by_token[token].lane.link is None)
        async with attached(host) as guest, attached(host) as lazy:
            await fill(lazy, other)
            with connected(host) as newcomer:
                first = hello()
                newcomer.send(first[:9])
                data = guest.next_call(numbers.NOP)
                guest.send(data[:4])
                await settled(other)
                for _ in range(2):
                    clock.stand_still(60)
                    clock.turn(1)
                guest.send(data[4:])
                assert await guest.reply() == (0, None)
                assert (await newcomer.greet(first[9:]))[0] == WELCOME
                assert len(host.guests.links) == 4  # other, guest, lazy, newcomer
            with connected(host) as away:
                assert (await away.greet(hello(token=token)))[-1] is True
                clock.turn(6)
                assert len(host.guests.links) == 4
            await until(host, lambda: host.guests.by_token[token].lane.link is None)
        clock.turn(32)


@pytest.mark.spec("T-3")
async def test_the_end_of_a_guest_that_does_not_read_takes_two_seconds(host: hostd.Host, clock: ManualClock) -> None:
    token = os.urandom(16)
    async with bystander(host) as other, attached(host, token=token) as guest:
        await fill(guest, other)
        host.guests.end(host.guests.by_token[token], Status.RESET, "enough")
        await settled(other)
        assert len(host.guests.links) == 2 and not host.tree.find("/probe").opens
        clock.turn(3.1)
        await until(host, lambda: len(host.guests.links) == 1)


@pytest.mark.spec("R-5")
async def test_a_flood_of_repeats_ends_the_session(host: hostd.Host) -> None:
    token = os.urandom(16)
    async with bystander(host), attached(host, token=token) as guest:
        handle, calls = await guest.open("/probe")
        bump = guest.next_call(calls["bump"], handle)
        guest.send(bump)
        assert await guest.reply() == (0, 1)
        with connected(host) as again:
            await again.greet(hello(token=token))
            again.send(bump)
            assert await again.reply() == (0, 1)  # from the slot
            again.send(bump)
            assert (await again.ended())[0] == Status.BAD_ARGUMENT
        assert probe(host).count == 1


@pytest.mark.spec("I-3")
async def test_an_acknowledgement_of_a_handle_that_is_gone_does_no_harm(host: hostd.Host) -> None:
    async with bystander(host), attached(host) as guest:
        handle, calls = await guest.open("/probe")
        probe(host).rung()
        assert await guest.core(calls["bump"], handle) == 1
        assert guest.interrupts == [(2, handle, 0, 1)]
        await guest.core(numbers.CLOSE, handle)
        guest.send(encode((ACK, handle, 0, 1)) + encode((ACK, 0, 31, 2**64 - 1)) + encode((ACK, -(2**63), 0, 0)))
        assert await guest.core(numbers.NOP) is None
