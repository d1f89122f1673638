"""The commands as a user types them: real processes, what they print, their exit codes, wrong input included."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MACHINE

from hcall.errors import NoHost
from hcall.programs.command import explain
from hostd.commands.shipped import shipped
from hostd.machine import models


class Terminal:
    """Somebody who types commands, with a host that is served or not."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runtime = folder, folder / "run"
        self.environment = {**os.environ, "HOSTD_SOCKET": str(self.runtime), "NO_COLOR": "1"}

    def type(self, line: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run *line*, which begins with `hostd` or `guestd`."""
        return subprocess.run(
            [sys.executable, "-m", *line.split()], input=given, capture_output=True, env=self.environment,
            cwd=self.folder, timeout=20, check=False,
        )  # fmt: skip

    def good(self, line: str, given: bytes = b"") -> str:
        """Run *line*, which has to succeed; what it prints."""
        done = self.type(line, given)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def json(self, line: str) -> Any:
        """Run *line* with --json; what it prints."""
        return json.loads(self.good(f"{line} --json"))

    def start(self, line: str) -> subprocess.Popen[str]:
        """Run *line* beside."""
        return subprocess.Popen(
            [sys.executable, "-m", *line.split()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self.environment, cwd=self.folder,
        )  # fmt: skip


def end(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    return process.returncode


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    (tmp_path / "m.toml").write_text(MACHINE.replace("cmd:cat", "cmd:/bin/sh"))
    return Terminal(tmp_path)


@pytest.fixture
def served(terminal: Terminal) -> Iterator[Terminal]:
    """The same, with `hostd serve` running."""
    host = terminal.start(f"hostd serve m.toml --runtime-dir {terminal.runtime}")
    try:
        terminal.good("hostd wait --timeout 20")
        yield terminal
    finally:
        assert end(host) == 0
        assert sorted(path.name for path in terminal.runtime.iterdir()) == ["hostd.lock"]


def test_a_session_at_the_terminal(served: Terminal) -> None:
    assert [device["path"] for device in served.json("hostd ls")] == ["/rng", "/console", "/disk"]
    listing = served.good("hostd ls").splitlines()
    assert listing[0].split() == ["PATH", "MODEL", "USED", "BY", "PROPERTIES"]
    assert listing[3].split() == ["/disk", "block", "-", "capacity=1048576", "sector-size=512"]
    tree = served.good("hostd tree")
    assert "disk  hostd,block  1af4:1042" in tree and "\x1b" not in tree
    assert served.json("hostd tree")["children"][2]["properties"]["capacity"] == 1 << 20
    assert served.json("hostd status")["devices"] == 3 and "guests:   0 of " in served.good("hostd status")

    found = served.json("guestd probe")
    assert [(node["path"], node["driver"]) for node in found] == [
        ("/", None), ("/rng", "RngDriver"), ("/console", "ConsoleDriver"), ("/disk", "BlockDriver"),
    ]  # fmt: skip
    assert "1af4:1042  BlockDriver" in served.good("guestd probe")

    data = os.urandom(300_000)
    served.good("guestd write disk --at 1000", data)
    (served.folder / "file").write_bytes(data[:5000])
    served.good("guestd write disk file --at 500000")
    served.good("guestd read disk --at 1000 --count 300000 -o out")
    assert (served.folder / "out").read_bytes() == data
    assert served.type("guestd read disk --at 500000 --count 5000").stdout == data[:5000]
    whole = served.type("guestd read disk").stdout
    assert whole == (served.folder / "disk.img").read_bytes() and len(whole) == 1 << 20
    assert len(served.type("guestd read rng --count 100").stdout) == 100


def test_a_console_from_a_pipe(served: Terminal) -> None:
    said = served.good("guestd console", b"echo $((6 * 7))\n")
    assert "42" in said.split()


def test_a_console_at_a_terminal_and_the_way_out(served: Terminal) -> None:
    """Keys go to the shell as they are typed, its size is the terminal's, Ctrl-] leaves."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "guestd", "console"], stdin=theirs, stdout=theirs, stderr=theirs,
                               env=served.environment | {"COLUMNS": "99", "LINES": "33"})  # fmt: skip
    seen = b""
    try:
        os.write(ours, b"stty size; echo answer=$((6 * 7))\r")
        while b"answer=42" not in seen:
            assert select.select([ours], [], [], 20)[0], seen
            seen += os.read(ours, 4096)
        os.write(ours, b"\x1d")
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
        os.close(ours)
    assert b"Ctrl-] leaves" in seen and b"33 99" in seen


def test_a_device_that_cannot_be_had_is_told_once(served: Terminal) -> None:
    holder = served.start("guestd attach --name holder")
    assert holder.stdout is not None
    for _ in range(3):
        holder.stdout.readline()
    late = served.start("guestd attach --name late")
    assert late.stdout is not None
    said = {late.stdout.readline().strip() for _ in range(3)}
    assert {"/disk is in use: `hostd ls` shows by whom", "/rng: bound to RngDriver"} < said
    served.good("hostd plug more rng")
    assert [late.stdout.readline().strip() for _ in range(2)] == ["/more: plugged", "/more: bound to RngDriver"]
    served.good("hostd unplug more")
    assert late.stdout.readline().strip() == "/more: given back, to be unplugged"
    assert end(late) == 0 and end(holder) == 0


def test_plug_and_unplug_while_a_guest_looks_on(served: Terminal) -> None:
    guest = served.start("guestd attach --name watcher")
    assert guest.stdout is not None
    bound = {guest.stdout.readline().strip() for _ in range(3)}
    assert bound == {"/rng: bound to RngDriver", "/console: bound to ConsoleDriver", "/disk: bound to BlockDriver"}
    served.good("hostd wait --guest watcher")
    assert served.json("hostd ls")[2]["guests"] == ["watcher"]
    busy = served.type("guestd read disk")
    assert busy.returncode == 5 and busy.stderr.decode() == "guestd: /disk is in use: `hostd ls` shows by whom\n"

    served.good("hostd plug extra block path=extra.img create=64K")
    assert [guest.stdout.readline().strip() for _ in range(2)] == ["/extra: plugged", "/extra: bound to BlockDriver"]
    assert (served.folder / "extra.img").stat().st_size == 65536
    busy = served.type("hostd unplug extra --if-free")
    assert busy.returncode == 5 and busy.stderr.decode() == "hostd: /extra is in use by watcher\n"
    assert served.json("hostd unplug extra") == {"willing": True}
    assert guest.stdout.readline().strip() == "/extra: given back, to be unplugged"
    served.good("hostd wait --gone extra")
    assert served.type("hostd unplug disk --surprise").stderr == b"hostd: /disk is unplugged\n"
    assert guest.stdout.readline().strip() == "/disk: unplugged"
    assert end(guest) == 0


def test_an_attached_guest_ends_when_the_host_commands_it(served: Terminal) -> None:
    guest = served.start("guestd attach --name polite")
    assert guest.stdout is not None
    served.good("hostd plug power sysman")
    while guest.stdout.readline() != "/power: bound to SysmanDriver\n":
        assert guest.poll() is None
    served.good("hostd act power shutdown")
    assert guest.wait(20) == 3
    assert guest.communicate()[0] == "guestd: the host ended the session: the guest was shut down\n"


def test_an_attached_guest_does_not_wait_for_a_host_that_hangs_once_it_is_told_twice(served: Terminal) -> None:
    guest = served.start("guestd attach --name hasty")
    served.good("hostd wait --guest hasty")
    host = served.json("hostd status")["pid"]
    os.kill(host, signal.SIGSTOP)
    try:
        for _ in range(2):  # a third one would find the interpreter shutting down, and end it as any process
            guest.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                guest.wait(0.5)
        guest.wait(20)
    finally:
        os.kill(host, signal.SIGCONT)
    said = guest.communicate()[0]
    assert guest.returncode == 0 and "Traceback" not in said, said


@pytest.mark.parametrize("line", ["hostd ls", "hostd tree", "hostd demo"])
def test_it_is_no_failure_if_nobody_reads_on(served: Terminal, line: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "wb") as closed:  # noqa: PTH123  # a descriptor, not a path
        done = subprocess.run(
            [sys.executable, "-m", *line.split()], stdout=closed, stderr=subprocess.PIPE, env=served.environment,
            timeout=20, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_host_around_one_command(terminal: Terminal) -> None:
    found = terminal.good(f"hostd run m.toml -- {sys.executable} -m guestd probe --json")
    assert len(json.loads(found)) == 4
    assert terminal.type("hostd run m.toml -- false").returncode == 1
    missing = terminal.type("hostd run m.toml -- no-such-command")
    assert missing.returncode == 127 and missing.stderr == b"hostd: no-such-command: No such file or directory\n"


def test_check_says_what_a_machine_file_has(terminal: Terminal) -> None:
    assert [device["path"] for device in terminal.json("hostd check m.toml")["devices"]] == [
        "/rng",
        "/console",
        "/disk",
    ]
    (terminal.folder / "more.toml").write_text(
        '[devices.disk]\nmodel = "block"\npath = "a.img"\ncreate = "1M"\nread_only = true\n'
        '[devices.port]\nmodel = "tty"\nbacking = "cmd:cat"\nbaud = 9600\n[devices.dog]\nmodel = "watchdog"\n'
    )
    configs = {each["path"]: each["config"] for each in terminal.json("hostd check more.toml")["devices"]}
    assert configs["/disk"] == {"path": str(terminal.folder / "a.img"), "create": 1 << 20, "read_only": True}
    assert (configs["/port"]["backing"], configs["/port"]["baud"]) == ("cmd:cat", 9600)
    assert (configs["/dog"]["timeout"], configs["/dog"]["nowayout"]) == (60, False)  # defaults, too
    (terminal.folder / "bad.toml").write_text('[machine]\nnam = "x"\n[devices.a]\nmodel = "blok"\n')
    done = terminal.type("hostd check bad.toml")
    assert done.returncode == 78 and done.stdout == b""
    assert done.stderr.decode().splitlines() == [
        "hostd: bad.toml: machine.nam: unknown key (did you mean 'name'?); allowed: name",
        "hostd: bad.toml: devices.a.model: no model 'blok' (did you mean 'block'?); "
        f"there are: {', '.join(models.names())}, path/file.py:Class, module:Class",
    ]


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("hostd ls", 3, "no hostd answers at {run}/control.sock: start one with `hostd serve MACHINE.toml`"),
        ("guestd probe", 3, "no hostd answers at {run}/guest.sock"),
        ("guestd console", 3, "no hostd answers at {run}/guest.sock"),
        ("guestd attach", 3, "no hostd answers at {run}/guest.sock"),
        ("hostd wait --timeout 0.1", 6, "it did not happen within 0.1 s"),
        ("hostd serve missing.toml", 78, "missing.toml: No such file or directory"),
        ("hostd frobnicate", 2, 'Unknown command "frobnicate"'),
        ("hostd serve", 2, "MACHINE.toml is missing"),
        ("hostd run m.toml", 2, "which command?"),
        ("hostd serve m.toml --ready-fd 99", 2, "--ready-fd. 99 is no descriptor that can be written"),
        ("hostd serve m.toml --ready-fd -1", 2, "-1 is no descriptor"),
        (f"hostd serve m.toml --ready-fd {1 << 70}", 2, "is no descriptor"),
        ("guestd read disk --at x", 2, '--at is a whole number, not "x"'),
        ("guestd read", 2, "DEVICE is missing"),
    ],
)
def test_wrong_input_gets_one_line_and_its_exit_code(terminal: Terminal, line: str, code: int, said: str) -> None:
    done = terminal.type(line)
    (answer,) = done.stderr.decode().splitlines()
    assert done.returncode == code and done.stdout == b""
    assert said.format(run=terminal.runtime) in answer and answer.startswith(line.split()[0] + ": ")
    assert [path.name for path in terminal.folder.iterdir()] == ["m.toml"]


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("guestd read nothing", 4, "no node '/nothing'"),
        ("hostd unplug nothing", 4, "no node 'nothing'"),
        ("guestd read rng", 2, "rng has no end: how many bytes? --count N"),
        ("guestd read rng --count 9 -o /dev/full", 1, "guestd: /dev/full: No space left on device"),
        ("guestd read disk --at 1048576 --count 1", 2, "disk has 1048576 bytes, 0 from byte 1048576 on"),
        ("guestd read disk --at 99999999", 2, "disk has 1048576 bytes, 0 from byte 99999999 on"),
        ("guestd read disk --at 48576 --count 1000001", 2, "disk has 1048576 bytes, 1000000 from byte 48576 on"),
        ("guestd write disk m.toml --at 1048575", 2, "disk has 1048576 bytes, 1 from byte 1048575 on"),
        ("guestd export disk unix:x --ready-fd 99", 2, "--ready-fd. 99 is no descriptor that can be written"),
        ("guestd write disk --at 1048576", 1, "is outside the disk"),
        ("guestd write disk nofile", 1, "nofile: No such file or directory"),
        ("guestd console disk", 2, "disk is no console"),
        ("hostd plug x block", 78, "plug: devices.x: needs path"),
        ("hostd plug x block path=missing.img", 78, "missing.img: No such file or directory"),
        ("hostd plug disk rng", 5, "there is a 'disk' already: unplug it first, or take another name"),
        ("hostd plug x rng nonsense", 2, "'nonsense' is no KEY=VALUE"),
        ("hostd wait --device x --timeout 0.1", 6, "it did not happen within 0.1 s"),
        ("hostd serve m.toml --runtime-dir {run}", 5, "another hostd serves {run}"),
    ],
)
def test_wrong_input_to_a_host_that_is_there(served: Terminal, line: str, code: int, said: str) -> None:
    done = served.type(line.format(run=served.runtime), b"data")
    (answer,) = done.stderr.decode().splitlines()
    assert done.returncode == code and done.stdout == b"" and said.format(run=served.runtime) in answer
    assert len(served.json("hostd ls")) == 3


def test_a_device_that_cannot_do_what_is_asked_for_says_so(served: Terminal) -> None:
    served.good("hostd plug dog watchdog")
    done = served.type("guestd read dog")
    assert done.returncode == 1 and done.stderr.startswith(b"guestd: dog has no call 'read'")
    done = served.type("hostd act dog")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"hostd: dog has no actions\n")


def test_a_socket_of_somebody_else_is_told_from_one_that_nobody_answers() -> None:
    text, code = explain(NoHost(errno.EACCES, "Permission denied", "x.sock"))
    assert "you may not connect to x.sock" in text and code == 3
    text, code = explain(NoHost(errno.ECONNREFUSED, "Connection refused", "x.sock"))
    assert "no hostd answers at x.sock" in text and code == 3


def test_the_demo_compares_checksums(terminal: Terminal) -> None:
    done = terminal.type("hostd demo")
    assert done.returncode == 0, done.stderr.decode()
    said = done.stdout.decode()
    for line in ("every sha256 equal", "equal on the host", "6 * 7 = 42", "1 resume", "/rng is there again"):
        assert line in said
    facts = terminal.json("hostd demo")
    assert facts["files"] == facts["unpacked"] and facts["resumed"] == 1 and len(facts["entropy"]) == 64


def test_every_model_there_is_shows_evidence(terminal: Terminal) -> None:
    shown = terminal.json("hostd demo --all")
    assert [each["device"] for each in shown if not each["ok"]] == []
    assert all(each["evidence"] and each.keys() == {"device", "class", "evidence", "ok"} for each in shown)
    (terminal.folder / "all.toml").write_bytes(shipped("machines/all.toml").read_bytes())
    used = {device["model"] for device in terminal.json("hostd check all.toml")["devices"]}
    assert used == set(models.names()) and len(shown) == len(terminal.json("hostd check all.toml")["devices"])
