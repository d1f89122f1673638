"""Completion as a shell has it: the scripts that the programs write, asked by a real bash."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hostd
from hostd.machine import models

# What bash does at the Tab key: it calls the function that was registered for the program.
TAB = """
. ~/.bashrc
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
read -r _ _ function _ < <(complete -p "$1")
"$function"
printf '%s\\n' "${COMPREPLY[@]}"
"""


class Home:
    """A user's home, and the bash that is started there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {"HOME": str(folder), "PATH": path, "NO_COLOR": "1", "TERM": "dumb"}

    def run(self, *words: str) -> str:
        """Run a command there, which has to succeed; what it prints."""
        return subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=True,
                              timeout=60).stdout  # fmt: skip

    def tab(self, *words: str) -> list[str]:
        """What bash offers for the last of *words*."""
        return self.run("bash", "-c", TAB, "bash", *words).split()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    home = Home(tmp_path)
    for program in ("hostd", "guestd"):
        home.run(program, "--install-completion", "--shell", "bash")
    return home


def test_commands_options_and_files(home: Home) -> None:
    (home.folder / "machine.toml").touch()
    assert home.tab("hostd", "un") == ["unplug"]
    assert home.tab("guestd", "") == [
        "probe", "attach", "read", "write", "copy", "console", "export", "shell",
    ]  # fmt: skip
    assert home.tab("hostd", "--v") == ["--version"]
    assert home.tab("hostd", "ls", "--") == ["--socket", "--json", "--help", "--version"]
    assert home.tab("guestd", "read", "disk", "--o") == ["--output"]
    for line in ("hostd serve", "hostd run", "hostd check", "guestd write disk", "guestd probe --driver"):
        assert home.tab(*line.split(), "m") == ["machine.toml"]
    assert home.tab("hostd", "plug", "x", "") == models.names()


async def test_the_devices_that_there_are(home: Home, host: hostd.Host) -> None:
    def offered(*lines: str) -> list[list[str]]:
        return [home.tab(*line.split(" ")) for line in lines]

    home.environment["HOSTD_SOCKET"] = str(host.socket)
    here = ("hostd unplug ", "hostd wait --gone d", "guestd read ", "guestd console /c")
    there = [["rng", "console", "disk"], ["disk"], ["rng", "console", "disk"], ["/console"]]
    assert await asyncio.to_thread(offered, *here) == there
    home.environment["HOSTD_SOCKET"] = "/nowhere"
    elsewhere = (f"hostd unplug --socket {host.socket} ", f"guestd read --socket {host.socket} d", "guestd read ")
    assert await asyncio.to_thread(offered, *elsewhere) == [["rng", "console", "disk"], ["disk"], []]


def test_installing_it_twice_is_installing_it_once(home: Home) -> None:
    before = {file: file.read_text() for file in home.folder.rglob("*") if file.is_file()}
    assert {file.name for file in before} == {".bashrc", "guestd", "hostd"}
    home.run("hostd", "--install-completion", "--shell", "bash")
    assert {file: file.read_text() for file in home.folder.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_elsewhere_changes_nothing_else(shell: str, tmp_path: Path) -> None:
    """A shell that is there reads it without complaint."""
    home = Home(tmp_path)
    for program in ("hostd", "guestd"):
        home.run(program, "--install-completion", "--shell", shell, "-o", f"there/{program}")
        if shutil.which(shell):
            assert home.run(shell, "-n", f"there/{program}") == ""
        assert "--socket" in (tmp_path / "there" / program).read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["there"]
