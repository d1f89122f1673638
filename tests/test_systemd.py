"""The units: judged by systemd's own tools, their commands run, and what hostd does compared with what they allow."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MACHINE

from hostd.calls.limits import Limits

UNITS = Path(__file__).parents[1] / "systemd"
SERVICES = ("hostd.service", "guestd@.service")
INSTALLED = "/opt/hostd/bin"  # where docs/service.md puts the commands
HERE = sysconfig.get_path("scripts")
PATIENCE = 60.0
NO_WRITE_EXECUTE = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    sys.exit("the kernel does not know it")
os.execvp(sys.argv[1], sys.argv[1:])
"""


def values(unit: str, key: str) -> list[str]:
    """What *unit* says of *key*, which it may say more than once."""
    return re.findall(rf"^{key}=(.*)$", (UNITS / unit).read_text(), re.MULTILINE)


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, **options)


def command(unit: str, key: str, folder: Path) -> list[str]:
    """A command of *unit*, with paths of this environment, and *folder* for /etc/hostd and /run."""
    (line,) = values(unit, key)
    paths = {INSTALLED: HERE, "/run/hostd": str(folder / "run"), "/etc/hostd": str(folder), "%i": "GUEST"}
    for path, ours in paths.items():
        line = line.replace(path, ours)
    return line.split()


@contextlib.contextmanager
def served(folder: Path, *before: str) -> Iterator[Path]:
    """What hostd.service runs, with *before* in front of its command; the runtime directory."""
    (folder / "machine.toml").write_text(MACHINE)
    host = subprocess.Popen([*before, *command("hostd.service", "ExecStart", folder)])
    try:
        waited = run(f"{HERE}/hostd", "wait", "--timeout", "20", "--socket", folder / "run")
        assert waited.returncode == 0, waited.stderr
        yield folder / "run"
    finally:
        host.terminate()
        assert host.wait(PATIENCE) == 0


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A copy of the units, with the commands of this environment."""
    folder = tmp_path / "units"
    folder.mkdir()
    for path in filter(Path.is_file, UNITS.iterdir()):
        (folder / path.name).write_text(path.read_text().replace(INSTALLED, HERE))
    return folder


def test_systemd_finds_nothing_wrong(units: Path) -> None:
    done = run(tool("systemd-analyze"), "verify", *units.iterdir())
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_exposed_to_next_to_nothing(units: Path, name: str) -> None:
    done = run(tool("systemd-analyze"), "security", "--offline=true", "--threshold=10", units / name)  # 1.0 of 10
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to another user")
def test_the_user_and_the_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for command in (("systemd-sysusers",), ("systemd-tmpfiles", "--create")):
        snippet = UNITS / f"{command[0].removeprefix('systemd-')}.d" / "hostd.conf"
        done = run(tool(command[0]), *command[1:], f"--root={tmp_path}", snippet)
        assert done.returncode == 0, done.stderr
    users = {line.split(":")[0]: line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines()}
    _, _, user, group, _, home, shell = users["hostd"]
    assert home == "/var/lib/hostd" and shell.endswith("nologin")
    for folder, owner, mode in (
        ("run/hostd", (int(user), int(group)), 0o750),
        ("var/lib/hostd", (int(user), int(group)), 0o750),
        ("etc/hostd", (0, 0), 0o755),
    ):
        found = (tmp_path / folder).stat()
        assert ((found.st_uid, found.st_gid), found.st_mode & 0o777) == (owner, mode), folder


def test_the_sockets_are_those_that_hostd_knows_with_the_modes_that_it_gives_them(tmp_path: Path) -> None:
    """As made by hostd itself, so as handed over by systemd."""
    (sockets,) = values("hostd.service", "Sockets")
    modes = {}
    for name in sockets.split():
        (path,), (mode,) = values(name, "ListenStream"), values(name, "SocketMode")
        (fd_name,) = values(name, "FileDescriptorName")
        modes[Path(path).name] = int(mode, 8)
        assert Path(path).name == f"{fd_name}.sock"
        assert name == "hostd.socket" or values(name, "Service") == ["hostd.service"]
        assert values(name, "SocketUser") == values("hostd.service", "User")
    with served(tmp_path) as runtime:
        assert modes == {path.name: path.stat().st_mode & 0o777 for path in runtime.glob("*.sock")}


def test_the_limit_of_open_files_is_enough_for_all_guests(tmp_path: Path) -> None:
    (limit,) = map(int, values("hostd.service", "LimitNOFILE"))
    with served(tmp_path, "prlimit", f"--nofile={limit}") as runtime:
        status = json.loads(run(f"{HERE}/hostd", "status", "--json", "--socket", runtime).stdout)
    assert status["limits"]["guests"] == Limits().guests


def test_the_commands_of_the_units_work_together(tmp_path: Path) -> None:
    with served(tmp_path) as runtime:
        assert run(*command("hostd.service", "ExecReload", tmp_path)).stdout == "nothing changed\n"
        (tmp_path / "machine.toml").write_text("[devices.x]")
        refused = run(*command("hostd.service", "ExecReload", tmp_path))
        assert refused.returncode == 78 and "devices.x" in refused.stderr
        guest = subprocess.Popen(command("guestd@.service", "ExecStart", tmp_path), stdout=subprocess.DEVNULL)
        try:
            waited = run(f"{HERE}/hostd", "wait", "--guest", "GUEST", "--timeout", "20", "--socket", runtime)
            assert waited.returncode == 0, waited.stderr
        finally:
            guest.terminate()
            assert guest.wait(PATIENCE) == 0


def test_the_filter_lets_through_whatever_host_and_guest_call(tmp_path: Path) -> None:
    strace, analyze = tool("strace"), tool("systemd-analyze")
    traced = run(strace, "-f", "-c", "-o", tmp_path / "calls", f"{HERE}/hostd", "demo")
    assert traced.returncode == 0, traced.stderr
    called = {line.split()[-1] for line in (tmp_path / "calls").read_text().splitlines()[2:-2]}
    assert {"memfd_create", "pidfd_open", "recvmsg", "flock"} <= called

    def expanded(name: str) -> set[str]:
        if not name.startswith("@"):
            return {name}
        members = run(analyze, "syscall-filter", name).stdout.split("\n")[1:]
        return set().union(*(expanded(member.strip()) for member in members if not member.strip().startswith("#")))

    for unit in SERVICES:
        allowed, denied, *again = values(unit, "SystemCallFilter")
        assert denied[0] == "~"
        calls = called if unit.startswith("hostd") else called - {"setpriority"}  # of the host's workers
        refused = calls & set().union(*map(expanded, denied[1:].split())) - set().union(*map(expanded, again))
        assert not calls - set().union(*map(expanded, allowed.split())) | refused


@pytest.mark.parametrize("option", ["MemoryDenyWriteExecute", "ProcSubset"])
def test_the_demo_runs_under(option: str) -> None:
    assert all(values(unit, option) for unit in SERVICES)
    sandbox: tuple[str, ...] = (sys.executable, "-c", NO_WRITE_EXECUTE)
    if option == "ProcSubset":
        mount = "mount -t proc -o hidepid=invisible,subset=pid proc /proc"
        sandbox = ("unshare", "--mount", "sh", "-c", f'{mount} && test ! -e /proc/meminfo && exec "$@"', "sh")
    if run(*sandbox, "true").returncode:
        pytest.skip(f"a process may not be put under {option} here")
    done = run(*sandbox, f"{HERE}/hostd", "demo")
    assert done.returncode == 0, done.stderr
