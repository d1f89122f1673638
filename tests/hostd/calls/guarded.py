"""A host with a guard, in a process of its own: `python guarded.py uvloop DIRECTORY`, until its standard input ends."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import uvloop

import hostd
from hostd.calls.overrun import guard

SECOND = 0.3  # of the guard's, which is a second in a daemon

MACHINE = {"devices": {"rng": {"model": "rng"}, "heavy": {"model": "heavy.py"}}}


async def main(directory: str) -> None:
    machine = hostd.Machine.from_tables(MACHINE, Path(__file__).parent)
    async with hostd.serve(machine, directory):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    loops = {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    with guard(), asyncio.Runner(loop_factory=loops[sys.argv[1]]) as runner:
        signal.setitimer(signal.ITIMER_REAL, SECOND, SECOND)
        runner.run(main(sys.argv[2]))
