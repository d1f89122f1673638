"""Guests that die, and guests that come back: what is freed, what is kept, and who is who."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from weakref import ref

import pytest
from probe import PROBE, probe
from raw import ADDRESS, PAGE, attached, bystander, connected, hello, lent, memfd, served, settled, until

import hostd
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import NotAllowed, Status
from hcall.messages import HELLO, Hello
from hcall.session.host import HostSession
from hostd.devices.watchdog import Watchdog
from hostd.lanes.socket.peer import Peer
from hostd.machine.file import DeviceSpec


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def host(tmp_path: Path, clock: ManualClock) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, PROBE, clock=clock) as host:
        yield host


@pytest.mark.spec("R-4")
async def test_a_call_under_way_when_the_link_breaks_is_answered_on_the_next_one(host: hostd.Host) -> None:
    token = os.urandom(16)
    async with bystander(host) as other, attached(host, token=token) as guest:
        handle, calls = await guest.open("/probe")
        late = guest.next_call(calls["late"], handle)
        guest.send(late)
        await settled(other)
        guest.close()
        await until(host, lambda: host.guests.by_token[token].lane.link is None)
        with connected(host) as again:
            assert (await again.greet(hello(token=token)))[-1] is True
            again.send(late)
            await settled(other)
            (waiting,) = probe(host).waiting  # it was not made a second time
            waiting.done(42)
            assert await again.reply() == (0, 42)


@pytest.mark.spec("D-5")
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
from hcall import numbers
with guestd.attach_blocking(sys.argv[1], name="doomed") as guest:
    node = guest.run(guest.core(0, numbers.FIND, "/probe"))
    guest.run(guest.core(node, numbers.OPEN, 0))
    print("open", flush=True)
    sys.stdin.read()
"""


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.spec("D-5")
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
async def test_the_memory_of_a_guest_that_is_gone_is_unmapped(host: hostd.Host) -> None:
    async with attached(host, regions=2) as guest:
        await guest.open("/probe")
        assert mapped() == 2
    await until(host, lambda: mapped() == 0)


@pytest.mark.usefixtures("no_collection")
async def test_the_memory_of_a_guest_that_is_refused_is_unmapped(host: hostd.Host) -> None:
    with connected(host) as guest, lent(memfd(), memfd(2 * PAGE)) as fds:
        guest.send(hello(regions=((ADDRESS, PAGE), (ADDRESS + PAGE, PAGE))), fds)
        assert (await guest.ended())[0] == Status.BAD_AREA
    await until(host, lambda: mapped() == 0)


@pytest.mark.spec("R-9", "T-6")
async def test_a_guest_without_an_fd_lane_is_kept_for_thirty_seconds(host: hostd.Host, clock: ManualClock) -> None:
    token = os.urandom(16)
    async with bystander(host):
        with connected(host) as guest:
            await guest.greet(hello(token=token))
            await guest.open("/probe")
        await until(host, lambda: host.guests.by_token[token].lane.link is None)
        clock.turn(30)
        assert host.tree.find("/probe").opens
        clock.turn(1.1)
        assert not host.tree.find("/probe").opens and token not in host.guests.by_token
        with connected(host) as stranger:
            assert (await stranger.greet(hello(token=token)))[-1] is False
            await stranger.core(numbers.DETACH)
        await until(host, lambda: token not in host.guests.by_token)


@pytest.mark.spec("C-17", "X-7")
async def test_after_detach_the_loss_of_the_link_is_the_end(host: hostd.Host) -> None:
    async with bystander(host):
        with connected(host) as guest:
            await guest.greet(hello())
            handle, calls = await guest.open("/probe")
            detach = guest.next_call(calls["late"], handle) + guest.next_call(numbers.DETACH, slot=1)
            guest.send(detach)
            assert [await guest.reply(), await guest.reply()] == [(Status.RESET, "the device was reset"), (0, None)]
            assert (await guest.call(calls["bump"], handle))[0] == Status.STALE_HANDLE
        await until(host, lambda: len(host.guests.by_token) == 1)


@pytest.mark.spec("X-1")
async def test_a_watchdog_that_a_guest_left_does_not_bite_who_has_its_token_now(
    tmp_path: Path, clock: ManualClock
) -> None:
    token = os.urandom(16)
    async with served(tmp_path, DeviceSpec("watchdog", "watchdog", Watchdog, {}), clock=clock) as host:
        async with attached(host, token=token) as guest:
            await guest.open("/watchdog")
            gone = ref(host.guests.by_token[token])

        def is_gone() -> bool:
            gc.collect()
            return gone() is None  # the countdown goes on, and keeps nothing of the guest

        await until(host, is_gone)
        async with attached(host, token=token) as guest:
            await guest.open("/rng")
            clock.turn(61)
            await settled(guest)
            assert token in host.guests.by_token
        assert not host.tree.find("/rng").opens


@pytest.mark.spec("R-8")
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
@pytest.mark.spec("R-1")
async def test_a_token_with_anything_else_is_refused(host: hostd.Host, address: int | None, own: bool) -> None:
    token = os.urandom(16)
    async with bystander(host), attached(host, regions=1, token=token) as guest:
        with connected(host) as thief, lent(memfd()) as others:
            if address is None:
                thief.send(hello(token=token))
            else:
                thief.send(hello(token=token, regions=((address, PAGE),)), guest.fds if own else others)
            assert (await thief.ended())[0] == Status.NOT_ALLOWED
        assert await guest.core(numbers.NOP) is None


@pytest.mark.spec("R-1")
async def test_a_token_of_another_user_is_refused(host: hostd.Host) -> None:
    token = os.urandom(16)
    async with attached(host, token=token) as guest:
        with pytest.raises(NotAllowed):
            host.guests.admit(
                Hello.check((HELLO, "hcall", 1, 1, 0, "x", token, ())), HostSession(), Peer(os.getuid() + 1, ()), []
            )
        assert await guest.core(numbers.NOP) is None


@pytest.mark.spec("D-2")
async def test_an_empty_datagram_on_the_fd_lane_keeps_no_descriptor(host: hostd.Host) -> None:
    async with bystander(host), attached(host) as guest:
        with lent(memfd(), memfd()) as fds:
            socket.send_fds(guest.lane, [b""], fds[:1])
            socket.send_fds(guest.lane, [b"\x01"], fds[:1])  # half an id
            socket.send_fds(guest.lane, [bytes(4)], fds)  # two at once
        for fd_id in (1, 0):
            assert (await guest.call(numbers.ADD_MEMORY, 0, ADDRESS, PAGE, fd_id))[0] == Status.BAD_ARGUMENT
