"""The entropy device: its model and its driver together."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import guestd
import hostd
from hcall.errors import BadArea
from hostd import Machine


@pytest.mark.spec("RNG-2")
async def test_bytes_are_fresh_and_as_many_as_asked_for(host: hostd.Host) -> None:
    async with guestd.attach(host.socket) as guest:
        first, second = await guest["rng"].getrandom(10_000), await guest["rng"].getrandom(10_000)
    assert len(first) == len(second) == 10_000
    assert first != second and len(set(first)) == 256


async def test_twenty_megabytes_pass_rngtest(host: hostd.Host) -> None:
    if shutil.which("rngtest") is None:
        pytest.skip("rngtest is not installed")
    async with guestd.attach(host.socket) as guest:
        data = await guest["rng"].load(20_000_000)
    command = ["rngtest"]  # FIPS 140-2 on blocks of 20,000 bits
    run = await asyncio.to_thread(subprocess.run, command, input=data, capture_output=True, check=False)
    failed = re.search(rb"FIPS 140-2 failures: (\d+)", run.stderr)
    passed = re.search(rb"FIPS 140-2 successes: (\d+)", run.stderr)
    assert failed and passed and int(failed[1]) + int(passed[1]) >= 7990
    assert int(failed[1]) < 40  # of the best source about 6 fail, see rngtest(1)


def seeded(folder: Path, seed: str) -> Machine:
    return Machine.from_tables({"devices": {"rng": {"model": "rng", "seed": seed}}}, folder)


@pytest.mark.spec("RNG-3")
async def test_a_seed_gives_the_same_bytes_again_however_they_are_asked_for(tmp_path: Path) -> None:
    expected = b"".join(hashlib.sha512(b"seven" + n.to_bytes(8, "little")).digest() for n in range(1600))
    async with hostd.serve(seeded(tmp_path, "seven"), tmp_path / "run") as host:
        for counts in ([100_000], [1, 63, 64, 65, 0, 1000, 16_384, 20_000], [17] * 300):
            async with guestd.attach(host.socket) as guest:
                rng = await guest.bind("rng")
                assert b"".join([await rng.load(count) for count in counts]) == expected[: sum(counts)]
                assert await rng.dev.property("seeded") is True
            await host.guests.wait_for(lambda: not host.guests.by_token)


@pytest.mark.spec("RNG-2", "RNG-3")
async def test_guests_at_once_share_a_seeded_sequence(tmp_path: Path) -> None:
    expected = hashlib.sha512(b"x" + bytes(8)).digest()
    async with (
        hostd.serve(seeded(tmp_path, "x"), tmp_path / "run") as host,
        guestd.attach(host.socket) as one,
        guestd.attach(host.socket) as other,
    ):
        first, second = await one.bind("rng"), await other.bind("rng")
        assert await first.read(8) + await second.read(8) + await first.read(8) == expected[:24]


async def test_without_a_seed_it_says_so(host: hostd.Host) -> None:
    async with guestd.attach(host.socket) as guest:
        assert await (await guest.bind("rng")).dev.property("seeded") is False


@pytest.mark.parametrize("count", [4097, -1, 1 << 40])
async def test_more_than_a_reply_holds_is_refused(host: hostd.Host, count: int) -> None:
    async with guestd.attach(host.socket) as guest:
        rng = await guest.bind("rng")
        with pytest.raises(BadArea):
            await rng.read(count)
        assert len(await rng.read(16)) == 16


async def test_the_same_driver_on_the_blocking_client(host: hostd.Host) -> None:
    def blocking() -> bytes:
        with guestd.attach_blocking(host.socket) as guest:
            return guest["rng"].getrandom(16)  # type: ignore[no-any-return]

    assert len(await asyncio.to_thread(blocking)) == 16


async def test_it_is_shared_by_all_guests(host: hostd.Host) -> None:
    async with guestd.attach(host.socket) as one, guestd.attach(host.socket) as other:
        assert await one["rng"].getrandom(8) != await other["rng"].getrandom(8)


@pytest.mark.spec("RNG-1")
async def test_a_read_into_guest_memory_may_be_short_and_is_never_empty(host: hostd.Host) -> None:
    async with guestd.attach(host.socket) as guest:
        rng = await guest.bind("rng")
        with guest.ram.alloc(1 << 20) as buffer:
            count = await rng.read_into(buffer)
            assert 0 < count <= 1 << 20 and any(buffer.view[:count])
