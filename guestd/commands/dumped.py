"""`guestd probe --prober pci --dump FILE`: the devices of a real machine, of what `lspci -xxxx` wrote there."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hcall.formats import pci
from hcall.programs.command import Failure, print_json, print_table, say

from ..bus.known import match
from ..driver import Driver
from ..probers import Found
from ..probers.pci import Function, dumped


def print_dumped(path: Path, drivers: list[type[Driver]], *, as_json: bool) -> None:
    """The functions in the file at *path*, and which of *drivers* would take each.  Raises Failure."""
    try:
        functions = pci.parse(path.read_text(errors="replace").splitlines())
    except OSError as error:
        raise Failure(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise Failure(f"{path}: {error}") from None
    if not functions:
        raise Failure(f"{path}: there is no function in it: it should be what `lspci -xxxx` writes")
    found, lost = asyncio.run(dumped(functions))
    domain = any(each.address >> 16 for each in (*found, *lost))

    def name(function: Function) -> str:
        return pci.name(function.address, domain=domain)

    def driver_of(function: Function) -> str | None:
        driver = match(Found(function.node, name(function), name(function), (), function.ids), drivers)
        return driver.__name__ if driver else None

    everything = sorted((*found, *lost))
    if as_json:
        print_json([
            {"name": name(each), **each._asdict(), "scanned": each not in lost, "driver": driver_of(each)}
            for each in everything
        ])  # fmt: skip
    else:
        print_table(
            ("FUNCTION", "CLASS", "IDS", "DRIVER"),
            ((name(each), f"{each.class_code:06x}", "{:04x}:{:04x}".format(*each.ids), driver_of(each) or "-")
             for each in everything),
        )  # fmt: skip
    if lost:
        these = ", ".join(map(name, lost))
        say("guestd", f"no scan finds {these}: function 0 of its slot is missing, or says that it is alone")
