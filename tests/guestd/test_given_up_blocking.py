"""A signal handler that raises in the client without a loop: what the call took is there for the next one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_host import FIRST_OWN, READ, lying

import guestd
from guestd.driver import Op, Taking
from guestd.stream import StreamDriver

CALLS = {"set_param": FIRST_OWN, "next_ring": FIRST_OWN + 1}


class Alarm(Exception):
    """What the handler raises."""


class LineDriver(StreamDriver):
    compatible = ("test,thing",)
    next_ring = Op[[], str]()

    async def probe(self) -> None:
        await super().probe()
        self.taking: Taking[None] = Taking(self.dev)

    async def ring(self) -> str:
        while self.taking.left:
            ring, _ = await self.taking.take_up()
            return str(ring)
        return await self.taking.call(None, self.next_ring)


class Alarming:
    """Answers each call with the next number; of the calls named in *at*, only after the guest's handler has raised."""

    def __init__(self, at: set[int]) -> None:
        self.at, self.calls = at, 0
        self.raised = threading.Event()
        self._main = threading.get_ident()

    def next(self) -> str:
        self.calls += 1
        if self.calls in self.at:
            for _ in range(10):  # one that comes right before `recv` does not interrupt it: Python's own race
                signal.pthread_kill(self._main, signal.SIGUSR1)
                if self.raised.wait(1):
                    break
            assert self.raised.is_set()
            self.raised.clear()
        return f"<{self.calls}>"

    def handle(self, *_: object) -> None:
        self.raised.set()
        raise Alarm


@pytest.fixture
def alarming() -> Iterator[Callable[[set[int]], Alarming]]:
    before = signal.getsignal(signal.SIGUSR1)

    def make(at: set[int]) -> Alarming:
        made = Alarming(at)
        signal.signal(signal.SIGUSR1, made.handle)
        return made

    yield make
    signal.signal(signal.SIGUSR1, before)


def line(folder: Path, alarming: Alarming) -> Any:
    lies = {READ: lambda areas, at: alarming.next().encode(), FIRST_OWN: None, FIRST_OWN + 1: lambda _: alarming.next()}
    return lying(folder, lies, calls=CALLS)


READS: dict[str, Callable[[Any], bytes]] = {
    "read": lambda line: line.read(100),
    "read_some": lambda line: line.read_some(),
    "read_exactly": lambda line: line.read_exactly(3),
    "read_until": lambda line: line.read_until(b">"),
    "a call of its own": lambda line: line.ring().encode(),
}


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("at", [{2}, {1, 3, 4}, {3, 4, 5, 6}])
def test_what_a_call_took_whose_wait_a_signal_ended_is_there_for_the_next(
    tmp_path: Path, alarming: Callable[[set[int]], Alarming], how: str, at: set[int]
) -> None:
    host_side = alarming(at)
    with line(tmp_path, host_side) as host, guestd.attach_blocking(host.path, drivers=[LineDriver]) as guest:
        device, got, alarms = guest["thing"], b"", 0
        while len(got) < 24:
            try:
                got += READS[how](device)
            except Alarm:
                alarms += 1
        assert got[:24] == b"<1><2><3><4><5><6><7><8>"
        assert alarms == len(at)


class StubbornDriver(LineDriver):
    """Tries again, whatever happens."""

    async def insist(self) -> str:
        while True:
            try:
                return await self.ring()
            except BaseException:
                continue


@pytest.mark.parametrize("together", [False, True])
def test_no_driver_keeps_from_its_caller_what_a_signal_handler_raises(
    tmp_path: Path, alarming: Callable[[set[int]], Alarming], together: bool
) -> None:
    host_side = alarming({1, 2, 4})
    with line(tmp_path, host_side) as host, guestd.attach_blocking(host.path, drivers=[StubbornDriver]) as guest:
        driver: Any = guest.bind("thing")
        run = guest.gather if together else guest.run
        with pytest.raises(Alarm):
            run(driver.insist())  # which waits for the first answer after all, and for none that it did not ask for
        assert host_side.calls == 1
        with pytest.raises(Alarm):
            run(driver.insist())
        assert guest.run(driver.insist()) == "<3>"
