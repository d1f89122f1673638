"""The carrier of rings: the same drivers, with either client, and no call of the device's on the socket."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from raw import run_on

import hostd
from guestd.clients.guest import Guest
from hcall.errors import BadArgument

CLIENTS = ("asyncio", "blocking")


def together(guest: Guest[Any], *calls: Any) -> Any:
    """All of *calls* at once, with either client."""
    return guest.gather(*calls) if hasattr(guest, "gather") else asyncio.gather(*calls)


def test_a_guest_is_told_who_names_another_carrier() -> None:
    from guestd.carriers import named
    from hcall.programs.mistakes import BadRequest

    with pytest.raises(BadRequest, match=r"no carrier 'rings' \(did you mean 'ring'\?\)"):
        named("rings")


@pytest.mark.parametrize("client", CLIENTS)
async def test_random_bytes_and_a_disk_by_rings(host: hostd.Host, client: str) -> None:
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
        assert await (await guest.bind_path("disk")).read(512, 0) == data[:512]  # type: ignore[attr-defined]

    await run_on(client, host, scenario, carrier="ring", memory=64 << 20)
