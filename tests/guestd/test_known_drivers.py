"""Drivers of the user's own come first, those of packages are found or left out, and mistakes are told by line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import guestd
import hostd
from guestd.bus.known import known_drivers, match, own_drivers
from guestd.drivers.rng import RngDriver
from guestd.probers import Found
from hcall.programs.plugins import PluginError

OWN = """
from guestd.driver import Driver, Op
class {name}(Driver):
    compatible = ("{compatible}",)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to be in; what is imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.delenv("GUESTD_DRIVERS", raising=False)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def write(file: str, *drivers: tuple[str, str]) -> None:
    Path(file).write_text("".join(OWN.format(name=name, compatible=compatible) for name, compatible in drivers))


def names(drivers: list[type[guestd.driver.Driver]]) -> list[str]:
    return [driver.__name__ for driver in drivers]


def test_own_drivers_are_all_of_a_file_or_the_one_that_is_named(here: Path) -> None:
    write("one.py", ("First", "a,b"), ("Second", "c,d"))
    write("two.py", ("Third", "e,f"))
    sys.path.append(str(here))
    assert names(own_drivers(["one.py", "two.py:Third"])) == ["First", "Second", "Third"]
    assert names(own_drivers([str(here / "one.py:Second"), "two:Third", "two"])) == ["Second", "Third", "Third"]
    assert own_drivers([]) == []
    for name, says in (
        ("one.py:Secnod", "one.py: no class 'Secnod' (did you mean 'Second'?); it has First, Second"),
        ("three.py", "three.py: No such file or directory"),
        ("guestd.commands.cli", "guestd.commands.cli: it has no Driver: class Name(Driver): ..."),
    ):
        with pytest.raises(PluginError) as error:
            own_drivers(["one.py", name])
        assert error.value.lines == [says]


@pytest.mark.parametrize(
    ("variable", "first"),
    [
        (None, []),
        ("", []),
        (",", []),
        ("one.py", ["First", "Second"]),
        ("two.py,one.py:Second", ["Third", "Second"]),
        (",{}/two.py,,", ["Third"]),
    ],
)
def test_those_of_the_variable_come_before_the_installed_ones(
    here: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None, first: list[str]
) -> None:
    write("one.py", ("First", "a,b"), ("Second", "c,d"))
    write("two.py", ("Third", "hostd,rng"))
    if variable is not None:
        monkeypatch.setenv("GUESTD_DRIVERS", variable.format(here))
    known = known_drivers()
    installed = names(known)[len(first) :]
    assert names(known)[: len(first)] == first and installed == sorted(installed) and "BlockDriver" in installed
    found = match(Found(1, "/rng", "rng", ("hostd,rng",), (0, 0)), known)
    assert found is (known[names(known).index("Third")] if "Third" in first else RngDriver)
    known.clear()
    assert "RngDriver" in names(known_drivers())  # what is given is the caller's


async def test_a_guest_takes_its_own_driver_of_a_device_that_another_has_too(
    host: hostd.Host, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("mine.py", ("Mine", "hostd,rng"))
    monkeypatch.setenv("GUESTD_DRIVERS", "mine.py")
    async with guestd.attach(host.socket, memory=1 << 16) as guest:
        assert type(await guest.bind("rng")).__name__ == "Mine" and len(await guest["rng"].read(8)) == 8
        assert type(await guest.bind("disk")).__name__ == "BlockDriver"
    monkeypatch.setenv("GUESTD_DRIVERS", "mine.py,broken.py")
    (here / "broken.py").write_text("\nimport sys\nsys.exit(1)\n")
    with pytest.raises(PluginError, match=r"broken\.py:3: SystemExit: 1"):
        async with guestd.attach(host.socket):
            raise AssertionError("a driver that was asked for is not there")


def test_packages_offer_drivers_and_one_that_is_broken_is_left_out(here: Path) -> None:
    info = here / "site/lamps-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lamps\nVersion: 1.0\n")
    points = "lamp=lamps:Lamp", "gone=lamps:Gone", "bad=lamps_bad:Lamp", "other=json:JSONDecoder", "no=nothing:X"
    (info / "entry_points.txt").write_text("\n".join(["[guestd.drivers]", *points]))
    write("site/lamps.py", ("Lamp", "example,lamp"), ("NotOffered", "example,led"))
    (here / "site/lamps_bad.py").write_text("raise SystemExit('out')\n")
    (here / "models.py").write_text("""
from hostd.device import Device
class Lamp(Device): compatible = "example,lamp"
class Led(Device): compatible = "example,led"
""")
    (here / "m.toml").write_text('[devices.lamp]\nmodel = "models.py:Lamp"\n[devices.led]\nmodel = "models.py:Led"\n')
    done = subprocess.run(
        [sys.executable, "-m", "hostd", "run", "m.toml", "--", sys.executable, "-m", "guestd", "probe", "--json"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(here / "site"), os.environ.get("PYTHONPATH", "")])},
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    taken = {node["path"]: node["driver"] for node in json.loads(done.stdout)}
    assert taken == {"/": None, "/lamp": "Lamp", "/led": None}
    left_out = [line for line in done.stderr.splitlines() if "a driver is left out: " in line]
    assert len(left_out) == 4 and len(done.stderr.splitlines()) == 4
    for says in ("no class 'Gone'", "bad.py:1: SystemExit: out", "JSONDecoder is no Driver", "no module 'nothing'"):
        assert any(says in line for line in left_out)


def test_mistakes_of_a_driver_are_told_by_line(here: Path) -> None:
    text = """
from guestd.driver import Driver, Op, Signal
class Wrong(Driver):
    compatible = "example,lamp"  #! compatible is a tuple: ("vendor,name",)
    ids = (0x1234, 0x5678)  #! ids is a tuple of pairs
    wants = "FLUSH"  #! wants is a tuple of names of features
    glow = Op[[int], int]  #! the () behind it is missing
    dim = Op  #! the () behind it is missing
    burnt = Signal  #! the () behind it is missing
    good, better = Op[[], None](), Signal()
    settle = Op[[], None]()  #! the name is Driver's own, a method that takes ()
    async def probe(self):
        self.number = 1  #! the name is Driver's own, a method that takes (call)
"""
    Path("wrong.py").write_text(text)
    with pytest.raises(PluginError) as error:
        own_drivers(["wrong.py"])
    wanted = {n: line.split("#! ")[1] for n, line in enumerate(text.splitlines(), 1) if "#! " in line}
    found = {int(line.split(":")[1]): line for line in error.value.lines}
    assert found.keys() == wanted.keys() and all(wanted[n] in found[n] for n in wanted)


def test_a_class_that_is_no_driver_of_its_own_file_is_not_taken_by_itself(here: Path) -> None:
    Path("users.py").write_text("from guestd.drivers.rng import RngDriver\nclass Mine(RngDriver): pass\n")
    assert names(own_drivers(["users.py"])) == ["Mine"]
    assert own_drivers(["users.py:RngDriver"]) == [RngDriver]
