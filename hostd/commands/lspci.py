"""`hostd tree --format lspci`: a machine as a PCI bus, in the text that `lspci -F FILE` reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hcall.formats import pci
from hcall.programs.command import say


def show(root: dict[str, Any]) -> None:
    """Print the functions of the tree below *root*, as the control socket tells it."""
    for line in dump(root):
        print(line)
    lost = [node["path"] for node in _below(root) if node["model"] and node["pci"] is None]
    if lost:
        say("hostd", f"not on the bus, whose slots are all taken: {lost[0]}, and {len(lost) - 1} more devices")


def dump(root: dict[str, Any]) -> Iterator[str]:
    """The lines: all functions, bridges as well, in the order of their addresses."""
    devices = {pci.named(node["pci"]): node for node in _below(root) if node["pci"] is not None}
    last = max(devices, default=0) >> 8
    bridges = {pci.address(bus, pci.SLOTS - 1): bus for bus in range(last)}
    for where in sorted(devices | bridges):
        if where in bridges:
            bus = bridges[where]
            yield from pci.dumped(where, pci.bridge(bus, bus + 1, last), f"a bridge to bus {bus + 1:02x}")
            continue
        node, others = devices[where], range(where + 1, where + pci.FUNCTIONS) if where & 7 == 0 else ()
        has = node["properties"]
        space = pci.endpoint(
            where, tuple(node["bus_ids"]), node["class_code"], has["hcall-class"], node["handle"],
            several=any(each in devices for each in others),
        )  # fmt: skip
        yield from pci.dumped(where, space, node["path"])


def _below(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node["children"]:
        yield from _below(child)
