"""`hostd tree`: a running machine, for people, for programs, and as firmware hands it to an operating system."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Final

from hcall.formats.buses import fdt
from hcall.programs.command import Exit, Failure, console, print_json
from hcall.text import shown

from . import lspci

_STANDARD: Final = {"name", "compatible", "vendor-id", "device-id", "hcall-class"}


def own(properties: dict[str, Any]) -> dict[str, Any]:
    """Those that not every device has."""
    return {name: value for name, value in properties.items() if name not in _STANDARD}


def show(root: dict[str, Any], form: str) -> None:
    """Print the tree below *root*, as the control socket tells it, in one of FORMATS.  Raises Failure."""
    if form not in FORMATS:
        raise Failure(f"no format {form!r}: there is {', '.join(FORMATS)}", Exit.USAGE)
    FORMATS[form](root)


def flat(node: dict[str, Any], *, is_root: bool = True) -> fdt.Node:
    """*node*, with all below it, as a device tree has it: what is false is not there, what is true is empty."""
    properties: dict[str, fdt.Value] = {"model": node["name"]} if is_root else {}
    for name, value in node["properties"].items():
        if name != "name" and value is not False:
            properties[name] = _value(value)
    properties["hcall,node"] = (node["handle"],)
    children = [flat(child, is_root=False) for child in node["children"]]
    return fdt.Node("" if is_root else node["name"], properties, children)


def _value(value: Any) -> fdt.Value:
    if value is True or value is None:
        return None
    if isinstance(value, int | str):
        return value
    if (
        isinstance(value, list)
        and len({type(each) for each in value}) < 2
        and all(type(each) in (int, str) for each in value)
    ):
        return tuple(value)
    return shown(value)


def _people(root: dict[str, Any]) -> None:
    from rich.text import Text
    from rich.tree import Tree

    def grow(node: dict[str, Any], label: str) -> Tree:
        properties = dict(node["properties"])
        text = Text(label, "bold")
        if "compatible" in properties:
            text.append(f"  {shown(properties['compatible'])}", "cyan")
            if properties["vendor-id"] or properties["device-id"]:
                text.append(f"  {properties['vendor-id']:04x}:{properties['device-id']:04x}", "not bold")
        for name, value in own(properties).items():
            text.append(f"  {name}={shown(value)}", "not bold")
        grown = Tree(text, guide_style="dim")
        for child in node["children"]:
            grown.children.append(grow(child, child["name"]))
        return grown

    console().print(grow(root, f"/ ({root['name']})"))


def _dts(root: dict[str, Any]) -> None:
    print(fdt.text(flat(root)), end="")


def _dtb(root: dict[str, Any]) -> None:
    if sys.stdout.isatty():
        raise Failure("a dtb is nothing for a terminal: `hostd tree --format dtb > machine.dtb`", Exit.USAGE)
    sys.stdout.buffer.write(fdt.pack(flat(root)))


#: What prints a tree, by the name of what it prints.
FORMATS: Final[dict[str, Callable[[dict[str, Any]], None]]] = {
    "tree": _people, "json": print_json, "dts": _dts, "dtb": _dtb, "lspci": lspci.show,
}  # fmt: skip
