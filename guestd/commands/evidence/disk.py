"""The disk: what a guest writes is in the image on the host, and comes back."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from guestd.clients.asynchronous import AsyncGuest
from guestd.drivers.block import BlockDriver

_COUNT = 4 << 20
_AT = 12_345  # no multiple of anything
_CHUNK = 1 << 16


async def show(guest: AsyncGuest, folder: Path) -> str:
    """Write from guest memory, 64 calls at once; compare with the image; make a hole in it, and read it all back."""
    disk = await guest.bind("disk")
    assert isinstance(disk, BlockDriver)
    data = os.urandom(_COUNT)
    with guest.ram.alloc(_COUNT) as buffer:
        buffer.view[:] = data
        starts = range(0, _COUNT, _CHUNK)
        await asyncio.gather(*(disk.write_from(buffer.part(at, _CHUNK), _AT + at) for at in starts))
        await disk.sync()
        with (folder / "disk.img").open("rb") as image:
            image.seek(_AT)
            assert image.read(_COUNT) == data, "the image has something else"
        await disk.write_zeroes(_AT, _CHUNK)
        data = bytes(_CHUNK) + data[_CHUNK:]
        await asyncio.gather(*(disk.read_into(buffer.part(at, _CHUNK), _AT + at) for at in starts))
        assert buffer.view == data, "something else came back"
    return f"{_COUNT >> 20} MiB to the image and back, sha256 {hashlib.sha256(data).hexdigest()[:16]}"
