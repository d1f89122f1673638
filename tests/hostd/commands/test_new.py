"""`hostd new`: what it writes passes its own test, runs, and is clean; names that would not work are refused."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from hcall.programs.command import Failure
from hostd.commands.new import make

FILES = ["machine.toml", "test_{}.py", "{}.py", "{}_driver.py"]


def run(folder: Path, *command: str) -> str:
    """Run a module of Python in *folder*, where it has to succeed; what it prints on both streams."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", *command], cwd=folder, capture_output=True, text=True, timeout=60,
        env=os.environ | {"NO_COLOR": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# Names of the template's own words, of Python's soft keywords, and what holds `example`; the longest, and the shortest.
@pytest.mark.parametrize("name", ["lamp", "my_example_2", "match", "count", "steps", "guest", "a", f"x{'y' * 30}"])
def test_what_is_written_works_as_it_stands(tmp_path: Path, name: str) -> None:
    written = make(name, tmp_path)
    assert sorted(written) == sorted(tmp_path / name / file.format(name) for file in FILES)
    folder = tmp_path / name
    texts = {file: file.read_text() for file in written}
    assert "Ran 2 tests" in run(folder, "unittest")
    about = json.loads(run(folder, "hostd", "check", "--json", f"{name}.py"))
    assert about["compatible"] == [f"example,{name}"] and [call["name"] for call in about["calls"]] == ["count"]
    assert f"/{name}" in run(folder, "hostd", "check", "machine.toml")
    seen = run(folder, "hostd", "run", "machine.toml", "--", sys.executable, "-m", "hostd", "ls", "--json")
    assert [node["path"] for node in json.loads(seen)] == [f"/{name}"]
    assert {file: file.read_text() for file in written} == texts


def test_it_runs_with_its_driver(tmp_path: Path) -> None:
    make("lamp", tmp_path)
    guest = [sys.executable, "-m", "guestd", "probe", "--driver", "lamp_driver.py"]
    assert "LampDriver" in run(tmp_path / "lamp", "hostd", "run", "machine.toml", "--", *guest)


@pytest.mark.parametrize("tool", [["mypy", "--strict"], ["ruff", "check", "--isolated"], ["ruff", "format", "--check"]])
def test_it_is_typed_and_tidy(tmp_path: Path, tool: list[str]) -> None:
    if importlib.util.find_spec(tool[0]) is None:
        pytest.skip(f"{tool[0]} is not installed")
    for name in ("lamp", "zebra_crossing"):  # before and after hostd in the alphabet
        make(name, tmp_path)
        (tmp_path / name / "ruff.toml").write_text("line-length = 120\n")
        run(tmp_path / name, *tool, ".")


def test_the_command_says_what_to_do_next(tmp_path: Path) -> None:
    said = run(tmp_path, "hostd", "new", "lamp").splitlines()
    assert said[:4] == ["lamp/lamp.py", "lamp/lamp_driver.py", "lamp/machine.toml", "lamp/test_lamp.py"]
    tries = "; ".join(line.removeprefix("hostd:").strip().removeprefix("now try: cd lamp; ") for line in said[4:])
    assert tries.startswith("python -m unittest; ")
    for line in tries.split("; ")[1:]:  # commands of hostd, which may run one of guestd
        words = shlex.split(line.replace("guestd ", f"{sys.executable} -m guestd "))
        out = run(tmp_path / "lamp", *words)
        assert "/lamp" in out or out == "3\n"
    texts = [(tmp_path / file).read_text().lower() for file in said[:4]]
    assert all("lamp" in text and "example" not in text.replace('"example,lamp"', "") for text in texts)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "is no name for a module: 1 to 31 small letters"),
        ("Lamp", "a letter first: say, lamp"),
        ("my-lamp", "say, my_lamp"),
        ("my lamp!", "say, my_lamp"),
        ("../lamp", "say, lamp"),
        ("/tmp/lamp", "say, tmp_lamp"),
        ("lamp.py", "say, lamp_py"),
        ("lamp\n", "say, lamp"),
        ("2lamps", "a letter first"),
        ("_lamp", "say, lamp"),
        ("x" * 32, "1 to 31 small letters"),
        ("l\xe4mpchen", "small letters"),
        ("\uff4c\uff41\uff4d\uff50", "small letters"),
        ("Class", "a letter first"),
        ("class", "say, class_device"),  # keywords
        ("json", "say, json_device"),  # the standard library
        ("none", "say, none_device"),  # class None
        ("value_error", "say, value_error_device"),  # class ValueError, which the template raises
        ("print", "say, print_device"),
        ("hostd", "say, hostd_device"),  # what the template imports
        ("bad_argument", "say, bad_argument_device"),
        ("device", "say, device_device"),
        ("machine", "say, machine_device"),
        ("self", "say, self_device"),
        ("msgspec", "say, msgspec_device"),  # what hostd imports: python -m unittest would find the model instead
        ("rich", "say, rich_device"),
        ("pytest", "say, pytest_device"),
    ],
)
def test_a_name_that_would_not_work_is_refused(tmp_path: Path, name: str, says: str) -> None:
    with pytest.raises(Failure) as error:
        make(name, tmp_path)
    assert error.value.code == 2 and says in str(error.value) and repr(name) in str(error.value)
    assert "say, class" not in str(error.value) or name == "class"  # no hint that is refused as well
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("there", ["a folder", "a file", "a link that leads nowhere"])
def test_what_is_there_is_not_touched(tmp_path: Path, there: str) -> None:
    lamp = tmp_path / "lamp"
    if there == "a folder":
        lamp.mkdir()
    elif there == "a file":
        lamp.write_text("precious")
    else:
        lamp.symlink_to(tmp_path / "nowhere")
    with pytest.raises(Failure, match="lamp is there already: take another name, or remove it"):
        make("lamp", tmp_path)
    assert list(tmp_path.rglob("*")) == [lamp] and (there != "a file" or lamp.read_text() == "precious")


def test_half_a_device_is_none(tmp_path: Path) -> None:
    """The disk is full: no file of it can have 600 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            make("lamp", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
    assert len(make("lamp", tmp_path)) == 4
