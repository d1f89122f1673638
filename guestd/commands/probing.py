"""`guestd probe`: what there is, as one way to find devices shows it, or as all of them do, side by side."""

from __future__ import annotations

from hcall.errors import NoSuchCall
from hcall.programs.command import explain, print_json, print_table, say
from hcall.text import shown

from ..bus.known import match
from ..clients.blocking import BlockingGuest
from ..driver import Driver
from ..probers import PROBERS, Found


def print_found(guest: BlockingGuest, drivers: list[type[Driver]], *, as_json: bool) -> None:
    """What *guest* finds in its own way, and which of *drivers* would take it."""
    nodes = guest.run(guest.walk())

    def driver_of(found: Found) -> str | None:
        driver = match(found, drivers)
        return driver.__name__ if driver else None

    if as_json:
        about = {found.node: guest.run(guest.properties(found.node)) for found in nodes}
        print_json(
            [{**found._asdict(), "driver": driver_of(found), "properties": about[found.node]} for found in nodes]
        )
        return
    print_table(
        ("PATH", "COMPATIBLE", "IDS", "DRIVER"),
        ((found.path, shown(found.compatible) or "-", "{:04x}:{:04x}".format(*found.ids) if any(found.ids) else "-",
          driver_of(found) or "-") for found in nodes),
    )  # fmt: skip


def print_side_by_side(guest: BlockingGuest, *, as_json: bool) -> None:
    """What each prober finds: a row for each node, a column for each prober."""
    ways: dict[str, list[Found]] = {}
    for name in PROBERS:
        try:
            ways[name] = guest.run(guest.walk(name))
        except NoSuchCall:
            say("guestd", f"this host has nothing for the prober {name!r}")
        except OSError as error:  # another socket of the host's, which it need not have
            say("guestd", f"nothing for the prober {name!r}: {explain(error)[0]}")
    rows = beside(ways)
    if as_json:
        print_json([{"node": row[min(row)].node, "found": {name: row[name].path for name in row}} for row in rows])
        return
    print_table(map(str.upper, ways), ([row[name].path if name in row else "-" for name in ways] for row in rows))


def beside(ways: dict[str, list[Found]]) -> list[dict[str, Found]]:
    """What was found in those ways, as one found it or several: each where the first that found it has it."""
    rows: dict[object, dict[str, Found]] = {}
    for name, nodes in ways.items():
        for found in nodes:
            rows.setdefault(found.node or (name, found.path), {})[name] = found  # what is no node is the way's own
    return list(rows.values())
