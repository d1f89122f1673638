"""The carrier of rings: the same drivers, with either client, and no call of the device's on the socket."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from raw import run_on

import hostd
from guestd.clients.guest import Guest
from hcall.errors import BadArgument, Reset, StaleHandle, WouldBlock
from hcall.numbers import NOP

CLIENTS = ("asyncio", "blocking")


def test_a_guest_is_told_who_names_another_carrier() -> None:
    from guestd.carriers import named
    from hcall.programs.mistakes import BadRequest

    with pytest.raises(BadRequest, match=r"no carrier 'rings' \(did you mean 'ring'\?\)"):
        named("rings")


@pytest.mark.parametrize("spin", [False, True])
@pytest.mark.parametrize("client", CLIENTS)
async def test_random_bytes_and_a_disk_by_rings(host: hostd.Host, client: str, spin: bool) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        rng = await guest.bind_path("rng")
        assert len(await rng.getrandom(16)) == 16  # type: ignore[attr-defined]
        assert len(await rng.getrandom(5000)) == 5000  # type: ignore[attr-defined]
        disk = await guest.bind_path("disk")
        data = os.urandom(8192)
        with guest.ram.alloc(8192) as buffer:
            buffer.view[:] = data
            assert await disk.write_from(buffer, 4096) == 8192  # type: ignore[attr-defined]
            buffer.view[:] = bytes(8192)
            assert await disk.read_into(buffer, 4096) == 8192  # type: ignore[attr-defined]
            assert buffer.view == data
        await disk.write(data[:512], 0)  # type: ignore[attr-defined]
        assert await disk.read(512, 0) == data[:512]  # type: ignore[attr-defined]
        with pytest.raises(BadArgument):
            await disk.read(512, 1 << 40)  # type: ignore[attr-defined]
        await guest.unbind("disk")
        assert not [each for each in guest.rings.all if each.device == disk.dev.handle]  # type: ignore[attr-defined]
        disk = await guest.bind_path("disk")
        for _ in range(3):  # more than there are slots
            reads = [disk.dev.call(disk.dev.calls["read"], (512 * (n % 8),), (512,)) for n in range(200)]
            found = [await read for read in reads]
            assert found[0] == data[:512] and len(found) == 200

    await run_on(client, host, scenario, carrier="ring", memory=64 << 20, spin=spin)


@pytest.mark.parametrize("client", CLIENTS)
async def test_with_eventfds_no_message_goes_by_the_socket(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        rng = await guest.bind_path("rng")
        assert [each.tell >= 0 for each in guest.rings.all] == [True]
        await rng.getrandom(16)  # type: ignore[attr-defined]
        (inside,) = host.guests.by_token.values()
        before = inside.lane.bytes
        for _ in range(20):
            assert len(await rng.getrandom(16)) == 16  # type: ignore[attr-defined]
        assert inside.lane.bytes == before and not inside.lane.session.out

    await run_on(client, host, scenario, carrier="ring", memory=64 << 20)


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_device_that_is_unplugged_while_a_ring_carries_a_call_is_stale(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        console = await guest.bind_path("console")
        waiting = console.dev.linger(console.dev.calls["wait_read"], (), (10,))
        assert waiting is not None
        console.dev.push()
        with pytest.raises(WouldBlock):  # which is answered when the other was taken
            await console.dev.call(console.dev.calls["read"], (0,), (10,))
        host.guests.loop.call_soon_threadsafe(lambda: unplugging.append(host.guests.loop.create_task(unplug())))
        with pytest.raises(Reset):
            await waiting
        with pytest.raises(StaleHandle):
            await console.dev.call(console.dev.calls["read"], (0,), (10,))

    unplugging: list[asyncio.Task[None]] = []

    async def unplug() -> None:
        await host.unplug("/console", surprise=True)

    await run_on(client, host, scenario, carrier="ring", memory=64 << 20)
    await unplugging[0]


async def test_the_socket_is_heard_while_a_ring_never_rests(host: hostd.Host) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        rng = await guest.bind_path("rng")
        asked = guest.post(0, NOP)
        while asked.status < 0:  # type: ignore[attr-defined]
            await rng.getrandom(16)  # type: ignore[attr-defined]

    await run_on("blocking", host, scenario, carrier="ring", memory=64 << 20, spin=True)
