"""A model that takes too long is stopped, on both loops, and all guests go on; what only takes its time is not."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import guestd
from guestd.driver import Driver, Op
from hcall import numbers
from hcall.errors import Internal, IoError
from hostd.calls.overrun import SECONDS, guard
from hostd.device import Device
from hostd.model.blame import Overrun

LOOPS = ("uvloop", "asyncio")
GUARDED, HEAVY = (Path(__file__).with_name(name) for name in ("guarded.py", "heavy.py"))


class HeavyDriver(Driver):
    compatible = ("test,heavy",)
    arm = Op[[str], None]()
    loop, sleep, stubborn, pump, quick = Op[[], int](), Op[[], int](), Op[[], int](), Op[[], int](), Op[[], int]()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Two hosts, processes of their own: one on uvloop, one on asyncio's loop.  The sockets of their guests."""
    folder = tmp_path_factory.mktemp("hosts")
    processes = []
    for loop in LOOPS:
        with (folder / f"{loop}.log").open("w") as log:
            command = [sys.executable, str(GUARDED), loop, str(folder / loop)]
            processes.append(subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            ))  # fmt: skip
    try:
        assert all(process.stdout and process.stdout.readline() == "ready\n" for process in processes)
        yield [folder / loop / "guest.sock" for loop in LOOPS]
    finally:
        for process in processes:
            process.communicate(timeout=20)
    assert [process.returncode for process in processes] == [0, 0]


def on_both(hosts: list[Path], scenario: Callable[[guestd.AsyncGuest, HeavyDriver], Coroutine[Any, Any, None]]) -> None:
    """Run *scenario* at each host, at the same time; another guest, which is there before, is there afterwards."""

    async def run(socket: Path) -> None:
        async with (
            asyncio.timeout(20),
            guestd.attach(socket, memory=1 << 16) as other,
            guestd.attach(socket, drivers=[HeavyDriver], memory=1 << 16) as guest,
        ):
            rng = other["rng"]
            assert len(await rng.getrandom(8)) == 8
            heavy = await guest.bind("heavy")
            assert isinstance(heavy, HeavyDriver)
            going = asyncio.ensure_future(scenario(guest, heavy))
            assert len(await rng.getrandom(8)) == 8  # waits, perhaps, and is answered
            await going
            assert await guest["heavy"].quick() == 1 and len(await rng.getrandom(8)) == 8
            assert other.resumed == guest.resumed == 0

    async def both() -> None:
        await asyncio.gather(*map(run, hosts))

    asyncio.run(both())


async def fails(heavy: HeavyDriver) -> None:
    """Until the device has failed."""
    with pytest.raises(IoError, match="has failed: reset it"):
        while True:
            await heavy.quick()


@pytest.mark.parametrize("call", ["loop", "sleep", "stubborn"])
def test_a_call_that_does_not_end_is_ended(hosts: list[Path], call: str) -> None:
    async def scenario(guest: guestd.AsyncGuest, heavy: HeavyDriver) -> None:
        with pytest.raises(Internal, match=rf"the device model took longer than 1 s in {call}\(\)"):
            await getattr(heavy, call)()

    on_both(hosts, scenario)
    for socket in hosts:
        assert (
            f"Overrun: the device model took longer than 1 s in {call}()"
            in socket.parent.with_suffix(".log").read_text()
        )


def test_a_tick_that_does_not_end_fails_the_device(hosts: list[Path]) -> None:
    async def scenario(guest: guestd.AsyncGuest, heavy: HeavyDriver) -> None:
        await heavy.arm("tick")
        await fails(heavy)
        await guest.unbind("heavy")

    on_both(hosts, scenario)


def test_a_reset_that_does_not_end_fails_the_device(hosts: list[Path]) -> None:
    async def scenario(guest: guestd.AsyncGuest, heavy: HeavyDriver) -> None:
        await heavy.arm("reset")
        with pytest.raises(IoError, match="could not be reset"):
            await guest.core(heavy.dev.handle, numbers.SET_STATUS, 0)  # type: ignore[attr-defined]  # an OpenDevice
        await fails(heavy)
        await guest.unbind("heavy")

    on_both(hosts, scenario)


def test_a_driver_that_is_not_let_in_in_time_is_told(hosts: list[Path]) -> None:
    async def scenario(guest: guestd.AsyncGuest, heavy: HeavyDriver) -> None:
        await heavy.arm("ready")
        await guest.unbind("heavy")
        with pytest.raises(Internal, match=r"took longer than 1 s in ready\(\)"):
            await guest.bind("heavy")

    on_both(hosts, scenario)


def test_a_callback_that_does_not_end_is_ended(hosts: list[Path]) -> None:
    async def scenario(guest: guestd.AsyncGuest, heavy: HeavyDriver) -> None:
        await heavy.arm("callback")
        assert await heavy.quick() == 1

    on_both(hosts, scenario)


def test_a_model_that_does_not_start_in_time_is_not_plugged(hosts: list[Path]) -> None:
    async def scenario(guest: guestd.AsyncGuest, heavy: HeavyDriver) -> None:
        reader, writer = await asyncio.open_unix_connection(str(Path(guest.path).with_name("control.sock")))
        config = {"model": str(HEAVY), "spins": "start"}
        writer.write(json.dumps({"do": "plug", "path": "more", "config": config}).encode() + b"\n")
        answer = json.loads(await reader.readline())
        writer.close()
        await writer.wait_closed()
        assert "plug: devices.more: the model failed to start: Overrun" in answer["error"]

    on_both(hosts, scenario)


def test_many_short_steps_are_no_long_one(hosts: list[Path]) -> None:
    async def scenario(guest: guestd.AsyncGuest, heavy: HeavyDriver) -> None:
        assert await heavy.pump() > 3

    on_both(hosts, scenario)


class Model(Device):
    """Its methods are entered in every way; a signal is a second that has passed."""

    def method(self, seconds: int) -> int:
        for _ in range(seconds):
            signal.raise_signal(signal.SIGALRM)
        return seconds

    def outer(self, seconds: int) -> int:
        return sum(self.method(1) for _ in range(seconds))

    def tidy(self, seconds: int) -> None:
        self.tidied = 0
        try:
            self.method(seconds)
        finally:
            self.tidied = self.method(1)

    def generator(self) -> Iterator[int]:
        while True:
            yield self.method(1)

    async def task(self, seconds: int) -> int:
        return sum([await asyncio.sleep(0, self.method(1)) for _ in range(seconds)])


def test_only_a_model_that_was_under_way_a_second_before_is_stopped() -> None:
    model = Model()
    with guard():
        signal.setitimer(signal.ITIMER_REAL, 0)  # the seconds are the test's
        for _ in range(3):
            assert model.method(1) == 1
        for _ in range(2):
            with pytest.raises(Overrun, match=r"1 s in method\(\)"):
                model.method(2)
        with pytest.raises(Overrun, match=r"1 s in outer\(\)"):  # how it was entered, whatever it calls
            model.outer(2)
        with pytest.raises(Overrun):
            model.tidy(2)
        assert model.tidied == 1  # it has another second for that
        steps = model.generator()
        assert [next(steps) for _ in range(5)] == [1] * 5
        assert asyncio.run(model.task(5)) == 5


def test_a_debugger_may_take_its_time() -> None:
    traced: list[str] = []
    before = sys.gettrace()
    with guard():
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.settrace(lambda frame, event, value: traced.append(event))
        try:
            assert Model().method(3) == 3
        finally:
            sys.settrace(before)
    assert traced


def test_the_signal_is_given_back() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(KeyError), guard():
        assert signal.getitimer(signal.ITIMER_REAL)[1] == SECONDS
        raise KeyError
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0) and signal.getsignal(signal.SIGALRM) is before
