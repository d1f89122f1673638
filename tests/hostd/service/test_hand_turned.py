"""A host whose clock is turned by hand waits, gives up and takes turns when that clock says so, and never else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from raw import PATIENCE, attached, served

import hostd
from hcall.clock import ManualClock
from hostd.device import Device, Later, call
from hostd.guests import guests
from hostd.guests.turns import TURN
from hostd.machine.file import DeviceSpec
from hostd.service.serve import running

HOUR = 3600.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@contextlib.asynccontextmanager
async def control(host: hostd.Host) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(host.socket.with_name("control.sock"))
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


async def under_way(name: str, within: float = PATIENCE) -> asyncio.Task[Any]:
    """The one task whose coroutine is called *name*, once it waits."""
    async with asyncio.timeout(within):
        while True:
            for task in asyncio.all_tasks():
                if name in repr(task.get_coro()):
                    return task
            await asyncio.sleep(0)


async def settle() -> None:
    """Whatever is ready to run has run."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_wait_of_an_hour_ends_after_an_hour_of_the_hosts_clock(clock: ManualClock) -> None:
    async with hostd.serve(hostd.Machine(), clock=clock) as host, control(host) as (reader, writer):
        writer.write(b'{"do": "wait", "device": "/nope", "timeout": 3600}\n')
        await under_way("Control._answer")
        answer = asyncio.ensure_future(reader.readline())
        await settle()
        clock.turn(HOUR - 1)
        await settle()
        assert not answer.done()
        clock.turn(1)
        async with asyncio.timeout(PATIENCE):
            assert json.loads(await answer)["code"] == 6


async def test_the_command_that_waits_an_hour_ends_so_too(clock: ManualClock) -> None:
    async with hostd.serve(hostd.Machine(), clock=clock) as host:

        def wait() -> subprocess.CompletedProcess[str]:
            words = (sys.executable, "-m", "hostd", "wait", "--device", "nope", "--timeout", str(HOUR))
            return subprocess.run([*words, "--socket", host.socket], capture_output=True, text=True, check=False)

        waiting = asyncio.create_task(asyncio.to_thread(wait))
        await under_way("Control._answer", 20)
        await settle()
        clock.turn(HOUR)
        done = await waiting
        assert (done.returncode, done.stderr) == (6, "hostd: it did not happen within 3600 s\n")


@pytest.mark.parametrize("seconds", ["-1", "1e10", "NaN", '"soon"'])
async def test_no_wait_is_longer_than_a_clock_can_tell(clock: ManualClock, seconds: str) -> None:
    async with hostd.serve(hostd.Machine(), clock=clock) as host, control(host) as (reader, writer):
        for request in ('{"do": "wait", "timeout": %s}\n', '{"do": "unplug", "path": "/x", "timeout": %s}\n'):
            writer.write((request % seconds).encode())
            assert json.loads(await reader.readline())["code"] == 2


async def test_a_client_that_went_away_is_seen_by_the_hosts_clock(clock: ManualClock) -> None:
    async with hostd.serve(hostd.Machine(), clock=clock) as host:
        async with control(host) as (_, writer):
            writer.write(b'{"do": "wait", "device": "/nope"}\n')
            answer = await under_way("Control._answer")
        await settle()
        assert not answer.done()
        clock.turn(0.5)
        await asyncio.wait({answer}, timeout=PATIENCE)
        assert answer.cancelled()


class Stuck(Device):
    """A worker of it goes on until the test lets it."""

    compatible = "test,stuck"

    def start(self) -> None:
        self.gate, self.busy = threading.Event(), threading.Event()

    @call
    def work(self) -> Later[bool]:
        def wait() -> bool:
            self.busy.set()
            return self.gate.wait(20)

        return self.offload(wait)


@pytest.fixture
def end_takes_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it would not be over by the system's time."""
    monkeypatch.setattr(guests, "CLOSE_SECONDS", HOUR)


@pytest.mark.usefixtures("end_takes_an_hour")
async def test_the_end_waits_for_a_call_as_long_as_the_hosts_clock_says(clock: ManualClock) -> None:
    async with contextlib.AsyncExitStack() as stack:
        spec = DeviceSpec("stuck", "stuck", Stuck, {})
        host, _ = await stack.enter_async_context(running(hostd.Machine(devices=(spec,)), clock=clock))
        device = host.tree.find("/stuck").device
        assert isinstance(device, Stuck)
        stack.callback(device.gate.set)
        guest = await stack.enter_async_context(attached(host))
        handle, calls = await guest.open("/stuck")
        guest.send(guest.next_call(calls["work"], handle))
        await asyncio.to_thread(device.busy.wait, PATIENCE)
        closing = asyncio.create_task(host.guests.close())
        await settle()
        clock.turn(HOUR - 1)
        await settle()
        assert not closing.done() and host.guests.by_token
        clock.turn(1)
        async with asyncio.timeout(PATIENCE):
            await guest.rest()
            await closing


@pytest.mark.usefixtures("end_takes_an_hour")
async def test_the_end_waits_for_a_guest_that_does_not_read_as_long_as_that(clock: ManualClock) -> None:
    async with contextlib.AsyncExitStack() as stack:
        host, _ = await stack.enter_async_context(running(hostd.Machine(), clock=clock))
        await stack.enter_async_context(attached(host))
        (link,) = host.guests.links
        assert link._transport is not None
        link._transport.write(bytes(900_000))  # more than a socket holds
        closing = asyncio.create_task(host.guests.close())
        await settle()
        clock.turn(HOUR - 1)
        await settle()
        assert not closing.done()
        clock.turn(1)
        async with asyncio.timeout(PATIENCE):
            await closing


class Slow(Device):
    """Each call takes three turns of the clock, and none of the system's."""

    compatible = "test,slow"
    shared = True
    turned = 3 * TURN

    @call
    def work(self) -> int:
        made.append(id(self))
        clocks[0].turn(self.turned)
        return len(made)


made: list[int] = []
clocks: list[ManualClock] = []


@pytest.mark.parametrize(("takes", "before"), [(3 * TURN, 1), (0.4 * TURN, 3), (0.0, 10)])
async def test_a_guests_turn_is_measured_by_the_hosts_clock(
    clock: ManualClock, tmp_path: Path, takes: float, before: int
) -> None:
    """Ten calls came at once; how many are made before others have their turn."""
    clocks[:], Slow.turned = [clock], takes
    async with served(tmp_path, DeviceSpec("slow", "slow", Slow, {}), clock=clock) as host, attached(host) as guest:
        handle, calls = await guest.open("/slow")
        made.clear()
        (inside,) = host.guests.by_token.values()
        inside.lane.receive(b"".join(guest.next_call(calls["work"], handle, slot=n) for n in range(10)))
        assert len(made) == before
        for _ in range(10):
            await guest.reply()
        assert len(made) == 10


async def test_a_backing_gives_up_a_connection_when_the_hosts_clock_says_so(
    clock: ManualClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):  # what its queue holds: whoever comes now is not answered
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        await settle()
        console = {"model": "console", "backing": f"connect:tcp:127.0.0.1:{listener.getsockname()[1]}"}
        machine = hostd.Machine.from_tables({"devices": {"console": console}}, tmp_path)
        async with hostd.serve(machine, clock=clock):
            connecting = await under_way("_Connection._connect")
            await settle()
            clock.turn(9.9)
            await settle()
            assert not connecting.done()
            clock.turn(0.1)
            await asyncio.wait({connecting}, timeout=PATIENCE)
            assert connecting.done() and "timed out; trying again" in caplog.text
