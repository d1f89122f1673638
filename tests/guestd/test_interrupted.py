"""A signal handler that raises, at any moment: before every single step of the interpreter in the blocking client."""

from __future__ import annotations

import dis
import itertools
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest
from desk import SLOTS
from raw import in_thread, served

import guestd
import hostd
from guestd.clients import blocking
from guestd.driver import Driver, Op
from hcall.session import bundles
from hcall.session import guest as session
from hostd.device import Device, call
from hostd.guests.turns import TURN
from hostd.machine.file import DeviceSpec

# Where the handler raises.
LINK: Final = (blocking.__file__, str(Path(blocking.__file__).with_name("plain")), session.__file__, bundles.__file__)
GUEST: Final = (str(Path(blocking.__file__).parent), session.__file__, bundles.__file__)
NOP: Final = dis.opmap["NOP"]


class Stop(BaseException):
    """What it raises."""


class Tally(Device):
    """Counts the calls that reach it."""

    compatible = "test,tally"

    def start(self) -> None:
        self.counts: Counter[int] = Counter()

    @call
    def bump(self, key: int) -> int:
        self.counts[key] += 1
        return self.counts[key]

    @call
    def knock(self, key: int) -> int:
        return self.bump(key)


class TallyDriver(Driver):
    compatible = ("test,tally",)
    bump = Op[[int], int]()
    knock = Op[[int], int]()


# Of a coroutine that was given away and not begun, of a socket that was made and not yet kept.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited"),
    pytest.mark.filterwarnings("ignore:unclosed <socket"),
]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, DeviceSpec("tally", "", Tally, {}), slots=SLOTS) as host:
        yield host


def interrupted(work: Callable[[], object], steps: int, files: tuple[str, ...] = GUEST) -> bool:
    """Do *work*, and raise before so many steps of the client's; whether it came to that."""
    left = steps

    def trace(frame: FrameType, event: str, arg: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(files):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and frame.f_code.co_code[frame.f_lasti] != NOP:  # which is within no `try`, and no moment
            left -= 1
            if left < 0:
                sys.settrace(None)
                raise Stop
        return trace

    sys.settrace(trace)
    try:
        work()
    except Stop:
        return True
    finally:
        sys.settrace(None)
    return False


def attach(host: hostd.Host) -> Any:
    return guestd.attach_blocking(host.socket, drivers=[TallyDriver], memory=4096)


@pytest.mark.parametrize("turn", [TURN, -1.0], ids=["answered at once", "answered one by one"])
async def test_calls_have_their_effect_once_and_the_next_ones_are_made(
    host: hostd.Host, monkeypatch: pytest.MonkeyPatch, turn: float
) -> None:
    """More than there are slots, so that some wait; those whose answer was given have certainly been made."""
    monkeypatch.setattr("hostd.guests.guest.TURN", turn)
    keys = itertools.count()
    made: set[int] = set()

    def work() -> int:
        with attach(host) as guest:
            driver: Any = guest.bind("tally")

            async def bumps(call: Callable[[int], Awaitable[int]]) -> None:
                for key in itertools.islice(keys, 2):
                    assert await call(key) == 1
                    made.add(key)

            sorts = driver.bump, driver.bump, driver.knock  # two of them side by side are one message
            for steps in itertools.count(0, 17):
                several = [bumps(call) for call in sorts * 3]  # six messages
                stopped = interrupted(partial(guest.gather, *several), steps)
                for each in several:
                    each.close()  # those that were not even begun
                if not stopped:
                    break
                key = next(keys)
                assert guest.run(driver.bump(key)) == 1
                made.add(key)
            return steps

    assert await in_thread(host, work, within=60) > 1000
    tally = host.tree.find("/tally").device
    assert isinstance(tally, Tally)
    assert set(tally.counts.values()) == {1} and made <= tally.counts.keys()


async def test_a_call_may_be_waited_for_again(host: hostd.Host) -> None:
    def work() -> int:
        with attach(host) as guest:
            driver: Any = guest.bind("tally")
            for steps in itertools.count():
                pending = guest.call(driver.dev.handle, driver.dev.calls["bump"], (steps,))
                stopped = interrupted(pending.result, steps)
                assert pending.result() == 1
                if not stopped:
                    break
            return steps

    assert await in_thread(host, work, within=30) > 100


async def test_an_interrupted_bind_is_undone_or_done(host: hostd.Host) -> None:
    def work() -> int:
        with attach(host) as guest:
            for steps in itertools.count(0, 3):
                stopped = interrupted(lambda: guest.bind("tally"), steps)
                assert guest["tally"].bump(steps) == 1  # it is not busy
                guest.run(guest.unbind("tally"))
                if not stopped:
                    break
            return steps

    assert await in_thread(host, work, within=60) > 500
    assert not host.tree.find("/tally").opens


async def test_interrupted_lending_leaves_no_memory_behind(host: hostd.Host) -> None:
    def work() -> None:
        with attach(host) as guest:
            for steps in itertools.count():
                if not interrupted(lambda: guest.run(guest.grow(4096)), steps, LINK):
                    break
            guest.nop()
            (account,) = host.guests.by_token.values()
            regions.append(len(account.account.memory.regions))

    regions: list[int] = []
    await in_thread(host, work, within=30)
    assert regions[0] <= 3  # the first, and what got through
