"""What many guests and many devices cost: rows of their own, on daemons of their own.

All is on one core, as with the other rows that have a target.  What is compared is timed by turns: a daemon with many
guests and one with none, a machine of many devices and one of ten.  The many guests are in other processes, which do
nothing while something else is timed.

`scale.py crowd SOCKET` and `scale.py load SOCKET` are such processes; a line on standard input says what to do.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import json
import math
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import peers
import uvloop
from meters import DEPTH, Meter
from outcome import Row, progress

import guestd

FEW: Final = 200  # guests
MANY: Final = 1000  # guests, or devices
DEVICES: Final = 10  # of a machine that is small
ON_ONE_BUS: Final = 30  # as many as a PCI bus has beside its bridge, about
LOADS: Final = 8  # guests at full load
PROCESSES: Final = 4  # that share a crowd: a guest has five open files, and a process often no more than 4096
FDS: Final = 3 * (MANY + 1) + 128  # of the daemon: a socket, an fd lane and memory for each guest, and its own

RSS, CROWDED, EMPTY, RUSH = "crowd: RSS", "1,000 idle: nop", "no others: nop", "crowd: open"
LARGE, SMALL = "1,000 devices: probe", "10 devices: probe"
SCANNED, BUS = "1,000 devices: pci", "30 devices: pci"
SLOWEST, FASTEST = "slowest: rng 32", "fastest: rng 32"
ROWS: Final = (
    Row("scale: daemon's RSS, each of 1,000 guests", (RSS,), (), "KiB", 6),
    Row("scale: NOP round trip, 1,000 idle guests", (CROWDED,), (EMPTY,), "us", 1.1),
    Row("scale: probe of 1,000 devices, each", (LARGE,), (SMALL,), "us", 1.3),
    Row("scale: pci scan of 1,000 devices, each", (SCANNED,), (BUS,), "us", 1.1),
    Row("scale: attach, probe, open, 1,000 at once", (RUSH,), (), "s", 5),
    Row("scale: 8 guests at full load, slowest", (SLOWEST,), (FASTEST,), "calls/s", 0.8),
)


class Scale:
    """Measures on *core*, with daemons in *folder*; notes on what could not be."""

    def __init__(self, core: int, folder: Path, quick: bool) -> None:
        self._core, self._folder = core, folder
        self._turns, self._load_seconds = (40, 1.0) if quick else (100, 2.0)
        self.notes: list[str] = []

    async def measure(self, rows: Sequence[Row]) -> dict[str, list[float]]:
        """The values of all meters of *rows*."""
        wanted = {key for row in rows for key in row.ours}
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard < FDS and not wanted.isdisjoint((RSS, CROWDED, RUSH)):
            self.notes.append(f"{MANY:,} guests were not measured: the limit of open files is {hard}, not {FDS}")
            wanted -= {RSS, CROWDED, RUSH}
        parts = {
            RSS: self._crowd,
            CROWDED: self._crowd,
            LARGE: self._probe,
            SCANNED: self._scan,
            RUSH: self._rush,
            SLOWEST: self._load,
        }
        found: dict[str, list[float]] = {}
        for part in dict.fromkeys(parts[key] for key in parts if key in wanted):
            with contextlib.ExitStack() as stack:
                stack.enter_context(peers.pinned(self._core))
                found |= await part(stack)
        progress("")
        return found

    async def _crowd(self, stack: contextlib.ExitStack) -> dict[str, list[float]]:
        """What guests at rest take of the daemon's memory, and of the time of another one."""
        crowded, pid = self._daemon(stack, "crowded")
        empty, _ = self._daemon(stack, "empty")
        progress(f"scale: {MANY:,} guests")
        crowd = _Processes(stack, PROCESSES, "crowd", crowded)
        first = self._come(crowd, FEW)
        before = _memory(pid)
        if math.inf in (first, self._come(crowd, MANY - FEW)):
            return {}  # a note says why
        each = (_memory(pid) - before) / (MANY - FEW)
        found = await self._by_turns({CROWDED: _nop(stack, crowded), EMPTY: _nop(stack, empty)})
        crowd.tell("0 0")  # raises if one of them did not stay
        return {RSS: [each], **found}

    async def _probe(self, stack: contextlib.ExitStack) -> dict[str, list[float]]:
        """A walk through the tree; seconds for each device."""
        large, _ = self._daemon(stack, "large", MANY)
        small, _ = self._daemon(stack, "small")
        return await self._by_turns({LARGE: _walk(stack, large, MANY), SMALL: _walk(stack, small, DEVICES)})

    async def _scan(self, stack: contextlib.ExitStack) -> dict[str, list[float]]:
        """The same as on a PCI bus, and behind 32 bridges."""
        large, _ = self._daemon(stack, "far", MANY)
        small, _ = self._daemon(stack, "near", ON_ONE_BUS)
        far, near = _walk(stack, large, MANY, "pci"), _walk(stack, small, ON_ONE_BUS, "pci")
        return await self._by_turns({SCANNED: far, BUS: near})

    async def _rush(self, stack: contextlib.ExitStack) -> dict[str, list[float]]:
        """The slowest of all that come at once, the work of their own processes included."""
        path, _ = self._daemon(stack, "rush")
        progress(f"scale: {MANY:,} guests at once")
        return {RUSH: [self._come(_Processes(stack, PROCESSES, "crowd", path), MANY)]}

    async def _load(self, stack: contextlib.ExitStack) -> dict[str, list[float]]:
        """Guests that call as fast as they can.  On one core the kernel favours none: what differs is the daemon's."""
        path, _ = self._daemon(stack, "load")
        guests = _Processes(stack, LOADS, "load", path)
        progress(f"scale: {LOADS} guests at full load")
        start = time.monotonic() + 0.1  # when the order has come to all
        calls = guests.tell(f"{start} {start + self._load_seconds}")
        return {SLOWEST: [self._load_seconds / min(calls)], FASTEST: [self._load_seconds / max(calls)]}

    def _daemon(self, stack: contextlib.ExitStack, name: str, devices: int = DEVICES) -> tuple[Path, int]:
        # A thousand guests lend 64 GiB, of which they touch nothing.
        machine = "[limits]\nunfilled = 1099511627776\n"
        machine += "".join(f'[devices.rng{number}]\nmodel = "rng"\n' for number in range(devices))
        return stack.enter_context(peers.daemon(self._core, self._folder, name, machine))

    def _come(self, crowd: _Processes, count: int) -> float:
        """*count* more guests at once: the seconds until the last has its device; one that is refused never has it."""
        answers = crowd.tell(f"{count // PROCESSES} {time.monotonic()}")
        refused = collections.Counter(why for _, refusals in answers for why in refusals)
        self.notes += [f"of {count:,} guests at once {number} were refused: {why}" for why, number in refused.items()]
        return math.inf if refused else max(slowest for slowest, _ in answers)

    async def _by_turns(self, found: dict[str, Meter]) -> dict[str, list[float]]:
        for meter in found.values():
            await meter.warm_up()
        for number in range(self._turns):
            progress(f"scale: {' and '.join(found)}, turn {number + 1} of {self._turns}")
            for meter in found.values():
                await meter.turn(0)
        return {key: meter.values for key, meter in found.items()}


class _Processes:
    """This file, *count* times, with guests of the daemon at *path*."""

    def __init__(self, stack: contextlib.ExitStack, count: int, mode: str, path: Path) -> None:
        command = (sys.executable, __file__, mode, str(path))
        self._all = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(count)
        ]
        self._answers()  # they are there

    def tell(self, order: str) -> list[Any]:
        """Give *order* to each process; what each answers.  Raises RuntimeError."""
        for process in self._all:
            stdin = process.stdin
            assert stdin is not None
            stdin.write(f"{order}\n")
            stdin.flush()
        return self._answers()

    def _answers(self) -> list[Any]:
        answers = []
        for process in self._all:
            stdout = process.stdout
            assert stdout is not None
            line = stdout.readline()
            if not line:
                raise RuntimeError("a process of guests ended before its time")
            answers.append(json.loads(line))
        return answers


def _memory(pid: int) -> int:
    """Bytes of RSS that are the process's own: RssFile is its program, RssShmem the memory that guests lend."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise RuntimeError("this kernel does not tell RssAnon")  # Linux 4.5 does
    return int(found[1]) * 1024


def _nop(stack: contextlib.ExitStack, path: Path) -> Meter:
    guest = stack.enter_context(guestd.attach_blocking(path))

    def nop(n: int) -> None:
        for _ in range(n):
            guest.nop()

    return Meter(nop)


def _walk(stack: contextlib.ExitStack, path: Path, devices: int, prober: str = "tree") -> Meter:
    guest = stack.enter_context(guestd.attach_blocking(path, prober=prober))

    def walk(n: int) -> None:
        for _ in range(n // devices):
            guest.run(guest.walk())

    return Meter(walk, devices)


async def crowd_process(path: str) -> None:
    """Guests that come when they are told to, "COUNT START", and stay: each opens a device that it has found."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    async def come(number: int) -> float:
        guest = await stack.enter_async_context(guestd.attach(path))
        _, *devices = await guest.walk()
        await guest.bind_found(devices[number % len(devices)])
        return time.monotonic()

    async with contextlib.AsyncExitStack() as stack:
        for count, start in _orders():
            outcome = await asyncio.gather(*map(come, range(int(count))), return_exceptions=True)
            there = [when - start for when in outcome if isinstance(when, float)]
            _say((max(there, default=0), [repr(why) for why in outcome if isinstance(why, BaseException)]))


def load_process(path: str) -> None:
    """A guest that calls as fast as it can when it is told to, "START END"."""
    with guestd.attach_blocking(path) as guest:
        rng = cast(Any, guest.bind("rng0"))

        async def calls(end: float) -> int:
            count = 0
            while time.monotonic() < end:
                await rng.getrandom(16)
                count += 1
            return count

        for start, end in _orders():
            time.sleep(max(0, start - time.monotonic()))
            _say(sum(guest.gather(*(calls(end) for _ in range(DEPTH)))))


def _orders() -> Iterator[tuple[float, float]]:
    """The two numbers of each line that comes, once the bench knows that this process is there."""
    _say("there")
    for line in iter(sys.stdin.readline, ""):
        first, second = map(float, line.split())
        yield first, second


def _say(answer: object) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal; who started this ends it
    mode, socket = sys.argv[1:]
    if mode == "crowd":
        uvloop.run(crowd_process(socket))
    else:
        load_process(socket)
