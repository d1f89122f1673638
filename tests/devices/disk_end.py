"""A host with a disk, its guest, and what is on the disk."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeAlias

import guestd
import hostd
from guestd.drivers.block import BlockDriver
from hcall.clock import Clock
from hostd import Machine

SIZE = 192 * 1024  # of the model's disk: reads and writes both sides of 64 KiB
Bound: TypeAlias = "tuple[hostd.Host, guestd.AsyncGuest, BlockDriver]"


@contextlib.asynccontextmanager
async def disk(folder: Path, clock: Clock | None = None, **config: object) -> AsyncIterator[Bound]:
    devices = {"disk": {"model": "block", "path": "disk.img", **config}}
    machine = Machine.from_tables({"devices": devices}, folder)
    async with hostd.serve(machine, folder / "run", clock) as host, guestd.attach(host.socket) as guest:
        driver = await guest.bind("disk")
        assert isinstance(driver, BlockDriver)
        yield host, guest, driver
    for thread in workers():  # an error that a thread has still in its hands keeps guest memory
        thread.join(5)


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("Block")]


def image(folder: Path, content: bytes) -> Path:
    path = folder / "disk.img"
    path.write_bytes(content)
    return path


def pattern(count: int, seed: int = 1) -> bytes:
    return bytes((n * 7 + (n >> 8) + seed) & 255 for n in range(count))
