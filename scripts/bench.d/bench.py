"""Measure hostd beside its peers, in one run.

Ours and a peer take turns in blocks of about 20 ms, since the speed of a machine changes from second to second (fio is
a process of its own: its turns are whole runs).  Shown are the best quartile of the blocks and, in brackets, their
median; the ratio is that of the best quartiles.  The daemon is `hostd serve`, the guests are the public clients: every
check, limit and slot of daily use is in the way.  Across cores both spin (docs/service.md), and a row tells what two
cores of this machine are worth: those of one kind of core share much of it.

The rows named scale have no peer but our own daemon with less to do, or none: see scale.py.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import beside
import folders
import meters
import net
import peers
import scale
import streams
import uvloop
from meters import Meter
from outcome import CROSS, SAME, SCALE, Outcome, Row, progress, show, value

ROUNDS: Final = 5
TURNS: Final = 8  # blocks of each meter in a round
LONG_SECONDS: Final = 0.5  # a run of fio, and as long of ours
QUICK_TURNS, QUICK_LONG_SECONDS = 3, 0.3

_ECHO, _C, _ZMQ = ("uvloop echo",), ("C ping-pong",), ("pyzmq",)
_BOTH = ("blocking: 4k 32", "asyncio: 4k 32")
ROWS: Final = (
    Row("core NOP round trip, {} client", ("asyncio: nop",), _ECHO, "us", 1.6, 0.45),
    Row("rng 16 bytes, {} client", ("asyncio: rng",), _ECHO, "us", 2.0),
    Row("core NOP round trip, {} client", ("blocking: nop",), _C, "us", 2.1, 0.5),
    Row("bind and unbind of one device, {} client", ("blocking: bind",), (), "us", None),
    Row("bind and unbind of one device, {} client", ("asyncio: bind",), (), "us", None),
    Row("rng 16 bytes at depth 32, {} client", ("blocking: rng 32",), _ZMQ, "calls/s", 3.7),
    Row("rng 16 bytes at depth 32, {} client", ("asyncio: rng 32",), ("zmq.asyncio",), "calls/s", 10),
    Row("rng depth 32, {} client to blocking", ("asyncio: rng 32",), _ZMQ, "calls/s", None),
    Row("4 KiB block read, depth 1, {} client", ("blocking: 4k",), ("nbdkit: 4k",), "us", 0.8, 0.5),
    Row("4 KiB block read, depth 32, {} client", _BOTH, ("nbdkit: 4k 32",), "calls/s", 2.3, 0.75),
    Row("4 KiB block read, depth 32, beside Python", _BOTH, ("nbdkit Python: 4k 32",), "calls/s", 3.5),
    Row("4 KiB block read over a ring, depth 32", ("ring: 4k 32",), ("nbdkit: 4k 32",), "calls/s", 2.3, 0.9),
    Row("the same beside Python", ("ring: 4k 32",), ("nbdkit Python: 4k 32",), "calls/s", 4),
    Row("the same beside the channel", ("ring: 4k 32",), ("blocking: 4k 32",), "calls/s", None),
    Row("1 MiB sequential read, {} client", ("blocking: 1M",), ("nbdkit: 1M", "nbdkit at 4: 1M"), "MiB/s", 3, 1.6),
    Row("NBD export, 4 KiB at depth 32 with fio", ("export: 4k 32",), ("nbdkit: 4k 32",), "calls/s", 0.9),
    Row("NBD export, depth 32, beside Python", ("export: 4k 32",), ("nbdkit Python: 4k 32",), "calls/s", 1.8),
    *beside.ROWS,
    *streams.ROWS,
    *net.ROWS,
    *folders.ROWS,
)
# What takes turns with what: some 20 ms blocks of each in a round, or one turn of LONG_SECONDS.
GROUPS: Final = (
    ("uvloop echo", "asyncio: nop", "asyncio: rng"),
    ("C ping-pong", "blocking: nop"),
    ("blocking: bind", "asyncio: bind"),
    ("pyzmq", "blocking: rng 32", "asyncio: rng 32", "zmq.asyncio"),
    *streams.GROUPS,
    *net.GROUPS,
    *beside.GROUPS,
)
LONG_GROUPS: Final = (
    ("nbdkit: 4k", "blocking: 4k"),
    ("nbdkit: 4k 32", "nbdkit Python: 4k 32", "export: 4k 32", "blocking: 4k 32", "asyncio: 4k 32", "ring: 4k 32"),
    ("nbdkit: 1M", "blocking: 1M", "nbdkit at 4: 1M"),
    *folders.GROUPS,
    *beside.LONG_GROUPS,
)


class Stage:
    """The processes at the other end, those that the rows need; *absent* says why one is not there."""

    def __init__(self, stack: contextlib.ExitStack, rows: Sequence[Row], folder: Path, core: int, spin: bool) -> None:
        self.folder, self.core, self.spin = folder, core, spin
        self.wanted = {key for row in rows for key in (*row.ours, *row.peer)}
        self.absent: dict[str, str] = {}
        self.guests = stack.enter_context(peers.host(core, folder, spin))
        self.echo = stack.enter_context(peers.echo(core, "uvloop", folder)) if self._wants("uvloop echo") else None
        self.pingpong = self._compile() if self._wants("C ping-pong", peers.missing("gcc")) else None
        no_zmq = None if importlib.util.find_spec("zmq") else "pyzmq not installed"
        self.zmq = stack.enter_context(peers.echo(core, "zmq", folder)) if self._wants("zmq", no_zmq) else None
        no_fio = peers.missing("nbdkit", "fio")
        self.disks: dict[str, str] = {}  # the addresses for fio
        if self._wants("nbdkit", no_fio):
            self.disks["nbdkit"] = stack.enter_context(peers.nbdkit(core, folder))
        if self._wants("nbdkit Python", no_fio or peers.no_plugin()):
            self.disks["nbdkit Python"] = stack.enter_context(peers.nbdkit_python(core, folder))
        if self._wants("export", no_fio):
            self.disks["export"] = stack.enter_context(peers.export(core, folder, self.guests, spin))

    def _wants(self, peer: str, reason: str | None = None) -> bool:
        """Whether a row needs *peer*, and there is no *reason* why not."""
        if not any(peer in key for key in self.wanted):
            return False
        if reason is not None:
            self.absent[peer] = reason
        return reason is None

    def _compile(self) -> Path:
        program = self.folder / "pingpong"
        source = Path(__file__).with_name("pingpong.c")
        subprocess.run(["gcc", "-O2", "-Wall", "-o", program, source], check=True)
        return program

    async def meters(self, stack: contextlib.AsyncExitStack, own: int) -> dict[str, Meter]:
        """All that are wanted and can be; this process is on the core *own*."""
        found = meters.blocking_meters(stack, self.guests, self.spin)
        found |= await meters.asyncio_meters(stack, self.guests, self.spin)
        found |= meters.ring_meters(stack, self.guests, self.spin)
        if self.echo is not None:
            found |= await meters.echo_meters(stack, self.echo)
        if self.pingpong is not None:
            found |= meters.pingpong_meters(stack, self.pingpong, self.core, own)
        if self.zmq is not None:
            found |= meters.zmq_meters(stack, self.zmq)
        for who, uri in self.disks.items():
            found |= meters.nbd_meters(who, uri, self.folder, own)
        if not self.wanted.isdisjoint(streams.KEYS):
            found |= await streams.stream_meters(stack, self.folder, self.core, self.spin)
        found |= await net.net_meters(stack, self.folder, self.core, self.spin, self._wants)
        if not self.wanted.isdisjoint(folders.KEYS):
            found |= await folders.folder_meters(stack, self.core, own, self.spin)
        if not self.wanted.isdisjoint(beside.KEYS):
            found |= beside.reads_meters(stack, self.guests, own, self.spin)
        if own != self.core:
            found |= beside.loop_meters(stack, self.core)
        return {key: meter for key, meter in found.items() if key in self.wanted}


async def measure(stage: Stage, regime: str, own: int, quick: bool) -> dict[str, list[float]]:
    """The values of all meters, by turns; this process is on the core *own*."""
    turns, seconds = (QUICK_TURNS, QUICK_LONG_SECONDS) if quick else (TURNS, LONG_SECONDS)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(peers.pinned(own))
        found = await stage.meters(stack, own)
        for meter in found.values():
            await meter.warm_up()
        for number in range(ROUNDS):
            progress(f"{regime}: round {number + 1} of {ROUNDS}")
            for group in GROUPS:
                for _ in range(turns):
                    for meter in _in(group, found):
                        await meter.turn(0)
            for group in LONG_GROUPS:
                for meter in _in(group, found):
                    await meter.turn(seconds)
        progress("")
        return {key: meter.values for key, meter in found.items()}


def _in(group: Iterable[str], found: dict[str, Meter]) -> Iterator[Meter]:
    return (found[key] for key in group if key in found)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser("scripts/bench", description=__doc__, epilog=(
        "Exit status 0 means that measuring worked: a target that was missed is shown, and is no error."),
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows to FILE, - for stdout, as JSON")
    parser.add_argument("--only", metavar="NAME", default="", help="only rows with NAME in their name")
    parser.add_argument("--quick", action="store_true", help="shorter rounds: a first look")
    given = parser.parse_args()
    every = (*ROWS, *scale.ROWS)
    rows = [row for row in every if any(given.only.lower() in name.lower() for name in row.names)]
    if not rows:
        names = "\n  ".join(name for row in every for name in row.names)
        parser.error(f"no row has {given.only!r} in its name; there are\n  {names}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and end what was started
    try:
        outcomes, notes = run(rows, given.quick)
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit(f"scripts/bench: {error}")
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    text = json.dumps([outcome.as_json() for outcome in outcomes], indent=1) + "\n"
    if given.json == Path("-"):
        sys.stdout.write(text)
        return
    if given.json is not None:
        given.json.write_text(text)
    show(outcomes, notes, given.quick)


def run(rows: Sequence[Row], quick: bool) -> tuple[list[Outcome], list[str]]:
    """Measure *rows*; notes on what could not be."""
    cores = sorted(os.sched_getaffinity(0))
    by_turns, many = [row for row in rows if row in ROWS], [row for row in rows if row in scale.ROWS]
    found: dict[str, dict[str, list[float]]] = {}  # by regime
    absent: dict[str, str] = {}
    notes: list[str] = []
    # /tmp may be in memory; the disk should be on a disk.
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp")))
        if by_turns:
            for regime, own in {SAME: cores[0], CROSS: cores[1] if len(cores) > 1 else None}.items():
                found[regime] = {}
                if own is None:
                    notes.append("there is one core only: nothing was measured across cores")
                    continue
                with contextlib.ExitStack() as of_regime:
                    place = folder / regime
                    place.mkdir()
                    stage = Stage(of_regime, rows_of(regime, by_turns), place, cores[0], regime == CROSS)
                    found[regime] = uvloop.run(measure(stage, regime, own, quick))
                absent |= stage.absent
            notes += [f"{peer} was not measured: {reason}" for peer, reason in absent.items()]
        if many:
            crowds = scale.Scale(cores[0], folder, quick)
            found[SCALE] = uvloop.run(crowds.measure(many))
            notes += crowds.notes
    outcomes = [
        Outcome(row, regime, value(row.ours, values, row.unit), value(row.peer, values, row.unit))
        for regime, values in found.items()
        for row in (many if regime == SCALE else rows_of(regime, by_turns))
    ]
    return outcomes, notes


def rows_of(regime: str, rows: Sequence[Row]) -> Sequence[Row]:
    """*rows*, and what belongs beside them."""
    return [*rows, *beside.CROSS_ROWS] if regime == CROSS else rows


if __name__ == "__main__":
    main()
