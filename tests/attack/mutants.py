"""Takes mends out of a copy of the project, one at a time: the attack that each was made for has to see it.

A mend that can be taken out unseen is not tested.  `scripts/torture --mutants` tries all.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import hostd

from .room import Theatre, load

ROOT: Final = Path(__file__).parents[2]
_COPIED: Final = ("hostd", "guestd", "protocol", "tests")
_SECONDS: Final = 3.0  # that an attack goes on which does so for a time
_SEED: Final = 1
_AGAIN: Final = 2  # times that an attack on the project as it is is repeated, if somebody waits for too long
_TIMES: Final = 3  # as long as in the project as it is: with that a mend is missed, whatever the machine does


class Mutant(NamedTuple):
    """The project without one of its mends."""

    name: str
    file: str
    old: str  # is there once
    new: str
    attack: str  # which sees that
    by: str = ""  # is part of what it tells; else it tells that somebody has to wait

    def applied(self, text: str) -> str:
        """*text* of the file without the mend.  Raises ValueError if it is not, or not only once, there."""
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"mutant {self.name!r}: what it takes out is {count} times in {self.file}")
        return text.replace(self.old, self.new)


MUTANTS: Final = (
    Mutant(
        "turns last for a second", "hostd/guests/turns.py",
        "TURN: Final = 0.0005 ", "TURN: Final = 1.0 ",
        "acks of many sessions",
    ),
    Mutant(
        "ACKs take no time of a turn", "hostd/lanes/socket/lane.py",
        "if now > until:", "if now > until and len(messages[-1]) == 7:",
        "acks of many sessions",
    ),
    Mutant(
        "the calls of a bundle take no time of a turn", "hostd/lanes/socket/bundle.py",
        "            if now > until:", "            if now > until + 1:",
        "bundles of many sessions",
    ),
    Mutant(
        "to close a handle looks at all others", "hostd/tree/plugged.py",
        "        del self.holds[hold]\n", "        self.holds = {each: None for each in self.holds if each != hold}\n",
        "many handles then gone", "is not given back",
    ),
    Mutant(
        "a user may have all that there is", "hostd/calls/shares.py",
        "        bound, has = self._of.bounds[what], self.used[what]\n",
        "        bound, has = self._of.bounds[what], 0\n"
        "        bound = bound._replace(share=bound.total, one=bound.total)\n",
        "connects", "somebody new is not let in",
    ),
    Mutant(
        "descriptors of memory are not counted", "hostd/calls/memory.py",
        "self._purse.take(DESCRIPTORS, 1 + region.is_watched)", "self._purse.owe(DESCRIPTORS, 0)",
        "descriptors exhausted", "no answer for",
    ),
    Mutant(
        "descriptors are closed by the loop", "hostd/lanes/socket/porter.py",
        "self.carry(whose, partial(close, [fd]))", "close([fd])",
        "lingering sockets in hello",
    ),
    Mutant(
        "files of a guest are closed by the loop", "hostd/lanes/socket/porter.py",
        "self.carry(whose, partial(close, [fd]))", "close([fd])",
        "a close that never returns in hello",
    ),
    Mutant(
        "descriptors of the lane are closed by the loop", "hostd/lanes/socket/lane.py",
        "self._guest.carry(partial(close, [fd]), lambda _: None)", "close([fd])",
        "a close that never returns on the lane",
    ),
    Mutant(
        "a disk is used by the loop wherever it lies", "hostd/devices/block.py",
        "return 0 if filesystem(self._fd) == TMPFS else None", "return 0",
        "a slow disk",
    ),
    Mutant(
        "memory is unmapped by the loop", "hostd/lanes/socket/porter.py",
        "self.carry(_MEMORY, memory.unmap, tried)", "tried(memory.unmap())",
        "large memory of a guest that goes",
    ),
    Mutant(
        "nobody looks for missing pages", "hostd/calls/memory.py",
        "self.missing = max(self.missing, info.st_size - info.st_blocks * _BLOCK)", "self.missing = 0",
        "sparse memory of many guests", "refused",
    ),
    Mutant(
        "long work is not cut into parts", "hostd/model/later.py",
        "SLICE_SECONDS: Final = 0.0005 ", "SLICE_SECONDS: Final = 10.0 ",
        "net flood to all ports",
    ),
    Mutant(
        "all that was written is looked at in one call", "hostd/devices/ppp.py",
        "    part = 512 ", "    part = 1 << 20 ",
        "ppp frames",
    ),
    Mutant(
        "a read of rng gives all that is asked for", "hostd/devices/rng.py",
        "_AT_ONCE = 16 * 1024 ", "_AT_ONCE = 1 << 30 ",
        "scattered reads",
    ),
    Mutant(
        "a wrong name is compared with all", "protocol/hcall/text.py",
        "_COMPARED: Final = 8 ", "_COMPARED: Final = 1000 ",
        "find of wrong names",
    ),
    Mutant(
        "nobody looks what sort an argument is", "hostd/tree/entries.py",
        "if len(args) != len(kinds) or (*map(type, fits),) != kinds:", "if len(args) != len(kinds):",
        "mutated frames", "INTERNAL",
    ),
    Mutant(
        "the interpreter is let go as Python does", "hostd/service/process.py",
        "    sys.setswitchinterval(_SWITCH_SECONDS)\n", "",
        "acks of one session",
    ),
    Mutant(
        "workers do not ask whether they are wanted", "hostd/model/workers.py",
        "while not unwanted.is_set():", "while True:",
        "killed amid large reads", "is not free after",
    ),
    Mutant(
        "nobody sees that a guest's process is gone", "hostd/lanes/socket/lane.py",
        "return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))", "return False",
        "killed guests", "is not free after",
    ),
    Mutant(
        "complaints are told each time", "hostd/tree/complaints.py",
        "            self._known[sort].more += 1\n        elif", "            return True\n        elif",
        "refused hellos", "bytes of log",
    ),
    Mutant(
        "the log is written by the loop", "hostd/service/process.py",
        "        with apart():", "        with contextlib.nullcontext():",
        "log that nobody reads",
    ),
    Mutant(
        "at the bound of watchdogs the first one fires", "hostd/devices/watchdog.py",
        "raise Busy(f\"{_LEFT} guests have closed the watchdog and left it running: no more can\")",
        "next(iter(self._left.values())).expire()",
        "watchdogs of others", "of the canary failed",
    ),
    Mutant(
        "a peer that has failed is told of once", "hostd/backings/parts/line.py",
        "            self._port.send(data)\n            self._look_again()\n", "            self._port.send(data)\n",
        "rude peers of a tty", "the next peer is not heard",
    ),
)  # fmt: skip


class Told(NamedTuple):
    """What an attack saw."""

    faults: list[str]
    p99: float  # seconds that the quiet guest waits
    worst: float
    is_slow: bool  # that is too long


def run(chosen: Iterable[Mutant]) -> int:
    """Try them, and tell of each; 1 if one was not caught."""
    before: dict[str, Told] = {}
    missed = 0
    for each in chosen:
        if each.attack not in before:
            before[each.attack] = _as_it_is(each.attack)
        print(f"{each.name} ({each.attack}): ", end="", flush=True)
        why = _caught(each, before[each.attack], told := _told(each, each.attack))
        missed += why is None
        print(
            f"caught: {why}" if why else f"NOT CAUGHT: {_said(told)}; as it is: {_said(before[each.attack])}",
            flush=True,
        )
    return 1 if missed else 0


def _caught(mutant: Mutant, before: Told, told: Told) -> str | None:
    """What tells it from the project as it is."""
    if mutant.by:
        if any(mutant.by in fault for fault in before.faults):
            return None
        return next((fault.splitlines()[0] for fault in told.faults if mutant.by in fault), None)
    for what in ("p99", "worst"):
        had, has = getattr(before, what), getattr(told, what)
        if told.is_slow and has > _TIMES * had:
            return f"{what} {has * 1e3:.0f} ms, {had * 1e3:.0f} ms as it is"
    return None


def _said(told: Told) -> str:
    return f"p99 {told.p99 * 1e3:.0f} ms, worst {told.worst * 1e3:.0f} ms, {'; '.join(told.faults) or 'no fault'}"


def _as_it_is(attack: str) -> Told:
    """What it tells of the project; the best of a few times if it should wait: other programs may be in its way."""
    best = _told(None, attack)
    for _ in range(_AGAIN):
        if not best.is_slow and not best.faults:
            break
        told = _told(None, attack)
        best = Told(min(best.faults, told.faults, key=len), min(best.p99, told.p99), min(best.worst, told.worst),
                    best.is_slow and told.is_slow)  # fmt: skip
    return best


def _told(mutant: Mutant | None, attack: str) -> Told:
    """What *attack* tells of a copy of the project."""
    with tempfile.TemporaryDirectory(prefix="hostd-mutant-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)  # the quiet guest is nobody
        for each in _COPIED:
            shutil.copytree(ROOT / each, folder / each, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            file = folder / mutant.file
            file.write_text(mutant.applied(file.read_text()))
        return _play(folder, attack)


def _play(folder: Path, attack: str) -> Told:
    """Play it in *folder*: the daemon is that of this folder, wherever another one is installed."""
    path = os.pathsep.join(map(str, (folder, folder / "protocol", folder / "tests")))
    process = subprocess.Popen(
        [sys.executable, "-m", "attack.mutants", attack], cwd=folder, env=os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        process.wait()
    found: Any = json.loads(said) if process.returncode == 0 else None
    if found is None or not Path(found["hostd"]).is_relative_to(folder):
        raise RuntimeError(f"{attack} was not played with the daemon of {folder}: {said}")
    return Told(*found["told"])


def main() -> None:
    """One attack, by another user, on the project that this file belongs to: what did not hold, as JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and end what was started
    theatre = Theatre(_SEED, False, _SECONDS)
    try:
        row = theatre.play(load()[sys.argv[1]], False)
    finally:
        theatre.close()
    print(
        json.dumps({"hostd": hostd.__file__, "told": Told(row.faults, row.waits.p99, row.waits.worst, bool(row.slow))})
    )


if __name__ == "__main__":
    main()
