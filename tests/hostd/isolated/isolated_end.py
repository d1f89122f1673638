"""A device that does what a guest says, in a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from raw import LIVE, RawGuest, attached

import hostd
from hcall import numbers
from hcall.clock import Clock
from hostd.isolated.process import Process
from hostd.isolated.proxy import process_of
from hostd.machine.file import Machine

NEEDS_RESET = 64
ODD = '''
import os, signal, sys, time
from hcall.errors import BadArgument, Busy
from hostd.device import Config, Data, Device, Feature, Irq, Later, Property, Room, Saved, State, action, call

class Odd(Device):
    """Does what a guest says."""

    compatible = "test,odd"
    size = Config(int, 3)
    MORE, LESS = Feature(0), Feature(1)
    told, pair = Property(int), Property(tuple)
    rang = Irq()
    count, kept = State(int), State(int, kept=True)

    def start(self) -> None:
        self.offered &= ~self.LESS.mask
        self.told, self.pair = 0, (1, "two", b"3")
        self.later = Later()

    def check_keys(self) -> None:
        if self.size > 9:
            raise ValueError("that is large")

    def tick(self) -> None:
        if self.told:
            self.told += 1

    @call(again=True)
    def pid(self) -> int:
        return os.getpid()

    @call
    def bump(self) -> int:
        self.count += 1
        self.told = 10 * self.count
        self.rang()
        return self.count

    def read(self, into: Room, at: int) -> int:
        return into.put(b"in" * at)

    @call
    def upper(self, into: Room, data: Data) -> int:
        return into.put(data.get().upper())

    @call
    def again(self, into: Room, data: Data, times: int) -> int:
        """All pieces, in their order."""
        return into.put(b"".join(bytes(piece) for piece in data) * times)

    @call
    def begin(self) -> Later[int]:
        self.later = Later()
        return self.later

    @call
    def finish(self, value: int) -> None:
        self.later.done(value)

    @call
    def work(self, data: Data, seconds: float) -> Later[bytes]:
        def slowly() -> bytes:
            time.sleep(seconds)
            return data.get()
        return self.offload(slowly)

    @call
    def wrong(self, how: str) -> object:
        if how == "argument":
            raise BadArgument("not that")
        if how == "disk":
            raise OSError(28, "no room", "/a/file")
        if how == "type":
            return {1, 2}
        if how == "loop":
            while True:
                pass
        return [][1]

    @call
    def die(self, how: int) -> None:
        if how > 0:
            os.kill(os.getpid(), how)
        os._exit(-how)

    @call
    def say(self, text: str) -> None:
        print(text, flush=True)
        self.complain(f"{text}, too")

    @action
    def push(self, hard: bool = False) -> str:
        if hard:
            raise Busy("too hard")
        self.rang()
        return f"pushed {self.size}"
'''


def machine(folder: Path, **config: Any) -> Machine:
    (folder / "odd.py").write_text(ODD)
    table = {"model": "odd.py", "isolate": True, **config}
    return Machine.from_tables({"devices": {"odd": table, "rng": {"model": "rng"}}}, folder)


@contextlib.asynccontextmanager
async def served(folder: Path, clock: Clock | None = None, **config: Any) -> AsyncIterator[hostd.Host]:
    async with hostd.serve(machine(folder, **config), folder / "run", clock) as host:
        yield host


def process(host: hostd.Host, path: str = "/odd") -> Process:
    found = process_of(host.tree.find(path).device)
    assert found is not None
    return found


@contextlib.asynccontextmanager
async def opened(host: hostd.Host, regions: int = 0) -> AsyncIterator[tuple[RawGuest, int, dict[str, int]]]:
    async with attached(host, regions) as guest:
        handle, calls = await guest.open("/odd", features=1)
        yield guest, handle, calls


def counts(host: hostd.Host, path: str = "/odd") -> int:
    """How often vector 0 was raised on the open handles."""
    plugged = host.tree.find(path).plugged
    assert plugged is not None
    return sum(hold.counts[0] for hold in plugged.holds)  # type: ignore[attr-defined]  # of a guest's


def mapped(host: hostd.Host) -> int:
    """How many regions of guests the process has."""
    return Path(f"/proc/{process(host).pid}/maps").read_text().count("memfd:raw")


def lives(pid: int | None) -> bool:
    return Path(f"/proc/{pid}").exists()


async def negotiate(guest: RawGuest, handle: int) -> tuple[int, Any]:
    """Reset the device, and set it up again; the last answer."""
    for status in (0, *LIVE):
        answer = await guest.call(numbers.SET_STATUS, handle, status)
    return answer
