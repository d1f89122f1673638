"""The man pages: as the programs are now, without a complaint of groff, and complete."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import guestd.commands.cli
import hostd.commands.cli
from hcall.programs.command import Exit

ROOT = Path(__file__).parents[1]
PROGRAMS = {"hostd": hostd.commands.cli.app, "guestd": guestd.commands.cli.app}


def test_the_pages_are_those_of_the_programs(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts/man.d/man.py", tmp_path], check=True, timeout=60)
    for file in sorted((ROOT / "docs/man").iterdir()):
        assert (tmp_path / file.name).read_text() == file.read_text(), f"{file.name} is old: run scripts/man"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["guestd.1", "hostd.1"]


@pytest.fixture(params=PROGRAMS)
def page(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The name of a program, and its page as it is read at a terminal of 80 columns."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    file = ROOT / f"docs/man/{request.param}.1"
    shown = subprocess.run(["groff", "-man", "-ww", "-Tutf8", "-P-cbou", "-rLL=80n", file],
                           capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    assert shown.stderr == ""
    return request.param, shown.stdout


def section(text: str, title: str) -> str:
    """What stands below *title*."""
    (found,) = re.findall(rf"^{title}\n(.*?)^(?=\w)", text, re.MULTILINE | re.DOTALL)
    return found


def has(text: str, name: str) -> bool:
    """Whether *name* has an explanation in *text*."""
    return re.search(rf"^       (-\w, )?{re.escape(name)}( .*)?$", text, re.MULTILINE) is not None


def test_it_can_be_read_at_80_columns(page: tuple[str, str]) -> None:
    name, text = page
    assert max(map(len, text.splitlines())) <= 80
    assert section(text, "NAME").startswith(f"       {name} - standard virtual devices")
    assert all(section(text, title) for title in ("SYNOPSIS", "DESCRIPTION", "FILES", "SEE ALSO"))


def test_every_command_argument_and_option_is_there(page: tuple[str, str]) -> None:
    name, text = page
    program = PROGRAMS[name]
    parts = re.split(r"^   (?=\w)", section(text, "COMMANDS"), flags=re.MULTILINE)[1:]
    commands = {part.split()[1]: part for part in parts}
    assert list(commands) == [command for command in program if not command.startswith("-")]
    for command, about in commands.items():
        assert program[command].help.split()[:3] == about.partition("\n")[2].split()[:3]
        with program.app_stack(program.parse_commands([command])[1]):
            for argument in program[command].assemble_argument_collection().filter_by(show=True):
                assert has(about, argument.name), f"{command}: {argument.name}"
    for option in ("--help", "--version", "--install-completion", "--debug"):
        assert has(section(text, "OPTIONS"), option)


def test_every_exit_code_is_there(page: tuple[str, str]) -> None:
    _, text = page
    codes = re.findall(r"^       (\d+) ", section(text, "EXIT STATUS"), re.MULTILINE)
    assert [int(code) for code in codes] == list(Exit)


def test_every_variable_that_is_looked_at_is_there() -> None:
    files = [file for folder in ("protocol/hcall", "hostd", "guestd") for file in (ROOT / folder).rglob("*.py")]
    looked_at = {name for file in files for name in re.findall(r'environ(?:\.\w+\(|\[)"(\w+)"', file.read_text())}
    written = "".join(file.read_text() for file in (ROOT / "docs/man").iterdir()).replace(r"\fB", "")
    assert len(looked_at) > 5
    assert looked_at - set(re.findall(r"\w+", written)) == {"TERM", "WATCHDOG_PID"}  # what they say is known elsewhere
