"""Files of common names disturb nothing of ours, wherever they lie: we take three names, and no more."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from sources import HOMES, ROOT

OURS = {part for home in HOMES.values() for package in HOMES for path in (home / package).rglob("*.py")
        for part in path.relative_to(home).with_suffix("").parts}  # fmt: skip
# What Python itself or what we stand on takes is nobody's to take again: an own socket.py breaks every program.
TAKEN = {*sys.stdlib_module_names, *HOMES, "__init__", "__main__", "msgpack", "msgspec", "uvloop", "cyclopts", "rich"}
NAMES = sorted(({"protocol", "docs", "scripts", "systemd", "tests"} | OURS) - TAKEN)
PYTHON, PROGRAMS = sys.executable, Path(sys.executable).parent

MACHINE = '[devices.rng]\nmodel = "rng"\n[devices.lamp]\nmodel = "lamp.py"\n'
MODEL = """
import helpers, protocol
from hostd.device import Device, call

class Lamp(Device):
    compatible = "example,lamp"

    @call
    def colours(self) -> str:
        return helpers.COLOUR + protocol.COLOUR
"""
SCRIPT = """
import asyncio, sys
import guestd, hostd
from hcall.errors import BadArgument

async def main():
    async with hostd.serve("machine.toml") as host, guestd.attach(host.socket) as guest:
        print(len(await guest["rng"].getrandom(16)))

asyncio.run(main())
"""


def fill(folder: Path, as_packages: bool) -> Path:
    """Put a module of every name into *folder* that ends whatever imports it."""
    folder.mkdir(exist_ok=True)
    for name in NAMES:
        file = folder / name / "__init__.py" if as_packages else folder / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"raise SystemExit('{name} has been imported')\n")
    return folder


@pytest.fixture(params=[False, True], ids=["files", "packages"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a script, a model that has helpers, a machine, and a module of every common name."""
    desk = fill(tmp_path / "desk", request.param)
    for name, text in {"machine.toml": MACHINE, "lamp.py": MODEL, "script.py": SCRIPT}.items():
        (desk / name).write_text(text)
    (desk / "helpers.py").write_text("COLOUR = 'red'\n")
    home = desk / "protocol" / "__init__.py" if request.param else desk / "protocol.py"
    home.write_text("COLOUR = 'green'\n")
    return desk


def run(desk: Path, *command: str | Path, path: Path | None = None) -> str:
    """What *command*, run in *desk*, prints; it must go well.  *path* is in front of all that is installed."""
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(desk), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"PYTHONPATH": str(path)} if path else {}
    done = subprocess.run(
        command, check=False, cwd=desk, env=environment, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_names_are_common_ones() -> None:
    some = "protocol calls model tree machine service commands session clock guests programs kernel shell bus device"
    assert set(some.split()) <= set(NAMES)


def test_a_script_runs_beside_them(desk: Path) -> None:
    assert run(desk, PYTHON, "script.py") == "16\n"
    assert run(desk, PYTHON, "-m", "script") == "16\n"


def test_a_script_runs_though_they_are_installed(desk: Path, tmp_path: Path) -> None:
    packages = fill(tmp_path / "site-packages", False)
    (packages / "protocol.py").unlink()  # the model has one
    assert run(desk, PYTHON, "script.py", path=packages) == "16\n"


def test_the_commands_run_beside_them_and_a_model_has_its_helpers(desk: Path) -> None:
    assert run(desk, PROGRAMS / "hostd", "check", "machine.toml").count("\n") == 3
    assert "colours() -> str" in run(desk, PROGRAMS / "hostd", "check", "lamp.py")
    served = (PROGRAMS / "hostd", "run", "machine.toml", "--", PROGRAMS / "guestd")
    assert "lamp" in run(desk, *served, "probe")
    assert run(desk, *served, "shell", "dev lamp", "colours") == "redgreen\n"


def test_they_run_as_modules_too(desk: Path) -> None:
    assert run(desk, PYTHON, "-m", "hostd", "check", "machine.toml").count("\n") == 3
    served = (PYTHON, "-m", "hostd", "run", "machine.toml", "--", PYTHON, "-m", "guestd")
    assert "lamp" in run(desk, *served, "probe")


def test_the_demo_and_a_new_device_work_among_them(desk: Path) -> None:
    (desk / "json.py").write_text("raise SystemExit('json has been imported')\n")  # a program has a path of its own
    assert "compare" in run(desk, PROGRAMS / "hostd", "demo")
    run(desk, PROGRAMS / "hostd", "new", "counter")
    run(fill(desk / "counter", False), PYTHON, "-m", "unittest", "test_counter")


def test_the_wheel_takes_three_names(tmp_path: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    (built,) = wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(built) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0] for name in names if not name.startswith("hostd-")} == set(HOMES)
    assert {f"{package}/py.typed" for package in HOMES} | {"hostd/template/example.py"} <= names


def test_the_source_distribution_has_all_that_the_tests_need(tmp_path: Path) -> None:
    sdist = pytest.importorskip("hatchling.builders.sdist", reason="hatchling is not installed")
    (built,) = sdist.SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("hostd", "guestd", "protocol", "docs", "tests", "scripts/template", "scripts/bench.d", "systemd"):
        files = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert {str(path) for path in files if "__pycache__" not in path.parts} <= names
    assert {"README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"} <= names
