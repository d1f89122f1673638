"""The entropy device: its model and its driver together."""

from __future__ import annotations

import asyncio

import guestd
import hostd


async def test_bytes_are_fresh_and_as_many_as_asked_for(host: hostd.Host) -> None:
    async with guestd.attach(host.socket) as guest:
        first, second = await guest["rng"].getrandom(10_000), await guest["rng"].getrandom(10_000)
    assert len(first) == len(second) == 10_000
    assert first != second and len(set(first)) == 256


async def test_the_same_driver_on_the_blocking_client(host: hostd.Host) -> None:
    def blocking() -> bytes:
        with guestd.attach_blocking(host.socket) as guest:
            return guest["rng"].getrandom(16)  # type: ignore[no-any-return]

    assert len(await asyncio.to_thread(blocking)) == 16


async def test_it_is_shared_by_all_guests(host: hostd.Host) -> None:
    async with guestd.attach(host.socket) as one, guestd.attach(host.socket) as other:
        assert await one["rng"].getrandom(8) != await other["rng"].getrandom(8)


async def test_a_read_into_guest_memory_may_be_short_and_is_never_empty(host: hostd.Host) -> None:
    async with guestd.attach(host.socket) as guest:
        rng = await guest.bind("rng")
        with guest.ram.alloc(1 << 20) as buffer:
            count = await rng.read_into(buffer)
            assert 0 < count <= 1 << 20 and any(buffer.view[:count])
