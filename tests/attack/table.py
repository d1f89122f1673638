"""Rows for people, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from hcall.programs.command import print_table

from .people import TWO_USERS
from .room import Row


def as_json(row: Row) -> dict[str, Any]:
    """Seconds, KiB, bytes."""
    nested = {name: getattr(row, name)._asdict() for name in ("quiet", "waits", "before", "after")}
    return row._asdict() | nested | {"holds": row.holds}


def show(rows: Iterable[Row]) -> None:
    """The table, and what did not hold."""
    rows = list(rows)
    print_table(
        ("ATTACK", "USER", "QUIET P50/P99/WORST", "P50", "P99", "WORST ms", "CALLS", "FAILED", "FDS", "THREADS", "MAPS",
         "RSS MiB", "LOG", "SEEN", ""),
        (_cells(row) for row in rows),
    )  # fmt: skip
    if not TWO_USERS:
        print("There is one user here: nothing was attacked by another. Run it as root for that.")
    for row in rows:
        for line in (*row.faults, *row.slow):
            print(f"{row.attack}, {row.user} user: {line}")


def _cells(row: Row) -> tuple[str, ...]:
    quiet, waits, before, after = row.quiet, row.waits, row.before, row.after
    return (
        row.attack, row.user, "/".join(_ms(each) for each in (quiet.p50, quiet.p99, quiet.worst)),
        _ms(waits.p50), _ms(waits.p99), _ms(waits.worst), str(waits.calls), str(waits.failed),
        *(f"{then}>{now}" for then, now in zip(before[:3], after[:3], strict=True)),
        f"{before.rss >> 10}>{after.rss >> 10}", str(row.log),
        " ".join(f"{what}={count}" for what, count in row.seen.items()), "holds" if row.holds else "DOES NOT HOLD",
    )  # fmt: skip


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}"
