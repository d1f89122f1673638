"""Entropy, as the guest gets it."""

import zlib
from pathlib import Path

from guestd.clients.asynchronous import AsyncGuest

_COUNT = 1 << 20


async def show(guest: AsyncGuest, folder: Path) -> str:
    """Two reads differ, every byte value comes about as often, and there is nothing to compress."""
    first, second = await guest["rng"].load(_COUNT), await guest["rng"].load(_COUNT)
    assert len(first) == len(second) == _COUNT, f"{len(first)} and {len(second)} bytes came"
    assert first != second, "the same bytes came twice"
    chi_squared = sum((first.count(value) - _COUNT / 256) ** 2 for value in range(256)) / (_COUNT / 256)
    assert 130 < chi_squared < 400, f"chi squared {chi_squared:.0f}"  # 255 degrees of freedom: 22.6 standard deviation
    assert len(zlib.compress(first)) >= _COUNT, "it can be compressed"
    return f"2 MiB, chi squared {chi_squared:.0f} of 255 degrees of freedom, nothing to compress"
