"""Two real users: what one takes, up to all that it may have, the other and the known guests do not miss."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from raw import attached, connected, hello, lent, memfd, until
from users import ALICE, BOB, connect, needs_root

import hostd
from hcall import numbers
from hcall.errors import Status
from hcall.messages import FD_LANE
from hostd.calls.shares import ARRIVING, DESCRIPTORS, GREETINGS, GUESTS, OPENS, Shares

pytestmark = needs_root
MACHINE = f"""
[devices.rng]
model = "rng"
[policy.all]
users = [{ALICE}, {BOB}]
open = ["*"]
[limits]
guests = 6
greetings = 6
handles = 3
opens = 6
"""


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    (tmp_path / "m.toml").write_text(MACHINE)
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o711)
    async with hostd.serve(tmp_path / "m.toml", tmp_path / "run") as host:
        yield host
        assert not host.guests.by_token, "a test left a guest behind"
        await until(host, lambda: not +host.guests.shares.used)  # somebody is gone: all that it had is given back


async def refusal(host: hostd.Host, uid: int, data: bytes = b"") -> tuple[int, str]:
    """How a connection of *uid* that says *data* is refused."""
    with connected(host, connect(host.socket, uid)) as late:
        if data:
            late.send(data)
        return await late.ended()


async def test_guests_are_a_share(host: hostd.Host) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(attached(host, sock=connect(host.socket, ALICE)))
        status, text = await refusal(host, ALICE, hello())
        assert status == Status.BUSY
        assert f"user {ALICE} has 3 guests, and may have 3 of 6: [limits] guests" in text
        async with attached(host, sock=connect(host.socket, BOB)) as guest:
            await guest.core(numbers.NOP)
        assert host.guests.shares.of(ALICE).used[GUESTS] == 3


async def test_connections_that_say_nothing_are_a_share(host: hostd.Host) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connected(host, connect(host.socket, ALICE)))
        status, text = await refusal(host, ALICE)
        assert status == Status.BUSY and f"user {ALICE} has 3 greetings, and may have 3 of 6" in text
        assert host.guests.shares.of(ALICE).used[GREETINGS] == 3
        async with attached(host, sock=connect(host.socket, BOB)) as guest:
            await guest.core(numbers.NOP)
    await until(host, lambda: not host.guests.greetings)


async def test_open_devices_are_a_share_and_a_guest_too_many_is_told(host: hostd.Host) -> None:
    async with AsyncExitStack() as stack:
        one, more = [await stack.enter_async_context(attached(host, sock=connect(host.socket, ALICE))) for _ in "12"]
        for _ in range(3):
            await one.open("/rng")
        status, text = await more.call(numbers.OPEN, await more.core(numbers.FIND, 0, "/rng"), 0)
        assert status == Status.BUSY and f"user {ALICE} has 3 open devices, and may have 3 of 6: [limits] opens" in text
        handle, _ = await (await stack.enter_async_context(attached(host, sock=connect(host.socket, BOB)))).open("/rng")
        assert handle and host.guests.shares.used[OPENS] == 4
        await one.core(numbers.CLOSE, next(iter(host.guests.by_token.values())).account.holds.copy().popitem()[0])
        await more.open("/rng")


async def test_half_a_hello_keeps_no_more_descriptors_than_a_share(host: hostd.Host) -> None:
    host.guests.shares = Shares(host.guests.limits, 128 + 4 * 40)  # 40 for those who come: 20 of a user
    data = hello(features=FD_LANE, regions=tuple((n << 12, 4096) for n in range(16)))
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            half = stack.enter_context(connected(host, connect(host.socket, ALICE)))
            with lent(memfd()) as (fd,):
                half.send(data[:10], [fd] * 16)
            await until(host, lambda: host.guests.shares.of(ALICE).used[ARRIVING] >= 17)  # or the last comes first
        status, text = await half.ended()
        assert status == Status.BUSY and "arriving descriptors, and may have 20 of 40: [limits] share" in text
        assert host.guests.shares.of(ALICE).used[ARRIVING] == 17
        async with attached(host, regions=1, sock=connect(host.socket, BOB)) as guest:
            await guest.core(numbers.NOP)
    await until(host, lambda: not host.guests.greetings)


async def test_a_known_guest_comes_back_though_its_user_may_have_no_more(host: hostd.Host) -> None:
    host.guests.shares = Shares(host.guests.limits, 128 + 4 * 40)  # 120 of guests: 60 of a user
    token = os.urandom(16)
    async with AsyncExitStack() as stack:
        guest = await stack.enter_async_context(attached(host, token=token, sock=connect(host.socket, ALICE)))
        for _ in range(2):
            many = attached(host, regions=16, sock=connect(host.socket, ALICE))
            await stack.enter_async_context(many)
        assert host.guests.shares.of(ALICE).used[DESCRIPTORS] == 38
        assert (await refusal(host, ALICE, hello()))[0] == Status.BUSY
        guest.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with connected(host, connect(host.socket, ALICE)) as again, ours:
            with theirs:
                welcome = await again.greet(hello(token=token, features=FD_LANE), [theirs.fileno()])
            assert welcome[-1] is True
