"""`--trace FILE`: all that happens, from the first device to the last, by a thread that nobody waits for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from probe import PROBE, probe
from raw import RNG, RawGuest, attached, settled

import guestd
import hostd
from hcall import numbers
from hcall.clock import ManualClock
from hostd import Machine
from hostd.service.following import opened, recorded
from hostd.service.serve import running


@contextlib.asynccontextmanager
async def served(
    folder: Path, trace: Path | None = None, clock: ManualClock | None = None
) -> AsyncIterator[hostd.Host]:
    async with running(Machine(devices=(RNG, PROBE)), folder / "run", clock, trace=trace) as (host, _):
        yield host


def read(data: bytes | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data if isinstance(data, bytes) else data.read_bytes()).splitlines()]


async def busy(guest: RawGuest, rounds: int) -> None:
    handle, calls = await guest.open("/rng")
    for _ in range(rounds):
        await guest.call(calls["read"], handle, 0, areas=(16,))
    await guest.core(numbers.CLOSE, handle)


async def test_the_file_has_every_call_that_a_guest_has_made_and_all_that_came_and_went(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    async with served(tmp_path, file) as host:
        async with attached(host) as guest:
            await busy(guest, 500)
            handle, calls = await guest.open("/probe")
            guest.send(guest.next_call(calls["late"], handle, slot=1))
            await settled(guest)
            probe(host).waiting[0].done(1)
            assert await guest.reply() == (0, 1)
            probe(host).rung()
        async with attached(host) as other:
            await busy(other, 3)
    events = read(file)
    made = [event for event in events if event["event"] == "call"]
    assert len(made) == guest.seq + other.seq and [event["id"] for event in made] == [*range(1, len(made) + 1)]
    assert [event["event"] for event in events if event["event"] != "call"] == [
        "plug", "plug", "attach", "answer", "interrupt", "end", "attach", "end", "unplug", "unplug"
    ]  # fmt: skip
    assert all(event["status"] == "OK" for event in made if event["call"] != "late")


async def test_a_file_that_takes_nothing_holds_up_nobody_and_gets_the_count_of_what_is_missing(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    async with served(tmp_path) as host, attached(host) as guest:
        async with recorded(host.trace, theirs, "the pipe", events=100):
            await busy(guest, 2000)
            reading = asyncio.create_task(asyncio.to_thread(drained, ours))
        events = read(await reading)
        before = guest.seq
    lost = [event["count"] for event in events if event["event"] == "lost"]
    assert len(lost) >= 1 and len(events) - len(lost) + sum(lost) == before


def drained(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


async def test_a_file_that_never_takes_anything_again_is_given_up_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = os.pipe()
    clock = ManualClock()
    async with served(tmp_path, clock=clock) as host, attached(host) as guest:

        async def record() -> None:
            async with recorded(host.trace, theirs, "the pipe"):
                await busy(guest, 2000)

        ending = asyncio.create_task(record())
        while not ending.done():
            await asyncio.sleep(0)
            clock.turn(1.0 if not host.trace.readers else 0.0)
    assert "the trace is not complete: the pipe takes no more" in caplog.text
    await asyncio.to_thread(drained, ours)  # so that the thread ends


async def test_a_full_disk_ends_the_trace_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with served(tmp_path, Path("/dev/full")) as host, attached(host) as guest:
        await busy(guest, 50)
        while host.trace.readers:
            await guest.core(numbers.NOP)
        await busy(guest, 50)
    assert caplog.text.count("the trace ends, /dev/full cannot be written: No space left on device") == 1


async def test_a_guest_of_another_life_of_the_host_is_seen_too(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    async with served(tmp_path) as old, guestd.attach(old.socket, name="survivor") as guest:
        await old.drain()
        machine = Machine(devices=(RNG, PROBE))
        saved, _ = old.save()
        async with running(machine, tmp_path / "new", saved=saved, trace=file) as (host, _):
            host.socket.rename(old.socket)
            for link in list(old.guests.links):
                link.abort()
            await guest.nop()
            assert guest.resumed == 1
    told = [(event["event"], event.get("call")) for event in read(file) if event.get("guest") == "survivor"]
    assert told[:2] == [("resume", None), ("call", "NOP")]


def test_what_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, says in [("no/file", "No such file"), (".", "Is a directory"), ("pipe", "No such device or address")]:
        with pytest.raises(OSError, match=says):
            opened(tmp_path / name)


def typed(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hostd", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False)


def test_hostd_run_writes_it_and_a_file_that_cannot_be_written_is_one_line_before_anything_runs(
    tmp_path: Path, machine_file: Path
) -> None:
    probing = ("machine.toml", "--", sys.executable, "-m", "guestd", "probe")
    done = typed(tmp_path, "run", "--trace", "out.jsonl", *probing)
    assert done.returncode == 0 and "/disk" in done.stdout and done.stderr == ""
    events = read(tmp_path / "out.jsonl")
    assert {"plug", "attach", "call", "end", "unplug"} <= {event["event"] for event in events}
    assert {"/rng", "/console", "/disk"} == {event["device"] for event in events if event["event"] == "plug"}

    done = typed(tmp_path, "run", "--trace", "no/file", "machine.toml", "--", "touch", "ran")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "hostd: no/file: No such file or directory\n")
    assert not (tmp_path / "ran").exists()


def test_hostd_serve_writes_it_too_until_it_is_told_to_stop(tmp_path: Path, machine_file: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "hostd", "serve", "machine.toml", "--runtime-dir", "run", "--trace", "out.jsonl"],
        cwd=tmp_path, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert typed(tmp_path, "wait", "--socket", "run", "--device", "disk").returncode == 0
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert [event["event"] for event in read(tmp_path / "out.jsonl")] == ["plug"] * 3 + ["unplug"] * 3
