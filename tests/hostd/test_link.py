"""A link: broken rules, silence, floods and deaths cost one guest its session, and nobody else anything."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from raw import ADDRESS, PAGE, RawGuest, attached, bystander, connected, hello, lent, memfd, served, settled, until

import hostd
from hostd.device import Device, Irq, Later, Room, call
from hostd.machine import DeviceSpec
from protocol import hcall
from protocol.clock import ManualClock
from protocol.errors import NotAllowed, Status
from protocol.messages import ACK, CALL, END, HELLO, REPLY, Hello
from protocol.session import HostSession
from protocol.wire import encode


class Probe(Device):
    """Counts what reaches it, and answers late."""

    compatible = "test,probe"
    rung = Irq()

    def start(self) -> None:
        self.count = self.resets = 0
        self.waiting: list[Later[int]] = []

    def reset(self) -> None:
        self.resets += 1

    def read(self, into: Room, at: int) -> int:
        return into.nbytes

    @call
    def bump(self) -> int:
        self.count += 1
        return self.count

    @call
    def late(self) -> Later[int]:
        self.waiting.append(Later())
        return self.waiting[-1]


SPEC = DeviceSpec("probe", "probe", Probe, {})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def host(tmp_path: Path, clock: ManualClock) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, SPEC, clock=clock) as host:
        yield host


def probe(host: hostd.Host) -> Probe:
    device = host.tree.find("/probe").device
    assert isinstance(device, Probe)
    return device


SLOT, SEQ = 0, 10  # of the next call, after those that opened the device and two more


def call_with(slot: object = SLOT, seq: object = SEQ, number: object = hcall.NOP, args: object = ()) -> bytes:
    return encode((CALL, slot, seq, number, 0, args, ()))


@pytest.mark.parametrize(
    "rubbish",
    [
        pytest.param(b"\xc1", id="no msgpack"),
        pytest.param(b"\x00", id="no array"),
        pytest.param(encode({0: 1}), id="a map"),
        pytest.param(encode(()), id="an empty array"),
        pytest.param(encode((CALL, 0, SEQ)), id="half a call"),
        pytest.param(encode((99, 0, SEQ, hcall.NOP, 0, (), ())), id="no known kind"),
        pytest.param(encode((False, 0, SEQ, hcall.NOP, 0, (), ())), id="a bool for a kind"),
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
async def test_a_broken_rule_ends_the_session_after_the_good_calls_before_it(host: hostd.Host, rubbish: bytes) -> None:
    async with bystander(host), attached(host) as guest:
        handle, calls = await guest.open("/probe")
        guest.send(b"".join(guest.next_call(calls["bump"], handle, slot=slot) for slot in range(2)) + rubbish)
        assert guest.seq == SEQ - 1
        *answers, last = await guest.rest()
        assert [answer[3:] for answer in answers] == [(0, 1), (0, 2)]
        assert last[0] == END and last[1] == Status.BAD_ARGUMENT and last[2]
        assert probe(host).count == 2 and not host.tree.find("/probe").opens


async def test_a_slot_whose_call_is_not_answered_takes_no_other(host: hostd.Host) -> None:
    async with bystander(host), attached(host) as guest:
        handle, calls = await guest.open("/probe")
        guest.send(guest.next_call(calls["late"], handle) + guest.next_call(calls["bump"], handle))
        waiting, last = await guest.rest()
        assert waiting[3] == Status.RESET and last[:2] == (END, Status.BAD_ARGUMENT)
        assert probe(host).count == 0
        probe(host).waiting[0].done(1)  # too late, and no harm


async def test_half_a_call_has_no_effect(host: hostd.Host) -> None:
    async with bystander(host):
        async with attached(host) as guest:
            handle, calls = await guest.open("/probe")
            guest.send(guest.next_call(calls["bump"], handle)[:-1])
        assert probe(host).count == 0 and not host.tree.find("/probe").opens


async def test_a_message_has_five_seconds(host: hostd.Host, clock: ManualClock) -> None:
    async with bystander(host) as other, attached(host) as guest:
        data = guest.next_call(hcall.NOP)
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


async def test_messages_that_overlap_have_five_seconds_each(host: hostd.Host, clock: ManualClock) -> None:
    """A guest whose every write ends in the middle of a message keeps the rule as long as each message does."""
    async with bystander(host) as other, attached(host) as guest:
        calls = [guest.next_call(hcall.NOP) for _ in range(10)]
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


async def test_a_guest_that_does_not_read_is_cut_off_after_ten_seconds(host: hostd.Host, clock: ManualClock) -> None:
    token = os.urandom(16)
    async with bystander(host) as other, attached(host, token=token) as guest:
        await fill(guest, other)
        link = host.guests.by_token[token].link
        clock.turn(10)
        await settled(other)
        assert host.guests.by_token[token].link is link
        clock.turn(1.1)
        answers = await guest.rest()
        assert 16 < len(answers) < guest.seq and all(answer[0] == REPLY for answer in answers)
        with connected(host) as again:  # the link was cut, not the session
            assert (await again.greet(hello(token=token)))[-1] is True


async def test_the_end_of_a_guest_that_does_not_read_takes_two_seconds(host: hostd.Host, clock: ManualClock) -> None:
    token = os.urandom(16)
    async with bystander(host) as other, attached(host, token=token) as guest:
        await fill(guest, other)
        host.guests.end(host.guests.by_token[token], Status.RESET, "enough")
        await settled(other)
        assert len(host.guests.links) == 2 and not host.tree.find("/probe").opens
        clock.turn(3.1)
        await until(host, lambda: len(host.guests.links) == 1)


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


async def test_an_acknowledgement_of_a_handle_that_is_gone_does_no_harm(host: hostd.Host) -> None:
    async with bystander(host), attached(host) as guest:
        handle, calls = await guest.open("/probe")
        probe(host).rung()
        assert await guest.core(calls["bump"], handle) == 1
        assert guest.interrupts == [(2, handle, 0, 1)]
        await guest.core(hcall.CLOSE, handle)
        guest.send(encode((ACK, handle, 0, 1)) + encode((ACK, 0, 31, 2**64 - 1)) + encode((ACK, -(2**63), 0, 0)))
        assert await guest.core(hcall.NOP) is None


# Deaths and returns.


async def test_a_call_under_way_when_the_link_breaks_is_answered_on_the_next_one(host: hostd.Host) -> None:
    token = os.urandom(16)
    async with bystander(host) as other, attached(host, token=token) as guest:
        handle, calls = await guest.open("/probe")
        late = guest.next_call(calls["late"], handle)
        guest.send(late)
        await settled(other)
        guest.close()
        await until(host, lambda: host.guests.by_token[token].link is None)
        with connected(host) as again:
            assert (await again.greet(hello(token=token)))[-1] is True
            again.send(late)
            await settled(other)
            (waiting,) = probe(host).waiting  # it was not made a second time
            waiting.done(42)
            assert await again.reply() == (0, 42)


async def test_the_death_of_a_guest_frees_its_devices_at_once_and_answers_nobody(host: hostd.Host) -> None:
    async with bystander(host) as other:
        async with attached(host) as guest:
            handle, calls = await guest.open("/probe")
            guest.send(guest.next_call(calls["late"], handle))
            await settled(other)
        assert probe(host).resets == 1
        probe(host).waiting[0].done(1)
        async with attached(host) as heir:
            handle, calls = await heir.open("/probe")
            assert await heir.core(calls["bump"], handle) == 1


_KILLED = """
import sys, guestd
from protocol import hcall
with guestd.attach_blocking(sys.argv[1], name="doomed") as guest:
    node = guest.run(guest.core(0, hcall.FIND, "/probe"))
    guest.run(guest.core(node, hcall.OPEN, 0))
    print("open", flush=True)
    sys.stdin.read()
"""


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


async def test_a_guest_that_is_killed_gives_its_devices_back_at_once(host: hostd.Host) -> None:
    async with bystander(host):
        command = [sys.executable, "-c", _KILLED, str(host.socket)]
        with await asyncio.to_thread(start, command) as doomed:
            assert doomed.stdout is not None
            assert await asyncio.to_thread(doomed.stdout.readline) == b"open\n"
            assert host.tree.find("/probe").opens
            doomed.kill()
            await until(host, lambda: len(host.guests.by_token) == 1)  # nobody has turned the clock
        async with attached(host) as heir:
            await heir.open("/probe")


def mapped() -> int:
    """How many pieces of guest memory the host has mapped."""
    return Path("/proc/self/maps").read_text().count("/memfd:raw")


@pytest.fixture
def no_collection() -> Iterator[None]:
    """A daemon at rest may not collect garbage for hours."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
async def test_the_memory_of_a_guest_that_is_gone_is_unmapped_at_once(host: hostd.Host) -> None:
    async with attached(host, regions=2) as guest:
        await guest.open("/probe")
        assert mapped() == 2
    assert mapped() == 0


@pytest.mark.usefixtures("no_collection")
async def test_the_memory_of_a_guest_that_is_refused_is_unmapped_at_once(host: hostd.Host) -> None:
    with connected(host) as guest, lent(memfd(), memfd(2 * PAGE)) as fds:
        guest.send(hello(regions=((ADDRESS, PAGE), (ADDRESS + PAGE, PAGE))), fds)
        assert (await guest.ended())[0] == Status.BAD_AREA
    assert mapped() == 0


async def test_a_guest_without_an_fd_lane_is_kept_for_thirty_seconds(host: hostd.Host, clock: ManualClock) -> None:
    token = os.urandom(16)
    async with bystander(host):
        with connected(host) as guest:
            await guest.greet(hello(token=token))
            await guest.open("/probe")
        await until(host, lambda: host.guests.by_token[token].link is None)
        clock.turn(30)
        assert host.tree.find("/probe").opens
        clock.turn(1.1)
        assert not host.tree.find("/probe").opens and token not in host.guests.by_token
        with connected(host) as stranger:
            assert (await stranger.greet(hello(token=token)))[-1] is False
            await stranger.core(hcall.DETACH)
        await until(host, lambda: token not in host.guests.by_token)


async def test_after_detach_the_loss_of_the_link_is_the_end(host: hostd.Host) -> None:
    async with bystander(host):
        with connected(host) as guest:
            await guest.greet(hello())
            handle, calls = await guest.open("/probe")
            detach = guest.next_call(calls["late"], handle) + guest.next_call(hcall.DETACH, slot=1)
            guest.send(detach)
            assert [await guest.reply(), await guest.reply()] == [(Status.RESET, "the device was reset"), (0, None)]
            assert (await guest.call(calls["bump"], handle))[0] == Status.STALE_HANDLE
        await until(host, lambda: len(host.guests.by_token) == 1)


async def test_the_token_takes_over_from_a_link_that_looks_alive(host: hostd.Host) -> None:
    token = os.urandom(16)
    async with bystander(host), attached(host, regions=1, token=token) as old:
        handle, calls = await old.open("/probe")
        with connected(host) as new:
            data = hello(token=token, regions=((ADDRESS, PAGE),))
            assert (await new.greet(data, old.fds))[-1] is True
            assert await old.rest() == []
            new.seq = old.seq
            assert await new.core(calls["bump"], handle) == 1
            assert await new.call(calls["read"], handle, 0, areas=((ADDRESS, PAGE, 1),)) == (0, PAGE)


@pytest.mark.parametrize(
    ("address", "own"), [(ADDRESS, False), (ADDRESS + PAGE, True), (None, True)], ids=["memory", "address", "nothing"]
)
async def test_a_token_with_anything_else_is_refused(host: hostd.Host, address: int | None, own: bool) -> None:
    token = os.urandom(16)
    async with bystander(host), attached(host, regions=1, token=token) as guest:
        with connected(host) as thief, lent(memfd()) as others:
            if address is None:
                thief.send(hello(token=token))
            else:
                thief.send(hello(token=token, regions=((address, PAGE),)), guest.fds if own else others)
            assert (await thief.ended())[0] == Status.NOT_ALLOWED
        assert await guest.core(hcall.NOP) is None


async def test_a_token_of_another_user_is_refused(host: hostd.Host) -> None:
    token = os.urandom(16)
    async with attached(host, token=token) as guest:
        with pytest.raises(NotAllowed):
            host.guests.admit(
                Hello.check((HELLO, "hcall", 1, 1, 0, "x", token, ())), HostSession(), os.getuid() + 1, []
            )
        assert await guest.core(hcall.NOP) is None


async def test_an_empty_datagram_on_the_fd_lane_keeps_no_descriptor(host: hostd.Host) -> None:
    async with bystander(host), attached(host) as guest:
        with lent(memfd(), memfd()) as fds:
            socket.send_fds(guest.lane, [b""], fds[:1])
            socket.send_fds(guest.lane, [b"\x01"], fds[:1])  # half an id
            socket.send_fds(guest.lane, [bytes(4)], fds)  # two at once
        for fd_id in (1, 0):
            assert (await guest.call(hcall.ADD_MEMORY, 0, ADDRESS, PAGE, fd_id))[0] == Status.BAD_ARGUMENT
