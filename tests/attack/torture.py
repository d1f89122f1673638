"""Attacks a daemon of its own from its guest socket, and tells how long a quiet guest beside it waits.

Exit status 0: all held; 1: something did not.
"""

from __future__ import annotations

import argparse
import json
import secrets
import signal
import sys
import time
from pathlib import Path
from typing import Final

from .people import TWO_USERS
from .room import Attack, Row, Theatre, load
from .table import as_json, show

_BRIEF: Final = 0.25  # seconds that an attack goes on
_FULL: Final = 4.0


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
    parser.add_argument("--list", action="store_true", help="the attacks, and no more")
    given = parser.parse_args()
    every = load()
    chosen = [each for each in every.values() if not given.names or any(_is(name, each) for name in given.names)]
    if not chosen:
        parser.error("no such attack; there are\n  " + "\n  ".join(every))
    if given.list:
        for each in chosen:
            print(f"{each.name}: {each.about}")
        return 0
    chosen.sort(key=lambda each: (each.machine, each.files or 0))  # one stage for those that want the same
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # and end what was started
    rows = run(chosen, given.seed, given.brief, given.minutes)
    if given.json is not None:
        text = json.dumps(
            {"seed": given.seed, "two_users": TWO_USERS, "rows": [as_json(row) for row in rows]}, indent=1
        )
        if str(given.json) == "-":
            print(text)
        else:
            given.json.write_text(text + "\n")
    if str(given.json) != "-":
        show(rows)
        print(f"seed {given.seed}")
    return 0 if all(row.holds for row in rows) else 1


def _is(name: str, one: Attack) -> bool:
    return one.name == name[1:] if name.startswith("=") else name in one.name


def run(chosen: list[Attack], seed: int, brief: bool, minutes: float | None) -> list[Row]:
    """One round, or as many as there are in so many *minutes*, each with another seed."""
    end = time.monotonic() + (minutes or 0) * 60
    rows: list[Row] = []
    while True:
        theatre = Theatre(seed, brief, _BRIEF if brief else _FULL)
        try:
            for each in chosen:
                for same in (False, True) if TWO_USERS and not brief else (not TWO_USERS,):
                    if sys.stderr.isatty():
                        print(f"\r\033[K{each.name}", end="", file=sys.stderr)
                    rows.append(theatre.play(each, same))
                    if minutes and time.monotonic() > end:
                        return rows
        finally:
            theatre.close()
        if time.monotonic() > end:
            return rows
        seed += 1


if __name__ == "__main__":
    sys.exit(main())
