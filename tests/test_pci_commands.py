"""A machine as a PCI bus at the terminal: hostd writes what the real lspci reads, guestd takes what lspci writes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HOSTD, GUESTD = ([sys.executable, "-m", name] for name in ("hostd", "guestd"))
PROBE = [*GUESTD, "probe", "--prober", "pci"]
needs_lspci = pytest.mark.skipif(not shutil.which("lspci"), reason="there is no lspci here")


def said(*command: str | Path, folder: Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder, timeout=60).stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a machine of 40 devices, two of them in one slot, as a dump, and as guestd found them."""
    folder = tmp_path_factory.mktemp("pci")
    names = [*(f"n{n}" for n in range(37)), "n5/below"]
    tables = [f'[devices."{name}"]\nmodel = "rng"\n' for name in names]
    tables += ['[devices.port]\nmodel = "tty"\n', '[devices.keys]\nmodel = "hid"\n']
    (folder / "machine.toml").write_text("".join(tables))
    script = f"{' '.join(HOSTD)} tree --format lspci > dump && {' '.join(PROBE)} --json > found"
    said(*HOSTD, "run", "machine.toml", "--", "sh", "-c", script, folder=folder)
    return folder


@needs_lspci
@pytest.mark.spec("P-1", "P-2")
def test_the_real_lspci_shows_the_machine_as_guestd_found_it(folder: Path) -> None:
    lines = said("lspci", "-n", "-F", "dump", folder=folder).splitlines()
    found = {each["name"]: tuple(each["ids"]) for each in json.loads((folder / "found").read_text())}
    shown = {
        name: (int(vendor, 16), int(device, 16))
        for name, sort, vendor, device in (re.findall(r"^(\S+) (\w{4}): (\w{4}):(\w{4})", line)[0] for line in lines)
        if sort != "0604"
    }
    assert shown == found and len(shown) == 40 and len(lines) == 41
    tree = said("lspci", "-t", "-F", "dump", folder=folder)
    assert "+-05.0\n" in tree and "+-05.1\n" in tree and "-1f.0-[01]--" in tree
    names = said("lspci", "-F", "dump", folder=folder)
    assert "00:1f.0 PCI bridge: Red Hat" in names and "Serial controller: Red Hat" in names


@needs_lspci
def test_guestd_names_what_lspci_names(folder: Path) -> None:
    lines = said("lspci", "-n", "-F", "dump", folder=folder).splitlines()
    table = said(*PROBE, "--dump", "dump", folder=folder).splitlines()[1:]
    assert [row.split()[0] for row in table] == [line.split()[0] for line in lines]
    assert [row.split()[2] for row in table] == [line.split()[2] for line in lines]
    assert sum("RngDriver" in row for row in table) == 38 and sum("TtyDriver" in row for row in table) == 1


def test_a_dump_keeps_the_handles_that_a_guest_finds(folder: Path) -> None:
    found = {each["name"]: each["node"] for each in json.loads((folder / "found").read_text())}
    dumped = json.loads(said(*PROBE, "--dump", "dump", "--json", folder=folder))
    assert {each["name"]: each["node"] for each in dumped if each["node"]} == found
    assert all(each["scanned"] for each in dumped)


def test_a_function_that_no_scan_finds_is_named_and_said(tmp_path: Path) -> None:
    (tmp_path / "part").write_text("00:02.1 USB controller\n00: de 10 5b 00\n\n0001:00:00.0 x\n00: 01 02 03 04\n")
    done = subprocess.run([*PROBE, "--dump", tmp_path / "part"], check=True, capture_output=True, text=True)
    assert [row.split()[0] for row in done.stdout.splitlines()[1:]] == ["0000:00:02.1", "0001:00:00.0"]
    assert "no scan finds 0000:00:02.1: function 0 of its slot is missing" in done.stderr


@pytest.mark.parametrize(
    ("text", "options", "code", "what"),
    [
        ("hello\n", ["--prober", "pci"], 1, "there is no function in it"),
        ("00:20.0 x\n", ["--prober", "pci"], 1, "line 1: no function is at 00:20.0"),
        (None, ["--prober", "pci"], 1, "No such file"),
        ("00:00.0 x\n", [], 2, "a dump is for the prober pci"),
    ],
)
def test_a_dump_that_cannot_be_is_told_why(
    tmp_path: Path, text: str | None, options: list[str], code: int, what: str
) -> None:
    if text is not None:
        (tmp_path / "dump").write_text(text)
    command = [*GUESTD, "probe", *options, "--dump", tmp_path / "dump"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == code and what in done.stderr and "Traceback" not in done.stderr and not done.stdout
