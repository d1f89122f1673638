"""A machine with one shared folder, and a guest that has it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import guestd
import hostd
from guestd.drivers.folder import FolderDriver
from hcall.clock import ManualClock
from hcall.formats.folder import Fetched
from hostd import Machine

ROOM = 256 * 1024  # for as much as is fetched at a time


@contextlib.asynccontextmanager
async def serving(folder: Path, **config: object) -> AsyncIterator[hostd.Host]:
    (folder / "share").mkdir(exist_ok=True)
    machine = Machine.from_tables({"devices": {"files": {"model": "folder", "path": "share", **config}}}, folder)
    async with hostd.serve(machine, folder / "run") as host:
        yield host


@contextlib.asynccontextmanager
async def attached(host: hostd.Host) -> AsyncIterator[FolderDriver]:
    async with guestd.attach(host.socket) as guest:
        driver = await guest.bind("files")
        assert isinstance(driver, FolderDriver)
        yield driver


@contextlib.asynccontextmanager
async def shared(folder: Path, **config: object) -> AsyncIterator[FolderDriver]:
    async with serving(folder, **config) as host, attached(host) as driver:
        yield driver


async def fetched(files: FolderDriver, path: str = "", room: int = ROOM) -> dict[bytes, Fetched]:
    """All that is in a folder, by name, with copies of the bytes."""
    found = {}
    folder = await files.open_dir(path)
    with files.dev.ram.alloc(room) as buffer:
        while entries := await folder.fetch(buffer):
            found |= {entry.name: entry._replace(data=bytes(entry.data)) for entry in entries}
    await folder.close()
    return found


def open_files() -> list[str]:
    """What this process has open."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(fd.readlink()))
    return found


class Ticking(ManualClock):
    """Each look at it takes so long."""

    tick = looked = 0.0

    def time(self) -> float:
        self.looked += self.tick
        return super().time() + self.looked
