"""Attacks a daemon of its own from its guest socket, and tells how long a quiet guest beside it waits.

Exit status 0: all held; 1: something did not.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import slow_files
from fuzz.targets import TARGETS

from . import groups, mutants
from .people import TWO_USERS
from .room import Attack, Row, Theatre, load
from .table import as_json, show

_BRIEF: Final = 0.25  # seconds that an attack goes on
_FULL: Final = 4.0
_FUZZ: Final = 60  # seconds for each target


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser("scripts/torture", description=__doc__)
    parser.add_argument("names", metavar="NAME", nargs="*", help="only attacks with NAME in their name; =NAME is one")
    parser.add_argument("--minutes", type=float, metavar="N", help="round after round for so long; else one round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE, - for stdout, as JSON")
    parser.add_argument(
        "--seed", type=int, default=secrets.randbelow(1 << 31), help="where chance begins: told at the end"
    )
    parser.add_argument(
        "--brief", action="store_true", help="as in CI: little of each, one user, and no times are judged"
    )
    parser.add_argument(
        "--mutants", action="store_true", help="take mends out of a copy of the project: each is missed by an attack"
    )
    parser.add_argument("--spin", action="store_true", help="of a daemon that spins, beside a quiet guest that does")
    parser.add_argument("--list", action="store_true", help="the attacks, and no more")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and end what was started
    every = load()
    if given.mutants:
        return mutants.run(each for each in mutants.MUTANTS if _is_one(given.names, each.name))
    chosen = [each for each in every.values() if _is_one(given.names, each.name)]
    targets = [] if given.brief else [name for name in TARGETS if _is_one(given.names, f"fuzz {name}")]
    if not chosen and not targets:
        parser.error("no such attack; there are\n  " + "\n  ".join([*every, *(f"fuzz {name}" for name in TARGETS)]))
    if given.list:
        for each in chosen:
            print(f"{each.name}: {each.about}")
        for name in targets:
            print(f"fuzz {name}: {_FUZZ} s of atheris. {TARGETS[name].__doc__}")
        return 0
    if any(each.memory for each in chosen) and not groups.can_be():
        print("Left out, since no control group bounds memory here: " + ", ".join(x.name for x in chosen if x.memory))
        chosen = [each for each in chosen if not each.memory]
    if any(each.slow for each in chosen) and not slow_files.can_be():
        print("Left out, since there is no FUSE here: " + ", ".join(each.name for each in chosen if each.slow))
        chosen = [each for each in chosen if not each.slow]
    chosen.sort(key=lambda each: [value or 0 for value in each.stage])  # one stage for those that want the same
    rows = run(chosen, given.seed, given.brief, given.minutes, given.spin) if chosen else []
    fuzzed = [fuzz(name, given.seed) for name in targets]
    if given.json is not None:
        seen = [as_json(row) for row in rows]
        text = json.dumps({"seed": given.seed, "two_users": TWO_USERS, "rows": seen, "fuzz": fuzzed}, indent=1)
        if str(given.json) == "-":
            print(text)
        else:
            given.json.write_text(text + "\n")
    if str(given.json) != "-":
        if rows:
            show(rows)
        for each in fuzzed:
            print(f"fuzz {each['target']}: {each['units']} inputs, {each['told'] or 'holds'}")
        print(f"seed {given.seed}")
    return 0 if all(row.holds for row in rows) and not any(each["told"] for each in fuzzed) else 1


def _is_one(names: list[str], one: str) -> bool:
    return not names or any(one == name[1:] if name.startswith("=") else name in one for name in names)


def fuzz(target: str, seed: int) -> dict[str, Any]:
    """Its name, how many inputs there were, and what is wrong, if anything."""
    if importlib.util.find_spec("atheris") is None:
        return {"target": target, "units": 0, "told": "not run: atheris is not installed, the extra `fuzz`"}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "fuzz.run", target, f"--seconds={_FUZZ}", f"--seed={seed}", f"--keep={folder}"],
            text=True, capture_output=True, check=False,
        )  # fmt: skip
        broke = [file.read_bytes() for file in Path(folder).iterdir() if file.is_file()]
    units = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    told = f"{broke}\n{done.stdout[-2000:]}{done.stderr[-2000:]}" if done.returncode or broke else ""
    return {"target": target, "units": int(units[1]) if units else 0, "told": told}


def run(chosen: list[Attack], seed: int, brief: bool, minutes: float | None, spin: bool) -> list[Row]:
    """One round, or as many as there are in so many *minutes*, each with another seed."""
    end = time.monotonic() + (minutes or 0) * 60
    rows: list[Row] = []
    while True:
        theatre = Theatre(seed, brief, _BRIEF if brief else _FULL, spin=spin)
        try:
            for each in chosen:
                for same in (False, True) if TWO_USERS and not brief else (not TWO_USERS,):
                    rows.append(row := theatre.play(each, same))
                    if not brief:  # it takes long: what there is of the table so far
                        outcome = "holds" if row.holds else "DOES NOT HOLD"
                        print(f"{row.attack}, {row.user}: {row.waits.worst * 1e3:.1f} ms, {outcome}", file=sys.stderr)
                    if minutes and time.monotonic() > end:
                        return rows
        finally:
            theatre.close()
        if time.monotonic() > end:
            return rows
        seed += 1


if __name__ == "__main__":
    sys.exit(main())
