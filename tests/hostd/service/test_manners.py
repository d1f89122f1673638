"""A host within a program leaves that program as it was, and its errors are errors, no command's exits."""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sources import HOMES, Sources

import guestd
import hostd
from hcall.programs.command import Exit, Failure, explain, print_json
from hcall.programs.mistakes import BadConfiguration, InUse
from hcall.programs.plugins import PluginError
from hostd.commands.remote import ask
from hostd.machine import models
from hostd.machine.file import DeviceInUse
from hostd.service.sockets import AlreadyServed, WrongSocket, handed_over

EVERYTHING = """
[machine]
name = "everything"
[devices.rng]
model = "rng"
[devices.console]
model = "console"
backing = "cmd:cat"
[devices.line]
model = "tty"
backing = "pty:"
[devices.disk]
model = "block"
path = "disk.img"
create = "1M"
[devices.shared]
model = "folder"
path = "shared"
tag = "shared"
[devices.dog]
model = "watchdog"
[devices.power]
model = "sysman"
[devices.net]
model = "net"
[devices.lamp]
model = "lamp.py"
"""
MODEL = """
import time
from hostd.device import Config, Device, Property

print("loaded")

class Kind:
    @classmethod
    def parse(cls, text, folder):
        print("parsed")
        return cls()

class Lamp(Device):
    compatible = "example,lamp"
    level = Property(float)
    kind = Config(Kind, "")

    def check_keys(self) -> None:
        print("checked")

    def start(self) -> None:
        print("started")
        self.level = float("nan")

    def stop(self) -> None:
        self.offload(lambda: (time.sleep(0.3), print("worked")))
"""


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    (tmp_path / "lamp.py").write_text(MODEL)
    (tmp_path / "machine.toml").write_text(EVERYTHING)
    return tmp_path


@pytest.fixture
def few_files() -> Iterator[int]:
    """A process that may open a hundred and fifty files, and might have more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = 150
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    yield allowed
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def state() -> dict[str, object]:
    """What a process has only one of."""
    mask = os.umask(0o22)
    os.umask(mask)
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    root = logging.getLogger()
    return {
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in names},
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "timer": signal.getitimer(signal.ITIMER_REAL),
        "umask": mask,
        "folder": Path.cwd(),
        "logging": (root.level, list(root.handlers), logging.getLogger("hostd").level, logging.raiseExceptions),
        "environment": dict(os.environ),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "hooks": (sys.excepthook, sys.unraisablehook, sys.getswitchinterval(), list(warnings.filters)),
    }


async def test_a_program_that_serves_is_as_before(desk: Path) -> None:
    async with hostd.serve(desk / "machine.toml"):  # the first loads modules, and a loop's own handlers
        pass
    before = state()
    async with hostd.serve(desk / "machine.toml") as host:
        assert state() == before
        async with guestd.attach(host.socket) as guest:
            assert len(await guest["rng"].getrandom(16)) == 16
            assert state() == before
    assert state() == before


async def test_a_program_may_go_to_another_folder(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    async with hostd.serve("machine.toml", "run") as host:
        (desk / "elsewhere").mkdir()
        monkeypatch.chdir(desk / "elsewhere")
        async with guestd.attach(host.socket):
            status = await asyncio.to_thread(ask, str(host.socket), "status")
        assert (status["file"], status["socket"]) == (str(desk / "machine.toml"), str(desk / "run/guest.sock"))
        (desk / "machine.toml").write_text('[devices.rng]\nmodel = "rng"\n')
        assert "/lamp" in (await asyncio.to_thread(ask, str(host.socket), "reload"))["removed"]
    assert [path.name for path in (desk / "run").iterdir()] == ["hostd.lock"]


async def test_a_host_within_a_program_has_as_many_guests_as_that_may_have_files(desk: Path, few_files: int) -> None:
    async with hostd.serve(hostd.Machine()) as host:
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == few_files
        assert 1 <= host.guests.limits.guests <= few_files // 3 and host.machine.limits.guests == 2048


def test_the_command_may_open_all_that_it_can(desk: Path, few_files: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    show = "from hostd.commands.remote import ask; print(ask(None, 'status')['limits']['guests'])"
    done = subprocess.run(
        [sys.executable, "-m", "hostd", "run", "machine.toml", "--", sys.executable, "-c", show],
        check=True, cwd=desk, capture_output=True, text=True,
    )  # fmt: skip
    assert int(done.stdout) == min(2048, (hard - 128) // 3)


def test_what_the_command_starts_may_open_as_many_files_as_whoever_started_it(tmp_path: Path, few_files: int) -> None:
    (tmp_path / "machine.toml").write_text(
        '[devices.console]\nmodel = "console"\nbacking = "cmd:ulimit -Sn >console; ulimit -Hn >>console; exec cat"\n'
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    show = "ulimit -Sn; ulimit -Hn; until [ $(wc -l <console) = 2 ]; do :; done"
    done = subprocess.run(
        [sys.executable, "-m", "hostd", "run", "machine.toml", "--", "/bin/sh", "-c", show],
        check=True, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == (tmp_path / "console").read_text().split() == [str(few_files), str(hard)]


def test_the_command_says_if_that_is_too_few(desk: Path) -> None:
    words = f"ulimit -n 203; exec {sys.executable} -m hostd run machine.toml -- true"
    done = subprocess.run(["/bin/sh", "-c", words], check=True, cwd=desk, capture_output=True, text=True)
    assert "hostd: 203 open files allow 25 guests, not 2048: raise the limit (ulimit -Hn)" in done.stderr


def hand_over() -> None:
    handed_over({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "some"})


def test_errors_are_no_exits(desk: Path) -> None:
    for error, code in {
        hostd.MachineError(["m.toml: one", "m.toml: two"]): Exit.BAD_CONFIGURATION,
        PluginError(["lamp.py:3: what is this?"]): Exit.BAD_CONFIGURATION,
        WrongSocket("descriptor 3 is no socket"): Exit.BAD_CONFIGURATION,
        DeviceInUse(["m.toml: devices.disk: in use"]): Exit.BUSY,
        AlreadyServed("another hostd serves /run/x"): Exit.BUSY,
    }.items():
        assert not isinstance(error, Failure | SystemExit) and not hasattr(error, "code")
        assert isinstance(error, ValueError | OSError) and isinstance(error, BadConfiguration | InUse)
        lines = getattr(error, "lines", [str(error)])
        assert explain(error) == ("\n".join(lines), code) and str(error) == "\n".join(lines)


async def test_what_a_program_catches(desk: Path) -> None:
    with pytest.raises(ValueError, match="no model 'lmp'") as wrong:
        models.load("lmp", desk)
    assert explain(wrong.value)[1] == 78
    with pytest.raises(ValueError, match="is no number") as wrong:
        hand_over()
    assert explain(wrong.value)[1] == 78
    (desk / "two.toml").write_text('[devices.disk]\nmodel = "block"\npath = "disk.img"\n')
    async with hostd.serve(desk / "machine.toml", desk / "run"):
        with pytest.raises(OSError, match="another hostd serves") as busy:
            async with hostd.serve(hostd.Machine(), desk / "run"):
                pass
        assert explain(busy.value)[1] == 5
        with pytest.raises(hostd.MachineError, match=r"two\.toml: devices\.disk: .*in use") as used:
            async with hostd.serve(desk / "two.toml"):
                pass
        assert explain(used.value)[1] == 5


def test_only_the_command_knows_of_exits_and_changes_the_process() -> None:
    """By the sources: what is below the commands takes no Failure, and touches nothing that a process has one of."""
    sources = Sources({"hostd": HOMES["hostd"]})
    process = {"hostd.service.process", "hostd.service.garbage", "hostd.calls.overrun",  # these are the command's, too
               "hostd.isolated.inside", "hostd.machine.isolated"}  # fmt: skip  # of a process for one device
    own = {"setrlimit", "raise_limit", "give_limit", "setitimer", "umask", "chdir", "basicConfig", "add_signal_handler",
           "set_wakeup_fd", "fchdir", "setswitchinterval", "freeze"}  # fmt: skip
    found = {}
    for module, tree in sources.trees.items():
        if module.startswith("hostd.commands") or module in process:
            continue
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & own
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        exits = {"hcall.programs.command.Failure", "sys.exit", "os._exit"} & (sources.names(module) | calls)
        if bad := names | exits | ({"signal.signal"} & calls):
            found[module] = bad
    assert found == {"hostd.__main__": {"sys.exit"}}


async def test_no_number_that_is_none_leaves_as_json(desk: Path) -> None:
    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    async with hostd.serve(desk / "machine.toml") as host:
        reader, writer = await asyncio.open_unix_connection(host.socket.with_name("control.sock"))
        writer.write(b'{"do": "ls"}\n')
        (lamp,) = [
            each for each in json.loads(await reader.readline(), parse_constant=refuse)["ok"] if each["path"] == "/lamp"
        ]
        assert lamp["properties"]["level"] is None
        for request in (b'{"do": "wait", "timeout": NaN}\n', b"[" * 10_000 + b"\n"):
            writer.write(request)
            assert json.loads(await reader.readline())["code"] == Exit.USAGE
        writer.close()
        await writer.wait_closed()


def test_what_a_model_prints_is_no_data_of_a_command(desk: Path) -> None:
    def run(*words: str) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "hostd", *words], check=True, cwd=desk, capture_output=True, text=True
        )
        return done.stdout, done.stderr

    out, err = run("run", "machine.toml", "--", "echo", "data")
    assert out == "data\n" and {*err.split()} == {"loaded", "parsed", "checked", "started", "worked"}
    out, err = run("check", "machine.toml", "--json")
    assert json.loads(out)["name"] == "everything" and "loaded\n" in err
    out, err = run("check", "lamp.py", "--json")
    assert json.loads(out)["model"] == "Lamp" and "loaded\n" in err


def test_json_is_utf_8_whatever_a_file_is_called(capfd: pytest.CaptureFixture[str]) -> None:
    print_json({"file": "\udcff.toml", "name": "größe"})
    assert json.loads(out := capfd.readouterr().out) == {"file": "\udcff.toml", "name": "größe"} and "größe" in out
