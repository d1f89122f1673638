"""The rooms of the house, bottom up: an import points down, to a room before its own, or stays in its own; never round.

An import for types only, or inside a function, is an import.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import Final

import pytest
from sources import HOMES, Sources, circles

# A room is a folder with all that is in it, a page of authors, or the words that both ends know (`hcall`).
ROOMS: Final = {
    "hcall": ["hcall", "session", "formats", "kernel", "programs"],
    "hostd": [
        "model", "device", "stream", "backing", "backings", "devices",
        "tree", "calls", "isolated", "lanes", "guests", "filters", "machine", "service", "hostd", "commands",
    ],
    "guestd": [
        "memory", "declared", "driver", "stream", "drivers",
        "probers", "bus", "carriers", "clients", "guestd", "exports", "shell", "commands",
    ],
}  # fmt: skip
SEES: Final = {"hcall": {"hcall"}, "hostd": {"hostd", "hcall"}, "guestd": {"guestd", "hcall"}}

# Files that are independent of each other, so that there may be many, and what the few that need another need; what
# they have in common is in a folder below, `parts`.
COLLECTIONS: Final = {
    "hostd.devices": {},
    "hostd.backings": {
        "named": {"files", "sockets", "terminal"},  # which of them a text names
        "stream": {"named"},
    },
    "guestd.drivers": {},
    "guestd.commands.evidence": {},
    "hcall.formats": {"ppp": {"hdlc", "ppp_control"}},
}  # fmt: skip
MANY: Final = {"hcall.formats", "hostd.devices", "guestd.drivers", "guestd.commands.evidence"}
MOST_FILES: Final = 13  # of a folder, but for those
MOST_OF_IT: Final = 0.2  # of the lines of hostd
MOST_LINES: Final = 400

# What is not right yet: each has to be there, so that none is left here when it has been mended.
UP: Final[set[tuple[str, str]]] = set()
LONG: Final = {"guestd.clients.asynchronous"}

IO: Final = {"asyncio", "fcntl", "mmap", "selectors", "socket", "subprocess", "threading", "uvloop"}
# And hcall/kernel: what both do alike with the kernel.  Whoever waits, waits by a clock.
HCALL_IO: Final = {"hcall.clock": {"asyncio"}}

SOURCES: Final = Sources(HOMES)
MODULES: Final = sorted(SOURCES.paths)
FOLDERS: Final = Counter(module if SOURCES.is_package(module) else module.rpartition(".")[0] for module in MODULES)


def room(module: str) -> str:
    """The room that *module* is in: `hostd.calls`, `hostd.device`; a package itself is its door, `hostd.hostd`."""
    package, *parts = module.split(".")
    if not parts or (package == "hcall" and len(parts) == 1 and parts[0] not in ROOMS["hcall"]):
        return f"{package}.{package}"
    return f"{package}.{parts[0]}"


def rank(module: str) -> int:
    """How high its room is in its package."""
    package, name = room(module).split(".")
    return ROOMS[package].index("commands" if name == "__main__" else name)


def tops(module: str) -> set[str]:
    return {name.partition(".")[0] for name in SOURCES.names(module)}


def test_the_rooms_are_all_that_there_are() -> None:
    found = {room(module) for module in MODULES if not module.endswith("__main__")}
    listed = {f"{package}.{name}" for package, names in ROOMS.items() for name in names}
    assert found == listed


def up(sources: Sources, module: str) -> set[str]:
    """What *module* imports that is above it, or in a package that it must not see."""
    package = module.partition(".")[0]
    below = SEES[package]
    return {
        there
        for there in sources.uses(module)
        if there.partition(".")[0] not in below or (there.partition(".")[0] == package and rank(there) > rank(module))
    }


def test_imports_point_down() -> None:
    assert {(module, there) for module in MODULES for there in up(SOURCES, module)} == UP


def test_no_import_goes_round() -> None:
    assert circles(SOURCES.arrows()) == []


def write(folder: Path, files: dict[str, str]) -> None:
    """Made-up sources, every folder a package."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "__init__.py").touch()
        path.write_text(text)


@pytest.mark.parametrize(
    "how",
    [
        "from ..b.two import Two",
        "from house.b import two",
        "import house.b.two",
        "def late():\n    from ..b.two import Two",
        "if TYPE_CHECKING:\n    from ..b.two import Two",
    ],
)
def test_a_circle_would_be_found(tmp_path: Path, how: str) -> None:
    write(tmp_path / "house", {
        "one.py": "from .a import three", "a/three.py": how, "b/two.py": "from ..one import One",
        "beside.py": "import house.one",
    })  # fmt: skip
    assert circles(Sources({"house": tmp_path}).arrows()) == [
        ["house.a.three", "house.b.two", "house.one", "house.a.three"]
    ]


def test_each_circle_is_told_once_and_what_is_none_is_not(tmp_path: Path) -> None:
    write(tmp_path / "house", {
        "a.py": "from . import b", "b.py": "from .c import x", "c.py": "from .a import y; from . import b",
        "d.py": "from .e import x", "e.py": "from . import d", "f.py": "import json\nfrom . import a",
        "g.py": "from .f import z",
    })  # fmt: skip
    found = circles(Sources({"house": tmp_path}).arrows())
    assert found == [["house.a", "house.b", "house.c", "house.a"], ["house.d", "house.e", "house.d"]]


@pytest.mark.parametrize(
    ("file", "text", "above"),
    [
        ("calls/core/nodes.py", "from ...service.serve import serve", {"hostd.service.serve"}),
        ("calls/core/nodes.py", "if TYPE_CHECKING:\n    from hostd.service import serve", {"hostd.service.serve"}),
        ("service/serve.py", "def late():\n    from ..commands import cli", {"hostd.commands.cli"}),
        ("model/later.py", "from ..device import Device", {"hostd.device"}),
        ("lanes/socket/link.py", "from ...guests import guests", {"hostd.guests.guests"}),
        ("guests/guests.py", "from ..lanes.socket.link import Link", set()),
        ("devices/rng.py", "import guestd.driver", {"guestd.driver"}),
        ("device.py", "from hcall import errors", set()),
    ],
)
def test_an_arrow_that_points_up_would_be_found(tmp_path: Path, file: str, text: str, above: set[str]) -> None:
    names = ("device", "service/serve", "commands/cli", "guests/guests", "lanes/socket/link")
    write(tmp_path / "hostd", {f"{name}.py": "" for name in names} | {file: text})
    write(tmp_path / "guestd", {"driver.py": ""})
    write(tmp_path / "hcall", {"errors.py": ""})
    module = f"hostd.{file.removesuffix('.py').replace('/', '.')}"
    assert up(Sources(dict.fromkeys(SEES, tmp_path)), module) == above


@pytest.mark.parametrize("folder", sorted(FOLDERS))
def test_a_folder_says_what_it_is_and_is_seen_at_a_glance(folder: str) -> None:
    assert ast.get_docstring(SOURCES.trees[folder]), f"{folder}/__init__.py has to say what the room is"
    most = MOST_FILES if folder not in MANY else len(MODULES)
    assert FOLDERS[folder] <= most, f"{FOLDERS[folder]} files in {folder}"


@pytest.mark.parametrize("collection", COLLECTIONS)
def test_a_file_of_a_collection_stands_for_itself(collection: str) -> None:
    members = [
        module for module in MODULES if module.rpartition(".")[0] == collection and not SOURCES.is_package(module)
    ]
    found = {
        module.removeprefix(f"{collection}."): {each.removeprefix(f"{collection}.") for each in others}
        for module in members
        if (others := SOURCES.uses(module) & set(members))
    }
    assert found == COLLECTIONS[collection]


def test_no_room_is_above_a_fifth_of_hostd() -> None:
    ours = [module for module in MODULES if module.startswith("hostd")]
    lines = {name: SOURCES.lines(each for each in ours if room(each) == name) for name in map(room, ours)}
    most = MOST_OF_IT * sum(lines.values())
    assert {name: count for name, count in lines.items() if count > most and name not in COLLECTIONS} == {}


def test_a_file_is_read_in_one_sitting() -> None:
    assert {module for module in MODULES if SOURCES.lines([module]) > MOST_LINES} <= LONG


@pytest.mark.parametrize(
    "module", [name for name in MODULES if room(name).startswith("hcall") and room(name) != "hcall.kernel"]
)
def test_hcall_does_no_io(module: str) -> None:
    assert tops(module) & IO == HCALL_IO.get(module, set())


def test_only_the_wire_knows_msgpack() -> None:
    assert [module for module in MODULES if "msgpack" in tops(module)] == ["hcall.wire"]


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) == "guestd.drivers"])
def test_a_driver_sees_only_the_drivers_page(module: str) -> None:
    ours = {name for name in SOURCES.names(module) if name.partition(".")[0] in SEES}
    allowed = ("guestd.driver.", "guestd.stream.", "hcall.errors.", "hcall.formats.")
    assert all(name.startswith(allowed) for name in ours) and not tops(module) & IO


@pytest.mark.parametrize("module", [name for name in MODULES if room(name) == "hostd.devices"])
def test_a_model_sees_only_the_models_page(module: str) -> None:
    ours = {name for name in SOURCES.names(module) if name.partition(".")[0] in SEES}
    allowed = ("hostd.device.", "hostd.stream.", "hostd.backing.", "hostd.backings.", "hcall.errors.", "hcall.formats.")
    assert all(name.startswith(allowed) for name in ours) and not tops(module) & {"asyncio", "msgpack", "socket"}
