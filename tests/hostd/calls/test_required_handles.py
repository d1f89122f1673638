"""What docs/protocol.md requires of a host's open handles, memory and fd lane."""

from __future__ import annotations

import mmap
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from clumsy import device, negotiate
from raw import (
    ADDRESS,
    LIVE,
    PAGE,
    RawGuest,
    attached,
    bystander,
    connected,
    hello,
    lent,
    memfd,
    served,
    settled,
    until,
)
from slow import SPECS, opened

import hostd
from hcall import numbers
from hcall.errors import Status
from hcall.features import DeviceStatus
from hcall.messages import ACK, FD_LANE
from hcall.wire import encode


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, *SPECS, handles=4, memory=4 * PAGE) as host:
        yield host


# Open handles.


@pytest.mark.spec("C-9", "I-1", "C-12")
async def test_two_handles_may_have_one_cookie_and_each_its_own_status(host: hostd.Host) -> None:
    async with attached(host) as guest:
        handles = [(await guest.open("/shared", cookie=5))[0], (await opened(guest, "/shared", cookie=5))[0]]
        assert [await guest.core(numbers.GET_STATUS, handle) for handle in handles] == [15, 0]
        await guest.core(numbers.SET_STATUS, handles[1], 15)
        device(host, "/shared").rung()
        await settled(guest)
        assert guest.interrupts == [(2, 5, 0, 1)] * 2
        assert device(host, "/shared").did.count("reset") == 0
        await guest.core(numbers.CLOSE, handles[0])
        assert device(host, "/shared").did.count("reset") == 0
        await guest.core(numbers.CLOSE, handles[1])
        assert device(host, "/shared").did.count("reset") == 1


@pytest.mark.spec("C-14", "I-6")
async def test_poll_gives_the_counts_of_32_handles_and_goes_on_behind_the_last(tmp_path: Path) -> None:
    async with served(tmp_path, *SPECS) as host, attached(host) as guest:
        handles = [(await opened(guest, "/rng"))[0] for _ in range(40)]
        mine, _ = await guest.open("/shared")
        device(host, "/shared").rung()
        first = await guest.core(numbers.POLL, 0, 0)
        assert first == tuple((handle, ()) for handle in handles[:32])
        rest = await guest.core(numbers.POLL, 0, handles[31])
        assert rest == (*((handle, ()) for handle in handles[32:]), (mine, (1,)))
        assert await guest.core(numbers.POLL, 0, mine) == ()


@pytest.mark.spec("N-8", "N-2")
async def test_failed_is_as_before_driver_ok_until_a_reset(host: hostd.Host) -> None:
    async with attached(host) as guest:
        handle, calls = await guest.open("/slow")
        assert await guest.core(numbers.SET_STATUS, handle, 15 | 128) == 15 | 128
        assert (await guest.call(calls["now"], handle, 1))[0] == Status.NOT_ALLOWED
        assert await guest.call(calls["early"], handle, 1) == (0, 1)
        assert (await guest.call(numbers.SET_STATUS, handle, 15))[0] == Status.BAD_ARGUMENT
        assert await negotiate(guest, handle) == 15 and await guest.call(calls["now"], handle, 1) == (0, 1)


@pytest.mark.spec("N-2", "N-4", "N-11")
async def test_bits_that_a_guest_cannot_set_are_bad_arguments(host: hostd.Host) -> None:
    async with attached(host) as guest:
        handle, _ = await opened(guest, "/slow")
        for status in (16, 32, DeviceStatus.NEEDS_RESET.value, 256, 1 << 63, -1):
            assert (await guest.call(numbers.SET_STATUS, handle, status))[0] == Status.BAD_ARGUMENT
        await guest.core(numbers.SET_STATUS, handle, 3)
        for bits in (-1, -(1 << 63)):
            assert (await guest.call(numbers.SET_FEATURES, handle, bits))[0] == Status.BAD_ARGUMENT
        await guest.core(numbers.SET_FEATURES, handle, (1 << 64) - 1)
        assert await guest.core(numbers.SET_STATUS, handle, 11) == 3


@pytest.mark.spec("N-6", "I-7")
async def test_a_reset_keeps_counters_mask_and_cookie_and_nothing_else(host: hostd.Host) -> None:
    async with attached(host) as guest:
        handle, _ = await guest.open("/clumsy", cookie=8)
        device(host).rung()
        await settled(guest)
        guest.send(encode((ACK, handle, 0, 1)))
        assert await guest.core(numbers.SET_MASK, handle, 1) == 0
        assert await guest.core(numbers.SET_STATUS, handle, 0) == 0
        assert await guest.core(numbers.GET_STATUS, handle) == 0
        for status in LIVE:
            await guest.core(numbers.SET_STATUS, handle, status)
        device(host).rung()
        assert await guest.core(numbers.POLL, 0, 0) == ((handle, (2,)),)
        guest.interrupts.clear()
        assert await guest.core(numbers.SET_MASK, handle, 0) == 1
        await settled(guest)
        assert guest.interrupts == [(2, 8, 0, 2)]


# Memory and the fd lane.


@pytest.mark.spec("M-6")
async def test_the_descriptor_of_a_region_may_be_closed_after_welcome(host: hostd.Host) -> None:
    with connected(host) as guest:
        with lent(memfd()) as fds:
            await guest.greet(hello(regions=((ADDRESS, PAGE),)), fds)
        handle, calls = await guest.open("/slow")
        assert await guest.call(calls["read"], handle, 0, areas=((ADDRESS, PAGE, 1),)) == (0, PAGE)
        await guest.core(numbers.DETACH)
    await until(host, lambda: not host.guests.by_token)


def post(guest: RawGuest, *ids: int) -> None:
    """A page of memory for each id, over the fd lane."""
    for fd_id in ids:
        with lent(memfd()) as fds:
            socket.send_fds(guest.lane, [fd_id.to_bytes(4, "little")], fds)


@pytest.mark.spec("D-2", "D-3")
async def test_a_call_takes_the_first_datagram_of_its_id_and_drops_those_before(host: hostd.Host) -> None:
    async with attached(host) as guest:
        guest.lane.send(b"\1\0\0\0")  # without a descriptor
        with lent(memfd(), memfd()) as fds:
            socket.send_fds(guest.lane, [b"\1\0\0\0"], fds)  # with two
            socket.send_fds(guest.lane, [b"\1\0\0"], fds[:1])
        post(guest, 7, 8, 8)
        assert await guest.call(numbers.ADD_MEMORY, 0, ADDRESS, PAGE, 8) == (0, None)
        assert (await guest.call(numbers.ADD_MEMORY, 0, ADDRESS + PAGE, PAGE, 7))[0] == Status.BAD_ARGUMENT  # dropped
        assert (await guest.call(numbers.ADD_MEMORY, 0, ADDRESS + PAGE, PAGE, 8))[0] == Status.BAD_ARGUMENT  # so is it
        post(guest, 8, 1)
        assert await guest.call(numbers.ADD_MEMORY, 0, ADDRESS + PAGE, PAGE, 8) == (0, None)  # an id of before
        assert await guest.call(numbers.ADD_MEMORY, 0, ADDRESS + 2 * PAGE, PAGE, 1) == (0, None)


@pytest.mark.spec("C-15", "M-2", "M-3", "M-5")
async def test_memory_that_is_refused_costs_its_descriptor_and_nothing_else(host: hostd.Host) -> None:
    async with attached(host, regions=1) as guest:
        for start, size, status in [
            (ADDRESS, PAGE, Status.BAD_AREA), (ADDRESS + 1, PAGE, Status.BAD_AREA),
            (ADDRESS + PAGE, 0, Status.BAD_AREA),
            (ADDRESS + PAGE, 2 * PAGE, Status.BAD_AREA), (ADDRESS + PAGE, 4 * PAGE, Status.BUSY),
        ]:  # fmt: skip
            post(guest, 1)
            assert (await guest.call(numbers.ADD_MEMORY, 0, start, size, 1))[0] == status
            assert (await guest.call(numbers.ADD_MEMORY, 0, ADDRESS + PAGE, PAGE, 1))[0] == Status.BAD_ARGUMENT
        post(guest, 1)
        assert await guest.call(numbers.ADD_MEMORY, 0, ADDRESS + PAGE, PAGE, 1) == (0, None)


@pytest.mark.spec("H-7")
async def test_two_guests_may_have_one_name_and_any_text_is_one(host: hostd.Host) -> None:
    with connected(host) as one, connected(host) as other:
        for guest, name in ((one, "é" * 128), (other, "é" * 128)):
            await guest.greet(hello(name=name))
            await guest.core(numbers.DETACH)
    await until(host, lambda: not host.guests.by_token)


@pytest.mark.spec("D-5", "R-11")
@pytest.mark.parametrize("again", [True, False], ids=["the same end", "a new pair"])
async def test_what_waits_in_the_lane_is_there_after_a_resume_with_the_same_end(host: hostd.Host, again: bool) -> None:
    token = bytes(range(16))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    new_ours, new_theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, new_ours, new_theirs:
        with connected(host) as guest:
            await guest.greet(hello(features=FD_LANE, token=token), [theirs.fileno()])
            guest.lane = ours
            post(guest, 1)
        await until(host, lambda: host.guests.by_token[token].lane.link is None)
        with connected(host) as guest:
            lane = theirs if again else new_theirs
            assert (await guest.greet(hello(features=FD_LANE, token=token), [lane.fileno()]))[-1] is True
            status, _ = await guest.call(numbers.ADD_MEMORY, 0, ADDRESS, PAGE, 1)
            assert status == (Status.OK if again else Status.BAD_ARGUMENT)
            guest.lane = ours if again else new_ours
            post(guest, 1)
            assert await guest.call(numbers.ADD_MEMORY, 0, ADDRESS + PAGE, PAGE, 1) == (0, None)
            await guest.core(numbers.DETACH)
    await until(host, lambda: not host.guests.by_token)


@pytest.mark.spec("R-1", "R-2")
async def test_who_comes_back_brings_the_memory_of_the_first_hello_and_finds_all_that_it_has(host: hostd.Host) -> None:
    token = bytes(range(16))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, lent(memfd(), memfd()) as fds:
        data = hello(features=FD_LANE, token=token, regions=((ADDRESS, PAGE), (ADDRESS + PAGE, PAGE)))
        with connected(host) as guest:
            await guest.greet(data, [*fds, theirs.fileno()])
            handle, calls = await guest.open("/slow")
            guest.lane = ours
            post(guest, 1)
            await guest.core(numbers.ADD_MEMORY, 0, ADDRESS + 2 * PAGE, PAGE, 1)
            await guest.core(numbers.REMOVE_MEMORY, 0, ADDRESS)
        seq = guest.seq
        await until(host, lambda: host.guests.by_token[token].lane.link is None)
        with connected(host) as guest:  # without what was removed: it is somebody else, and the session waits on
            one = hello(features=FD_LANE, token=token, regions=((ADDRESS + PAGE, PAGE),))
            guest.send(one, [fds[1], theirs.fileno()])
            assert (await guest.ended())[0] == Status.NOT_ALLOWED
        with connected(host) as guest:
            guest.seq = seq
            welcome = await guest.greet(data, [*fds, theirs.fileno()])
            assert welcome[3:] == (host.epoch, 64, True)
            for page, status in ((0, Status.BAD_AREA), (1, Status.OK), (2, Status.OK)):
                areas = ((ADDRESS + page * PAGE, PAGE, 1),)
                assert (await guest.call(calls["read"], handle, 0, areas=areas))[0] == status
            await guest.core(numbers.DETACH)
    await until(host, lambda: not host.guests.by_token)


@pytest.mark.spec("A-8")
async def test_what_a_guest_changes_while_it_is_used_harms_nobody(tmp_path: Path) -> None:
    """A worker writes it to a disk meanwhile."""
    size = 1 << 20
    machine = hostd.Machine.from_tables(
        {"devices": {"disk": {"model": "block", "path": "disk.img", "create": "1M"}, "rng": {"model": "rng"}}}, tmp_path
    )
    async with hostd.serve(machine, tmp_path / "run") as host:
        with connected(host) as guest, lent(memfd(size)) as fds, mmap.mmap(fds[0], size) as mine:
            await guest.greet(hello(regions=((ADDRESS, size),)), fds)
            handle, calls = await guest.open("/disk")
            async with bystander(host):
                for letter in b"abcd":
                    guest.send(guest.next_call(calls["write"], handle, (0,), ((ADDRESS, size, 0),)))
                    mine[:] = bytes([letter]) * size
                    assert await guest.reply() == (0, size)
            assert set((tmp_path / "disk.img").read_bytes()) <= set(b"\0abcd")
            await guest.core(numbers.DETACH)
        await until(host, lambda: not host.guests.by_token)


@pytest.mark.spec("N-10", "N-9", "C-8")
async def test_a_reset_that_fails_is_told_as_failed_and_may_be_tried_again(host: hostd.Host) -> None:
    async with attached(host) as guest:
        handle, calls = await guest.open("/clumsy")
        device(host).wrong["reset"] = ZeroDivisionError()
        for _ in range(2):
            assert (await guest.call(numbers.SET_STATUS, handle, 0))[0] == Status.IO_ERROR
            assert await guest.core(numbers.GET_STATUS, handle) == DeviceStatus.NEEDS_RESET
        assert (await guest.call(calls["early"], handle))[0] == Status.IO_ERROR
        assert await guest.core(numbers.SET_STATUS, handle, 15) == 15 | DeviceStatus.NEEDS_RESET  # steps help nothing
        assert (await guest.call(calls["go"], handle))[0] == Status.IO_ERROR
        assert await guest.call(numbers.CLOSE, handle) == (0, 0)
        clumsy = await guest.core(numbers.FIND, 0, "/clumsy")
        assert (await guest.call(numbers.OPEN, clumsy, 0))[0] == Status.IO_ERROR
        device(host).wrong.clear()
        handle, calls = await guest.open("/clumsy")
        assert await guest.call(calls["go"], handle) == (0, 1)
