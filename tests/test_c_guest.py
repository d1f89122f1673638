"""A guest in C, written from docs/protocol.md alone, does the main job on every device."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

import hostd

SOURCE = Path(__file__).with_name("c_guest.c")
DISK_BYTES = 1_500_160  # no multiple of what it reads at once


@pytest.fixture
def c_guest(tmp_path: Path) -> Path:
    """It, compiled."""
    if shutil.which("gcc") is None:
        if "CI" in os.environ:
            pytest.fail("gcc is missing")
        pytest.skip("gcc is not installed")
    return tmp_path / "c_guest"


async def run(*command: object) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return await process.wait(), said.decode()


async def test_it_reads_takes_an_interrupt_and_leaves_in_order(c_guest: Path, tmp_path: Path) -> None:
    code, said = await run("gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-o", c_guest, SOURCE)
    assert code == 0, said
    image = tmp_path / "disk.img"
    image.write_bytes(os.urandom(DISK_BYTES))
    tables = {
        "rng": {"model": "rng"},
        "console": {"model": "console", "backing": "cmd:cat"},
        "storage/disk": {"model": "block", "path": "disk.img"},
    }
    machine = hostd.Machine.from_tables({"devices": tables}, tmp_path)
    async with hostd.serve(machine) as host:
        code, said = await run(c_guest, host.socket, image)
        assert code == 0, said
        lines = said.splitlines()
        assert [line.split()[0] for line in lines[:5]] == ["/", "/rng", "/console", "/storage", "/storage/disk"]
        assert f"block: {DISK_BYTES} bytes equal" in lines
        assert any(line.startswith("console: interrupt") and line.endswith("echo ok") for line in lines)
        assert not host.guests.by_token

        other = tmp_path / "other"
        other.write_bytes(os.urandom(DISK_BYTES))
        code, said = await run(c_guest, host.socket, other)
        assert code == 1 and "block" in said
