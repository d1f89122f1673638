"""A pipe behind a stream, `file:FIFO`: it takes a part, and the rest when somebody reads."""

from __future__ import annotations

import asyncio
import fcntl
import os
import random
from pathlib import Path
from typing import cast

import pytest
from port_end import SECONDS, started, write_all

import guestd
import hostd
from guestd.drivers.console import ConsoleDriver
from hcall.errors import IoError, WouldBlock
from hostd import Machine


@pytest.mark.parametrize("sizes", [[40_000, 40_000], [65_536], [1, 65_535, 65_536, 10], [5000] * 40])
async def test_a_pipe_that_took_a_part_gets_the_rest_when_it_is_read(tmp_path: Path, sizes: list[int]) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    data = random.Random(1).randbytes(sum(sizes))
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 8192)
    loop, got, complete = asyncio.get_running_loop(), bytearray(), asyncio.Event()

    def read() -> None:
        got.extend(os.read(reader, 3000))
        if len(got) == len(data):
            complete.set()

    try:
        async with started("file:log", tmp_path) as (backing, end), asyncio.timeout(SECONDS):
            loop.add_reader(reader, read)
            at = 0
            for size in sizes:
                await write_all(backing, end, data[at : at + size])
                at += size
            await complete.wait()
        assert got == data
    finally:
        loop.remove_reader(reader)
        os.close(reader)


@pytest.mark.parametrize("leaves", [False, True])
async def test_a_guest_waits_until_a_pipe_has_all(tmp_path: Path, leaves: bool) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 8192)
    machine = Machine.from_tables({"devices": {"con": {"model": "console", "backing": "file:log"}}}, tmp_path)
    loop, got = asyncio.get_running_loop(), bytearray()
    try:
        async with (
            hostd.serve(machine, tmp_path / "run") as host,
            guestd.attach(host.socket) as guest,
            asyncio.timeout(SECONDS),
        ):
            driver = cast(ConsoleDriver, await guest.bind("con"))
            await driver.write_all(b"x" * 50_000)  # more than the pipe holds, less than the device
            settling = asyncio.ensure_future(driver.settle())
            with pytest.raises(WouldBlock):
                await driver.sync()
            assert not settling.done()
            if leaves:
                os.close(reader)
                with pytest.raises(IoError, match="have not reached it"):
                    await settling
                return
            loop.add_reader(reader, lambda: got.extend(os.read(reader, 3000)))
            await settling
            while len(got) < 50_000:
                await driver.get_param(0)
            assert got == b"x" * 50_000
    finally:
        if not leaves:
            loop.remove_reader(reader)
            os.close(reader)
