"""`isolate = true`: whatever becomes of a process, its calls fail, another one is started, and all others go on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from isolated_end import NEEDS_RESET, lives, machine, negotiate, opened, process, served
from moving import until
from raw import attached, bystander

from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import Status
from hostd.machine.file import MachineError


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, -3])
async def test_a_process_that_dies_fails_its_calls_and_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: int
) -> None:
    async with served(tmp_path) as host, bystander(host), opened(host) as (guest, handle, calls):
        before = process(host).pid
        guest.send(guest.next_call(calls["begin"], handle, slot=1))
        guest.send(guest.next_call(calls["die"], handle, (int(how),)))
        for _ in range(2):
            status, text = await guest.reply()
            how_told = "exit code 3" if how == -3 else signal.Signals(how).name
            assert (status, text) == (Status.IO_ERROR, f"/odd: its process has ended: {how_told}")
        assert await guest.core(numbers.GET_STATUS, handle) & NEEDS_RESET
        assert (await guest.call(calls["bump"], handle))[0] == Status.IO_ERROR
        await until(lambda: process(host).pid is not None)
        assert await negotiate(guest, handle) == (0, 15)
        assert await guest.call(calls["bump"], handle) == (0, 1)
        assert process(host).pid != before and process(host).starts == 2
    assert any("it is started again now" in record.message for record in caplog.records)


async def test_one_that_dies_again_and_again_is_started_ever_more_seldom(tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(tmp_path, clock) as host, opened(host) as (guest, handle, calls):
        for deaths, seconds in enumerate((0, 1, 2, 4, 8, 16, 32, 60, 60), 1):
            assert (await guest.call(calls["die"], handle, -1))[0] == Status.IO_ERROR
            assert process(host).pid is None
            assert (await guest.call(numbers.SET_STATUS, handle, 0))[0] == Status.IO_ERROR  # there is none to reset
            clock.turn(seconds - 0.001 if seconds else 0)
            assert process(host).starts == deaths + (seconds == 0)
            clock.turn(0.002)
            assert process(host).starts == deaths + 1
            assert await negotiate(guest, handle) == (0, 15)
            assert await guest.call(calls["bump"], handle) == (0, 1)


async def test_one_that_hangs_is_ended_and_all_others_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    async with served(tmp_path, clock) as host, opened(host) as (guest, handle, calls), bystander(host) as other:
        begun = process(host).pid
        assert begun is not None
        os.kill(begun, signal.SIGSTOP)
        guest.send(guest.next_call(calls["bump"], handle))
        clock.turn(3600)  # all at once: nothing was read meanwhile, so nobody was late
        await other.core(numbers.NOP)
        assert process(host).pid == begun
        while process(host).pid == begun:
            clock.turn(1)
            await other.core(numbers.NOP)
        assert await guest.reply() == (Status.IO_ERROR, "/odd: its process has ended: it did nothing for 5 s")
        clock.turn(0)
        assert await negotiate(guest, handle) == (0, 15)
        assert await guest.call(calls["bump"], handle) == (0, 1)
    assert "it did nothing for 5 s; it is started again now" in caplog.text


async def test_an_answer_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(tmp_path, clock) as host, opened(host) as (guest, handle, calls):
        guest.send(guest.next_call(calls["begin"], handle, slot=1))
        await guest.call(calls["pid"], handle)
        clock.turn(61)
        assert await guest.reply() == (Status.INTERNAL, "the device model gave no answer within 60 s")
        assert await guest.call(calls["bump"], handle) == (0, 1)


async def test_a_worker_that_does_not_answer_is_ended_with_its_process(tmp_path: Path) -> None:
    clock = ManualClock()
    async with served(tmp_path, clock) as host, bystander(host), opened(host) as (guest, handle, calls):
        guest.send(guest.next_call(calls["work"], handle, (1000.0,), (b"x",), slot=1))
        await guest.call(calls["pid"], handle)
        clock.turn(61)
        assert await guest.call(calls["bump"], handle) == (0, 1)  # it may still come
        clock.turn(5)
        assert await guest.reply() == (Status.IO_ERROR, "/odd: its process has ended: it gave no answer within 60 s")


STUBBORN = """
import os, signal
from hostd.device import Device, call
class Stubborn(Device):
    compatible = "test,stubborn"
    def start(self):
        if os.path.exists("{0}/hang"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if os.path.exists("{0}/fail"):
            raise OSError(2, "it is not there", "it")
    @call
    def die(self) -> None:
        os._exit(1)
"""


async def test_a_start_that_hangs_is_refused_while_all_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN.format(tmp_path))
    (tmp_path / "hang").touch()
    clock = ManualClock()
    async with served(tmp_path, clock) as host, bystander(host) as other:
        spec = host.read("stubborn", {"model": "stubborn.py", "isolate": True}, folder=tmp_path)
        coming = asyncio.ensure_future(host.bring(spec))
        for _ in range(20):
            await other.core(numbers.NOP)
            assert not coming.done()
            clock.turn(1)
        with pytest.raises(MachineError, match="it has not started within 20 s"):
            await coming


async def test_a_start_that_fails_the_second_time_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN.format(tmp_path))
    clock = ManualClock()
    async with served(tmp_path, clock) as host, attached(host) as guest:
        await host.bring(host.read("stubborn", {"model": "stubborn.py", "isolate": True}, folder=tmp_path))
        handle, calls = await guest.open("/stubborn")
        (tmp_path / "fail").touch()
        assert (await guest.call(calls["die"], handle))[0] == Status.IO_ERROR
        clock.turn(0)
        await until(lambda: "/stubborn: it did not start again: [Errno 2] it is not there" in caplog.text)
        assert process(host, "/stubborn").pid is None
        (tmp_path / "fail").unlink()
        clock.turn(1)
        assert await negotiate(guest, handle) == (0, 15)


async def test_a_process_does_not_outlive_its_host(tmp_path: Path) -> None:
    machine(tmp_path)
    (tmp_path / "m.toml").write_text('[devices.odd]\nmodel = "odd.py"\nisolate = true\n')
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hostd", "run", str(tmp_path / "m.toml"), "--",
        sys.executable, "-m", "hostd", "status", "--json", stdout=subprocess.PIPE,
    )  # fmt: skip
    shown, _ = await daemon.communicate()
    (there,) = json.loads(shown)["processes"]
    assert there["device"] == "/odd" and there["starts"] == 1 and not lives(there["pid"])


async def test_one_that_is_killed_takes_its_processes_with_it(tmp_path: Path) -> None:
    machine(tmp_path)
    (tmp_path / "m.toml").write_text('[devices.odd]\nmodel = "odd.py"\nisolate = true\n')
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hostd", "run", str(tmp_path / "m.toml"), "--",
        "sh", "-c", "hostd status --json && exec cat",
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert daemon.stdout is not None and daemon.stdin is not None
    shown = await daemon.stdout.readuntil(b"\n}\n")
    (there,) = json.loads(shown)["processes"]
    os.kill(there["pid"], signal.SIGSTOP)  # nothing of it can look
    daemon.kill()
    daemon.stdin.close()  # which ends the command
    await daemon.wait()
    await until(lambda: not lives(there["pid"]))
