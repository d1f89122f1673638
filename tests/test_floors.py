"""Imports only point down: hcall is the ground floor, hostd and guestd stand on it and never meet."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = {"hcall": {"hcall"}, "hostd": {"hostd", "hcall"}, "guestd": {"guestd", "hcall"}}
IO = {"asyncio", "fcntl", "mmap", "selectors", "socket", "subprocess", "threading", "uvloop"}
# And hcall/kernel: what both do alike with the kernel.  Whoever waits, waits by a clock.
HCALL_IO = {Path("hcall/clock.py"): {"asyncio"}}
HOMES = {"hcall": ROOT / "protocol", "hostd": ROOT, "guestd": ROOT}
FILES = sorted(path.relative_to(home) for package, home in HOMES.items() for path in (home / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    """The modules that a file imports, by their full names."""
    package = path.parent.parts
    found = set()
    for node in ast.walk(ast.parse((HOMES[path.parts[0]] / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            found |= {".".join(filter(None, (base, node.module, alias.name))) for alias in node.names}
    return found


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_down(path: Path) -> None:
    assert not tops(path) & FLOORS.keys() - FLOORS[path.parts[0]]


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parts[0] == "hcall" and path.parts[1] != "kernel"], ids=str
)
def test_hcall_does_no_io(path: Path) -> None:
    assert tops(path) & IO == HCALL_IO.get(path, set())


@pytest.mark.parametrize("path", FILES, ids=str)
def test_only_the_wire_knows_msgpack(path: Path) -> None:
    assert "msgpack" not in tops(path) or path == Path("hcall/wire.py")


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[1:2] == ("drivers",)], ids=str)
def test_a_driver_sees_only_the_drivers_page(path: Path) -> None:
    ours = {name for name in imports(path) if name.split(".")[0] in FLOORS}
    allowed = ("guestd.driver.", "guestd.stream.", "hcall.errors.", "hcall.formats.")
    assert all(name.startswith(allowed) for name in ours) and not tops(path) & IO


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[1:2] == ("devices",)], ids=str)
def test_a_model_sees_only_the_models_page(path: Path) -> None:
    ours = {name for name in imports(path) if name.split(".")[0] in FLOORS}
    allowed = ("hostd.device.", "hostd.stream.", "hostd.backing.", "hostd.backings.", "hcall.errors.")
    allowed += ("hcall.formats.",)
    assert all(name.startswith(allowed) for name in ours) and not tops(path) & {"asyncio", "msgpack", "socket"}
