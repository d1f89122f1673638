"""A machine with one shared folder, and a guest that has it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import guestd
import hostd
from guestd.drivers.folder import FolderDriver
from hostd import Machine


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
