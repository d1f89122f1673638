"""What `hostd status` shows to people."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

from hcall.programs.command import print_table
from hcall.text import sized


def show_status(found: dict[str, Any]) -> None:
    """*found* is what the control socket answered."""
    found["uptime"] = timedelta(seconds=round(found["uptime"]))
    found["spin"] = "yes" if found["spin"] else "no"
    guests = found.pop("guests")
    limits = found.pop("limits")
    users, bounds = found.pop("users"), found.pop("bounds")
    long_calls, processes = found.pop("long_calls"), found.pop("processes")
    for key, value in found.items():
        print(f"{key + ':':10}{'-' if value is None else value}")
    print(f"{'guests:':10}{len(guests)} of {limits['guests']}")
    if guests:
        print()
        print_table(
            ("GUEST", "USER", "RULES", "LINK", "CALLS", "MEMORY", "OPEN"),
            ((guest["name"], guest["uid"], ", ".join(guest["rules"]) or "-", "up" if guest["linked"] else "lost",
              guest["calls"], sized(guest["memory"]),
              _times(guest["open"])) for guest in guests),
        )  # fmt: skip
    if users:
        kinds = [what for what in bounds if any(what in user["has"] for user in users)]
        print()
        print_table(
            ("USER", *(what.upper() for what in kinds), "SECONDS"),
            [
                *((user["uid"], *_row(user["has"], kinds), user["seconds"]) for user in users),
                *((words, *_row({what: bounds[what][key] for what in kinds}, kinds), "-") for key, words in
                  {"share": "may have", "total": "of"}.items()),
            ],
        )  # fmt: skip
    if processes:
        print()
        print_table(
            ("ISOLATED", "PID", "STARTS"), ((each["device"], each["pid"] or "-", each["starts"]) for each in processes)
        )
    if long_calls:
        print()
        print_table(
            ("LONGER THAN A TURN", "DEVICE", "COUNT", "LONGEST"),
            ((call["call"], call["device"] or "-", call["count"], f"{call['longest_ms']} ms") for call in long_calls),
        )


def _times(paths: list[str]) -> str:
    """Each of *paths*, and how often it is there."""
    return ", ".join(f"{path} x {count}" if count > 1 else path for path, count in Counter(paths).items()) or "-"


def _row(counts: dict[str, int], kinds: list[str]) -> list[str]:
    return [sized(counts.get(what, 0)) if "bytes" in what else f"{counts.get(what, 0)}" for what in kinds]
