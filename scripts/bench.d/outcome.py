"""What came out: rows, as JSON and as a table."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

SAME: Final = "same-core"
CROSS: Final = "cross-core"
SCALE: Final = "scale"
_FACTORS: Final = {"us": 1e6, "s": 1.0, "KiB": 1 / 1024}  # of what was measured, seconds or bytes; else it is a rate


class Row(NamedTuple):
    """A line of the outcome.  Of several meters the best one counts."""

    what: str  # {} is the client that was the best
    ours: tuple[str, ...]
    peer: tuple[str, ...]
    unit: str
    target: float | None  # of the ratio, on one core; of ours if there is no peer
    cross: float | None = None  # the same on two
    note: str = ""  # what is to be known of it

    @property
    def better(self) -> str:
        """Which way is better, for the values and for the ratio."""
        return "lower" if self.unit in _FACTORS else "higher"

    @property
    def names(self) -> list[str]:
        """What the row may be called in the end."""
        return [self.what.format(who(key)) for key in self.ours]


class Value(NamedTuple):
    """What a meter came to, in the unit of a row."""

    name: str
    best: float  # quartile
    median: float  # the same if it was measured once


def who(key: str) -> str:
    """Whose meter it is: the key is "who: what"."""
    return key.partition(":")[0]


def value(keys: tuple[str, ...], found: Mapping[str, Sequence[float]], unit: str) -> Value | None:
    """Of the best meter of *keys*, in *unit*; None if none could be measured.  *found* has the seconds of each call."""
    values = []
    for key in keys:
        if key in found:
            best, *rest = found[key]
            median = best
            if rest:  # else it was measured once
                best, median, _ = statistics.quantiles(found[key], n=4, method="inclusive")
            values.append((best, median, who(key)))
    if not values:
        return None
    best, median, name = min(values)
    factor = _FACTORS.get(unit)
    return Value(name, best * factor, median * factor) if factor else Value(name, 1 / best, 1 / median)


class Outcome(NamedTuple):
    """A row with what was measured; None where nothing was."""

    row: Row
    regime: str
    ours: Value | None
    peer: Value | None

    @property
    def name(self) -> str:
        """With the client that was the best."""
        return self.row.what.format(self.ours.name) if self.ours else self.row.names[0]

    @property
    def peer_name(self) -> str | None:
        """Measured or not."""
        return self.peer.name if self.peer else who(self.row.peer[0]) if self.row.peer else None

    @property
    def ratio(self) -> float | None:
        """Ours by the peer's."""
        return self.ours.best / self.peer.best if self.ours and self.peer else None

    @property
    def target(self) -> float | None:
        """Of this regime."""
        return self.row.target if self.regime != CROSS else self.row.cross

    @property
    def met(self) -> bool | None:
        """None if nothing was measured, or without a target."""
        reached = self.ratio if self.row.peer else self.ours and self.ours.best
        if reached is None or self.target is None:
            return None
        return reached <= self.target if self.row.better == "lower" else reached >= self.target

    def as_json(self) -> dict[str, Any]:
        """The best quartiles."""
        return {
            "name": self.name, "regime": self.regime, "ours": _rounded(self.ours and self.ours.best),
            "unit": self.row.unit, "peer": self.peer_name, "peer_value": _rounded(self.peer and self.peer.best),
            "ratio": _rounded(self.ratio), "target": self.target, "better": self.row.better, "met": self.met,
        }  # fmt: skip


def _rounded(number: float | None) -> float | None:
    return None if number is None or math.isinf(number) else float(f"{number:.5g}")


def progress(text: str) -> None:
    """One line, for who waits at a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def show(outcomes: Sequence[Outcome], notes: Iterable[str], quick: bool) -> None:
    """For people; plain where it is not a terminal."""
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    for regime in dict.fromkeys(outcome.regime for outcome in outcomes):
        title = f"{regime}, spinning" if regime == CROSS else regime
        table = Table(title=f"{title}: best quartile (median)", title_justify="left", title_style="bold", box=None,
                      padding=(0, 2, 0, 0), pad_edge=False)  # fmt: skip
        table.add_column("")
        for header in ("ours", "", "peer", "", "ratio", "target", "met"):
            table.add_column(header, justify="left" if header in ("", "peer") else "right", no_wrap=True)
        table.columns[4].justify = "right"
        for outcome in outcomes:
            if outcome.regime == regime:
                table.add_row(*_cells(outcome))
        console.print(table)
        console.print()
    for row in dict.fromkeys(outcome.row for outcome in outcomes):
        if row.note:
            console.print(f"{row.names[0]}: {row.note}")
    for note in notes:
        console.print(f"[yellow]{note}[/]")
    judged = [outcome.met for outcome in outcomes if outcome.met is not None]
    missed = judged.count(False)
    console.print(f"[bold]{len(judged) - missed} of {len(judged)} targets met[/]"
                  f"{f', [red]{missed} missed[/]' if missed else ''}"
                  f"{'; a quick run: fewer blocks, so more noise' if quick else ''}")  # fmt: skip


def _cells(outcome: Outcome) -> Iterator[str]:
    better = "≤" if outcome.row.better == "lower" else "≥"
    name = outcome.name
    for long, short in ((" client", ""), (" at depth", ", depth"), (" block read", " read"), ("scale: ", "")):
        name = name.replace(long, short)
    yield name
    yield _shown(outcome.ours)
    yield outcome.row.unit.replace("us", "µs").replace("calls", "")
    yield outcome.peer_name or "-"
    yield _shown(outcome.peer)
    yield "-" if outcome.ratio is None else f"{outcome.ratio:.2f}"
    yield "-" if outcome.target is None else f"{better} {outcome.target:g}"
    yield {None: "-", True: "[green]yes[/]", False: "[red]no[/]"}[outcome.met]


def _shown(value: Value | None) -> str:
    if value is None:
        return "-"
    if math.isinf(value.best):
        return "never"
    factor, unit = (1000, "k") if value.best >= 10_000 else (1, "")
    best = value.best / factor
    digits = 0 if unit or best >= 100 else 1 if best >= 10 else 2
    text = f"{best:.{digits}f}{unit}"
    return text if value.median == value.best else f"{text} ({value.median / factor:.{digits}f}{unit})"
