"""The project's own sources as data: its modules, and which of them imports which, wherever the import stands."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

ROOT: Final = Path(__file__).parents[1]
HOMES: Final = {"hcall": ROOT / "protocol", "hostd": ROOT, "guestd": ROOT}
Arrows: TypeAlias = Mapping[str, set[str]]


class Sources:
    """The modules of some packages, by their full names; a package is the module of its `__init__.py`."""

    def __init__(self, homes: Mapping[str, Path]) -> None:
        """*homes*: the folder that each package is in."""
        self.paths = {
            _name(path.relative_to(home)): path
            for package, home in homes.items()
            for path in sorted((home / package).rglob("*.py"))
        }
        self.trees = {name: ast.parse(path.read_text()) for name, path in self.paths.items()}

    def is_package(self, name: str) -> bool:
        return self.paths[name].name == "__init__.py"

    def names(self, module: str) -> set[str]:
        """All that *module* imports, by full names, `json.loads` for `from json import loads`."""
        parts = module.split(".") if self.is_package(module) else module.split(".")[:-1]
        found = set()
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
                found |= {".".join(filter(None, (above, node.module, alias.name))) for alias in node.names}
        return found

    def uses(self, module: str) -> set[str]:
        """The modules of these that *module* imports, or imports something from."""
        return {there for name in self.names(module) if (there := self._module(name)) not in (None, module)}

    def arrows(self) -> dict[str, set[str]]:
        return {module: self.uses(module) for module in self.paths}

    def _module(self, name: str) -> str | None:
        """The module that *name* is, or is in."""
        while name and name not in self.paths:
            name = name.rpartition(".")[0]
        return name or None

    def lines(self, modules: Iterable[str]) -> int:
        return sum(len(self.paths[module].read_text().splitlines()) for module in modules)


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(arrows: Arrows) -> list[list[str]]:
    """Of each set of modules that all lead to each other, one way around."""
    done: set[str] = set()
    found = []
    for start in sorted(arrows):
        if start not in done and (way := _way(arrows, start, start)):
            found.append(way)
            done |= {each for each in arrows if _way(arrows, start, each) and _way(arrows, each, start)}
    return found


def _way(arrows: Arrows, start: str, goal: str) -> list[str]:
    """The shortest way from *start* to *goal*, which both are in, by one arrow or more; empty if there is none."""
    came: dict[str, str] = {}
    edge = [start]
    while edge and goal not in came:
        step = {there: here for here in edge for there in sorted(arrows.get(here, ())) if there not in came}
        came |= step
        edge = list(step)
    if goal not in came:
        return []
    way = [goal]
    while way[-1] != start or len(way) == 1:
        way.append(came[way[-1]])
    return way[::-1]
