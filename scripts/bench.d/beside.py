"""What somebody notices of others at work: a guest of one with 32 reads under way, a loop of one on the other core.

`beside.py reads SOCKET` and `beside.py busy` are these others.  They are stopped except for the turns in which they
are to be noticed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import peers
from meters import DEPTH, Meter, buffers, reader
from outcome import Row

import guestd

_READS, _ECHO = "blocking: nop beside reads", "uvloop echo"
_LOOPS, _LOOP = "two loops: busy", "one loop: busy"
KEYS: Final = {_READS}
# What it was when each call was a message: 5634c75, with these meters, the medians of five runs on a busy machine.
_BEFORE, _BEFORE_ACROSS = 23.9, 2.6
ROWS: Final = (
    Row("NOP round trip beside 32 reads of another", (_READS,), (_ECHO,), "us", round(1.05 * _BEFORE, 1),
        round(1.05 * _BEFORE_ACROSS, 1), note="the targets are 1.05 of what 5634c75 has, where each call is a "
        f"message: {_BEFORE} on one core, {_BEFORE_ACROSS} on two"),
)  # fmt: skip
#: Across cores only, beside all that is measured there: what this machine's second core is worth.
CROSS_ROWS: Final = (Row("a busy Python loop beside one on the other core", (_LOOPS,), (_LOOP,), "us", None),)
GROUPS: Final = ((_LOOP, _LOOPS),)
LONG_GROUPS: Final = ((_READS,),)  # who has the core when is different in every block
_STEPS: Final = 1000  # of a loop, for each of a meter's


class _Other:
    """This file as a process on *core*, which works only while somebody looks."""

    def __init__(self, stack: contextlib.AsyncExitStack, core: int, *command: object) -> None:
        with peers.pinned(core):
            self._process = subprocess.Popen(
                [sys.executable, __file__, *map(str, command)], stdout=subprocess.PIPE, text=True
            )
        stack.callback(self._process.wait)
        stack.callback(self._process.kill)  # who is stopped hears nothing else
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError(f"{' '.join(map(str, command))} does not start")
        self._process.send_signal(signal.SIGSTOP)

    def beside(self, work: Callable[[int], None]) -> Meter:
        """Of *work* while the other one works."""

        async def run(n: int) -> float:
            with self._working():
                start = time.perf_counter()
                work(n)
                return time.perf_counter() - start

        return Meter(run)

    @contextlib.contextmanager
    def _working(self) -> Iterator[None]:
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)


def reads_meters(stack: contextlib.AsyncExitStack, guests: Path, own: int, spin: bool) -> dict[str, Meter]:
    """Of round trips of a guest on the core *own*, on which the other guest is, too."""
    guest = stack.enter_context(guestd.attach_blocking(guests, spin=spin))
    other = _Other(stack, own, "reads", guests, int(spin))

    def nop(n: int) -> None:
        for _ in range(n):
            guest.nop()

    return {_READS: other.beside(nop)}


def loop_meters(stack: contextlib.AsyncExitStack, core: int) -> dict[str, Meter]:
    """Of a loop on the core of this process, with one on *core* and without."""
    return {_LOOP: Meter(_loop), _LOOPS: _Other(stack, core, "busy").beside(_loop)}


def _loop(n: int) -> None:
    for _ in range(n * _STEPS):
        pass


def _read(path: str, spin: str) -> None:
    """For ever."""
    with guestd.attach_blocking(path, spin=bool(int(spin))) as guest:
        disk = guest.bind("disk4")
        print("there", flush=True)
        guest.gather(*(reader(disk, buffer)(sys.maxsize) for buffer in buffers(guest, DEPTH)))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal; who started this ends it
    if sys.argv[1] == "reads":
        _read(*sys.argv[2:])
    else:
        print("there", flush=True)
        while True:
            _loop(os.cpu_count() or 1)
