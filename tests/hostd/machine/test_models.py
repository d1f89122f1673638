"""Models of the user's own: where they come from, what `hostd check` shows, and what is wrong with them, by line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import guestd
import hostd
from guestd.driver import Driver, Op
from hcall.programs.plugins import PluginError
from hostd.devices.block import Block
from hostd.machine import models
from hostd.machine.description import describe
from hostd.machine.file import Machine, MachineError

LAMP = """
from hostd.device import Device, call
class Lamp(Device):
    compatible = "example,lamp"
    @call
    def glow(self) -> int:
        return 60
"""


class LampDriver(Driver):
    compatible = ("example,lamp",)
    glow = Op[[], int]()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to be in; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def install(points: str) -> None:
    """What an installer leaves behind for a package `lamps` that offers these models."""
    info = Path("site/lamps-1.0.dist-info").absolute()
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lamps\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[hostd.devices]\n{points}")
    (info.parent / "lamps").mkdir()
    (info.parent / "lamps/__init__.py").write_text("")
    (info.parent / "lamps/lamp.py").write_text(LAMP)
    (info.parent / "lamps/broken.py").write_text("\nraise RuntimeError('no bulb')\n")
    sys.path.insert(0, str(info.parent))


def refused(name: str) -> list[str]:
    with pytest.raises(PluginError) as error:
        models.load(name, Path())
    return error.value.lines


def check(*arguments: str) -> tuple[int, str, list[str]]:
    """Exit code, what is printed, and the lines for the user."""
    command = [sys.executable, "-m", "hostd", "check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return done.returncode, done.stdout, done.stderr.splitlines()


async def test_a_model_has_many_names(here: Path) -> None:
    install("lamp = lamps.lamp:Lamp\nspaced = lamps.lamp : Lamp\nextra = lamps.lamp:Lamp [more]\nmodule = lamps.lamp\n")
    (here / "machines/models").mkdir(parents=True)
    file = here / "machines/models/lamp.py"
    file.write_text(LAMP)
    names = ["lamp", "spaced", "extra", "module", "lamps.lamp:Lamp", "models/lamp.py", "models/lamp.py:Lamp", str(file)]
    tables = (f'[devices.lamp{n}]\nmodel = "{name}"\n' for n, name in enumerate(names))
    (here / "machines/m.toml").write_text("".join(tables))  # files are relative to this one, not to where we are
    async with (
        hostd.serve("machines/m.toml") as host,
        guestd.attach(host.socket, drivers=[LampDriver], memory=1 << 16) as guest,
    ):
        assert [await guest[f"lamp{n}"].glow() for n in range(len(names))] == [60] * len(names)


def test_what_packages_offer_is_listed_and_takes_nobodys_name() -> None:
    install("lamp = lamps.lamp:Lamp\nblock = lamps.lamp:Lamp\nbroken = lamps.broken:Lamp\nnone = lamps.lamp:Lump\n")
    assert {"block", "broken", "console", "lamp", "none", "rng"} <= set(models.names())
    assert models.load("block", Path()) is Block
    (line,) = refused("lmap")
    assert line.startswith("no model 'lmap' (did you mean 'lamp'?); there are: block, broken, console, ")
    (line,) = refused("broken")
    assert line.endswith("broken.py:2: RuntimeError: no bulb")
    assert refused("none") == ["lamps.lamp: no class 'Lump' (did you mean 'Lamp'?); it has Lamp"]
    assert models.load("lamp", Path()).compatible == "example,lamp"


def test_a_model_that_no_driver_could_find_is_refused(here: Path) -> None:
    text = "from hostd.device import Device\nfrom hostd.stream import Stream\n\nclass Dark(Device):\n    pass\n"
    text += "class Empty(Device): compatible = ()\nMade = type('Made', (Device,), {})\n"
    (here / "dark.py").write_text(text)
    for name, place in (("Dark", "dark.py:4"), ("Empty", "dark.py:6"), ("Made", "dark.py:Made")):
        (line,) = refused(f"dark.py:{name}")
        assert line == f'{place}: {name} needs compatible = "vendor,name", which drivers look for'
    (line,) = refused("dark.py:Stream")
    assert "hostd/stream.py:" in line and "dark.py" not in line


WRONG = """
from __future__ import annotations
from enum import IntEnum
from pathlib import Path
import functools
from hostd.device import Config, Data, Device, Feature, Irq, Later, Property, Room, action, call
class Level(IntEnum):
    LOW = 1
class Wrong(Device):
    compatible = "example,lamp", "ümlaut"  #! compatible is "vendor,name"
    ids = (1, 65536)  #! two numbers of 16 bits
    one = Feature(1)  #! a bit of its own, 0 to 23 or 50 to 63, not 1
    same = Feature(1)  #! a bit of its own, 0 to 23 or 50 to 63, not 1
    rings = Feature(24)  #! a bit of its own, 0 to 23 or 50 to 63, not 24
    last = Feature(49)  #! a bit of its own, 0 to 23 or 50 to 63, not 49
    high = Feature(64)  #! a bit of its own, 0 to 23 or 50 to 63, not 64
    table = Config(dict)  #! a key is bool, int, float, str, Path, a class with parse(text, folder), or a list
    bounded = Config(str, "", bounds=range(3))  #! only numbers have bounds
    ranged = Config(float, 1.0, bounds=range(3))  #! only numbers have bounds
    halved = Config(float, 1.0, bounds=(3.0, 1.0))  #! only numbers have bounds
    single = Config(int, 1, bounds=(3,))  #! only numbers have bounds
    nothing = Config(int, 1, bounds=range(0))  #! only numbers have bounds
    warm = Config(float, "1.0")  #! its default must be a number, not a string
    hot = Config(float, float("nan"))  #! its default must be a number, not nan
    nested = Config(list[list[int]], [])  #! a key is
    two = Config(list[int, str], [])  #! a key is
    wild = Config(list[bytes], [])  #! a key is
    cold = Config(list[int], [1, 2.5])  #! its default item 2 of it must be a whole number, not a number with a point
    outside = Config(int, 3, bounds=range(3))  #! its default must be 0 to 2, not 3
    count = Config(int, "3")  #! its default must be a whole number, not a string
    clock = Config(str, "")  #! Device has this name for itself
    offered = Irq()  #! Device has this name for itself
    model = Config(str, "")  #! the machine file has another use for this key
    vendor_id = Property(int)  #! every node has a property of that name
    numbers = Property(set)  #! a property is
    größe = Property(int)  #! a name has 63 letters of ASCII at most
    async def start(self) -> None: ...  #! a plain def with no argument but self
    def tick(self, now: float) -> None: ...  #! a plain def with no argument but self
    reset = None  #! a plain def with no argument but self
    @call
    def untyped(self, a, b: int) -> None: ...  #! annotate every argument
    @call
    def unknown(self, a: Missing) -> None: ...  #! name 'Missing' is not defined
    @call
    def nonsense(self, a: "int[") -> None: ...  #! Forward reference must be an expression
    @call
    def keyword(self, a, *, b: int) -> None: ...  #! annotate every argument
    @call
    def level(self, a: Level) -> None: ...  #! annotate every argument
    @call
    def maybe(self, a: int | None) -> None: ...  #! annotate every argument
    @call
    def several(self, *a: int) -> None: ...  #! annotate every argument
    @call
    def selfless(a: int) -> None: ...  #! annotate every argument
    @call
    async def slow(self) -> int: ...  #! a handler is a plain def; what takes time returns Later
    @call
    def pieces(self) -> int: yield 1  #! a handler is a plain def; what takes time returns Later
    fixed = call(functools.partialmethod(level, 1))  #! a handler is a plain def with self, no partialmethod
    cached = call(functools.cache(level))  #! a handler is a plain def with self, no _lru_cache_wrapper
    bound = call(classmethod(level))  #! a handler is a plain def with self, no classmethod
    unbound = staticmethod(call(lambda: 0))  #! a handler is a plain def with self, no staticmethod
    @call
    @staticmethod
    def alone(a: int) -> int: ...  #! a handler is a plain def with self, no staticmethod
    @classmethod
    @call
    def of_all(cls, a: int) -> int: ...  #! a handler is a plain def with self, no classmethod
    @call
    @property
    def level_now(self) -> int: ...  #! a handler is a plain def with self, no property
    @property
    @call
    def level_then(self) -> int: ...  #! a handler is a plain def with self, no property
    @functools.cached_property
    @call
    def level_once(self) -> int: ...  #! a handler is a plain def with self, no cached_property
    @action
    @staticmethod
    def push(hard: bool) -> None: ...  #! a handler is a plain def with self, no staticmethod
    @action
    def pull(self, how) -> None: ...  #! annotate every argument: int, bool, str or float
    @action
    def draw(self, *, how: str) -> None: ...  #! annotate every argument: int, bool, str or float
    @action
    def shove(self, how: bytes) -> None: ...  #! an action takes int, bool, str or float
    @action
    def lift(self, far: int, how: float = "x") -> None: ...  #! the default of how is no float: 'x'
    @action
    def drop(self, far: int = True) -> None: ...  #! the default of far is no int: True
    @action
    async def twist(self) -> None: ...  #! a handler is a plain def; what takes time returns Later
    @property
    @action
    def pushed(self) -> bool: ...  #! a handler is a plain def with self, no property
    def open(self) -> None:
        self.site = 0  #! Device has this name for itself
    def gone(self) -> None:
        def later() -> None:
            self.common = None  #! Device has this name for itself
        for self.declares in (): ...  #! Device has this name for itself
        self.offered = self.site.offered = 0
        self.common.clock = self
    def more(self) -> None:
        self.in_use += 1  #! Device has this name for itself
    def stand(self) -> None: ...  #! Device has this name for itself
    @call
    def close(self) -> None: ...  #! Device has this name for itself
    @call
    def text(self, into: Room) -> str: ...  #! a call with a Room returns int
    def read(self, at: int) -> int: ...  #! the verb read takes (Room, int)
    def write(self, data: Data, at: int) -> None: ...  #! the verb write returns int
    def sync(self) -> Later[int]: ...  #! the verb sync returns None
"""


def test_all_mistakes_of_a_model_are_told_by_line(here: Path) -> None:
    (here / "wrong.py").write_text(WRONG)
    wanted = {n: line.split("#! ")[1] for n, line in enumerate(WRONG.splitlines(), 1) if "#! " in line}
    found = {int(line.split(":")[1]): line for line in refused("wrong.py")}
    assert {n for n in wanted if wanted[n] in found.get(n, "")} == wanted.keys(), found
    assert found.keys() == wanted.keys() and all(line.startswith("wrong.py:") for line in found.values())


RIGHT = """
from __future__ import annotations
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, Optional
from hostd.device import Config, Data, Device, Feature, Irq, Later, Property, Room, action, call
class Level(IntEnum):
    LOW = 1
class Place(NamedTuple):
    x: int
    level: Level
Pair = tuple[int, Place]
print("hello from the model")
class Lift(Device):
    compatible = "example,lift-2", "example,lift"
    ids, shared = (0x1234, 0xAB), True
    image = Config(Path, help="what it shows")
    steps = Config(int, 10, "of one round")
    speeds = Config(list[float], [0.5, 2], bounds=(0.25, 4))
    doors = Config(int, 2, bounds=range(1, 11), help="on each side")
    FAST = Feature(5)
    done, failed = Irq(), Irq()
    round_size = Property(int)
    @call(needs=FAST, early=True)
    def go(self, far: int, how: str) -> Pair:
        '''Go there.

        And more.
        '''
    @call
    def level(self) -> Later[Level] | Level: ...
    @call
    def maybe(self) -> Optional[Later[dict[str, list[int]]]]: ...
    @call
    def plain(self): ...
    @call
    def both(self, into: Room, data: Data, at: int) -> int: ...
    @call(again=True)
    def read(self, into: Room, at: int) -> int: ...
    @action
    def ring(self, times: int = 1, tone: str = "low") -> Later[bool]: ...
"""


def test_check_shows_what_a_model_offers(here: Path) -> None:
    (here / "lift.py").write_text(RIGHT)
    code, out, said = check("lift.py")
    assert (code, said) == (0, ["hello from the model", "hostd: lift.py is good"])
    assert [" ".join(line.split()) for line in out.splitlines() if line] == [
        "Lift example,lift-2, example,lift 1234:00ab many guests at once",
        "VERBS",
        "read(into: Room, at: int) -> int again",
        "CALLS",
        "go(far: int, how: str) -> tuple[int, Place] needs FAST; early; Go there.",
        "level() -> Level",
        "maybe() -> dict[str, list[int]] | None",
        "plain() -> Any",
        "both(into: Room, data: Data, at: int) -> int",
        "ACTIONS",
        "ring(times: int = 1, tone: str = 'low') -> bool",
        "INTERRUPTS",
        "done vector 0",
        "failed vector 1",
        "PROPERTIES",
        "round-size int",
        "FEATURES",
        "FAST bit 5",
        "KEYS",
        "image Path required; what it shows",
        "steps int default 10; of one round",
        "speeds list[float] default [0.5, 2]; 0.25 to 4",
        "doors int default 2; 1 to 10; on each side",
    ]
    code, out, _ = check("lift.py:Lift", "--json")
    about = json.loads(out)  # data, and nothing else
    assert code == 0 and about["keys"]["steps"] == {
        "type": "int", "required": False, "help": "of one round", "default": 10
    }  # fmt: skip
    assert about["keys"]["doors"]["bounds"] == [1, 10]
    assert about["about"] == "" and about["file"] == str(here / "lift.py")  # the base class's words are not its own
    assert [each["again"] for each in about["verbs"] + about["calls"]] == [True] + [False] * 5
    assert about["calls"][0]["signature"] == "go(far: int, how: str) -> tuple[int, Place]"


@pytest.mark.parametrize("name", ["block", "console", "rng"])
def test_our_own_models_can_be_described(name: str) -> None:
    about = describe(models.load(name, Path()))
    assert json.loads(json.dumps(about)) == about and about["about"]


def test_a_machine_file_says_what_is_wrong_with_its_models(here: Path) -> None:
    (here / "exits.py").write_text("import sys\nsys.exit(3)\n")
    parse = "class Odd:\n    @staticmethod\n    def parse(text, folder):\n        return {'on': 1}[text]\n"
    lamp = LAMP.replace("Device, call", "Config, Device, call")
    (here / "odd.py").write_text(f"{parse}{lamp}    odd = Config(Odd)\n")
    (here / "m.toml").write_text(
        '[devices.a]\nmodel = "exits.py"\n[devices.b]\nmodel = "none.py:X"\n[devices.c]\nmodel = "a\\u0000.py:X"\n'
        '[devices.d]\nmodel = "odd.py"\nodd = "off"\n'
    )
    code, out, said = check("m.toml")
    assert (code, out) == (78, "") and len(said) == 4
    assert said[0] == "hostd: m.toml: devices.a.model: exits.py:2: SystemExit: 3"
    assert said[1] == "hostd: m.toml: devices.b.model: none.py: No such file or directory"
    assert said[2].startswith("hostd: m.toml: devices.c.model: ")
    assert said[3] == "hostd: m.toml: devices.d.odd: the model cannot read it: KeyError: 'off'"


def test_a_machine_that_is_read_again_has_the_changed_model(here: Path) -> None:
    (here / "lamp.py").write_text(LAMP)
    (here / "m.toml").write_text('[devices.lamp]\nmodel = "lamp.py"\n')
    first, again = (Machine.load("m.toml").devices[0].device for _ in range(2))
    assert first is again
    (here / "lamp.py").write_text(LAMP.replace("example,lamp", "example,led"))
    assert Machine.load("m.toml").devices[0].device.compatible == "example,led" and first.compatible == "example,lamp"
    (here / "lamp.py").write_text("class")
    with pytest.raises(MachineError, match=r"m\.toml: devices\.lamp\.model: lamp\.py:1: invalid syntax"):
        Machine.load("m.toml")
