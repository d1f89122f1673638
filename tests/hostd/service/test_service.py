"""`hostd serve` as a service manager runs it, `hostd run` at a terminal: real processes, signals and sockets."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import guestd

PATIENCE = 20.0  # seconds; no test uses them up
MACHINE = """
[machine]
name = "test"
[devices.rng]
model = "rng"
[devices.console]
model = "console"
backing = "cmd:env"
"""
ACTIVATE = shutil.which("systemd-socket-activate")
# Becomes a hostd that was handed descriptors: they are 3 and up, and the variables name this very process.
HAND_OVER = """
import os, sys
fds, arguments = sys.argv[1].split(","), sys.argv[2:]
for number, fd in enumerate(fds):
    os.dup2(int(fd), 100 + number)
for number, fd in enumerate(fds):
    os.dup2(100 + number, 3 + number)
    os.close(100 + number)
os.environ.setdefault("LISTEN_PID", str(os.getpid()))
os.environ.setdefault("LISTEN_FDS", str(len(fds)))
os.execv(sys.executable, [sys.executable, "-m", *arguments])
"""


class Manager:
    """What starts a hostd as a service, and hears how it goes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runtime = folder, folder / "run"
        self.machine = folder / "m.toml"
        self.machine.write_text(MACHINE)
        self.serve = ["hostd", "serve", str(self.machine), "--runtime-dir", str(self.runtime)]
        self.address = folder / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.address))
        self.socket.settimeout(PATIENCE)

    @contextlib.contextmanager
    def started(
        self, command: Sequence[str] = (), fds: Sequence[int] = (), **variables: str
    ) -> Iterator[subprocess.Popen[str]]:
        """*command*, or `hostd serve`, with NOTIFY_SOCKET; it has to end well on SIGTERM."""
        process = subprocess.Popen(
            command or [sys.executable, "-m", *self.serve], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            pass_fds=fds, env={**os.environ, "NOTIFY_SOCKET": str(self.address), **variables},
        )  # fmt: skip
        try:
            yield process
            process.terminate()
            errors = process.communicate(timeout=PATIENCE)[1]
            assert process.returncode == 0, errors
        finally:
            process.kill()
            process.communicate()

    def message(self) -> dict[str, str]:
        """The next message."""
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().split("\n"))

    def hears(self, field: str) -> dict[str, str]:
        """The next message with *field*."""
        while field not in (message := self.message()):
            pass
        return message

    def command(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run *line*, a command of ours, on the host."""
        return subprocess.run(
            [sys.executable, "-m", *line.split()], capture_output=True, text=True, timeout=PATIENCE, check=False,
            env={**os.environ, "HOSTD_SOCKET": str(self.runtime)},
        )  # fmt: skip

    def good(self, line: str) -> str:
        done = self.command(line)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def listener(self, name: str) -> socket.socket:
        """A listening socket that somebody else made, at *name* in the runtime directory."""
        self.runtime.mkdir(mode=0o700, exist_ok=True)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(self.runtime / name))
        sock.listen()
        return sock

    def refused(self, fds: Sequence[int], **variables: str) -> tuple[int, str]:
        """What a hostd that is handed *fds*, and does not start, ends with: its exit code and its only line."""
        done = subprocess.run(
            self.handing_over(*fds), capture_output=True, text=True, pass_fds=fds, timeout=PATIENCE, check=False,
            env={**os.environ, **variables},
        )  # fmt: skip
        (line,) = done.stderr.splitlines()
        return done.returncode, line

    def handing_over(self, *socks: int) -> list[str]:
        """The command of a hostd to which *socks* are handed over."""
        return [sys.executable, "-c", HAND_OVER, ",".join(map(str, socks)), *self.serve]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path)
    with manager.socket:
        yield manager


def test_ready_when_guests_can_attach_and_stopping_at_the_end(manager: Manager) -> None:
    with manager.started():
        first = manager.message()
        assert first["READY"] == "1" and first["STATUS"] == f"serving 'test' at {manager.runtime}/guest.sock"
        with guestd.attach_blocking(manager.runtime) as guest:
            guest["rng"].getrandom(4)
    manager.socket.setblocking(False)
    assert manager.message() == {"STOPPING": "1", "STATUS": "shutting down"}
    with pytest.raises(BlockingIOError):
        manager.message()


def test_the_watchdog_is_fed_while_the_loop_turns(manager: Manager) -> None:
    with manager.started(WATCHDOG_USEC="100000"):
        assert "READY" in manager.message()
        for _ in range(3):
            assert manager.message() == {"WATCHDOG": "1"}


def test_no_console_learns_of_the_service_manager(manager: Manager) -> None:
    with manager.listener("guest.sock") as guests:
        command = manager.handing_over(guests.fileno())
        with manager.started(command, [guests.fileno()], WATCHDOG_USEC="9000000", LISTEN_FDNAMES="guest"):
            manager.hears("READY")
            variables = {line.partition("=")[0] for line in manager.good("guestd read console").splitlines()}
    assert "PATH" in variables
    assert not [name for name in variables if name.startswith(("NOTIFY_", "WATCHDOG_", "LISTEN_"))]


@pytest.mark.parametrize("how", ["SIGHUP", "command"])
def test_a_reload_is_told_with_its_beginning_and_its_end(manager: Manager, how: str) -> None:
    def reload() -> int | None:
        if how == "command":
            return manager.command("hostd reload").returncode
        process.send_signal(signal.SIGHUP)
        return None

    with manager.started() as process:
        serving = manager.hears("READY")["STATUS"]
        for mistake, code in (("", 0), ("mistake", 78), ("", 0)):
            manager.machine.write_text(MACHINE + mistake)
            before = time.monotonic_ns() // 1000
            assert reload() in (code, None)
            reloading, ready = manager.message(), manager.message()
            assert reloading["RELOADING"] == "1"
            assert before <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            status = ready["STATUS"].removeprefix(serving)
            assert ready["READY"] == "1" and bool(status) == bool(mistake)
            assert not mistake or f"the last reload failed: {manager.machine}: " in status


def test_real_socket_activation(manager: Manager) -> None:
    """systemd's own tool listens; the first to come starts the host, and the sockets stay when it ends."""
    if ACTIVATE is None:
        pytest.skip("systemd-socket-activate is not installed")
    manager.runtime.mkdir(mode=0o700)
    paths = [manager.runtime / name for name in ("guest.sock", "control.sock")]
    listen = [word for path in paths for word in ("-l", str(path))]
    command = [ACTIVATE, "--fdname=guest:control", *listen, sys.executable, "-m", *manager.serve]
    with manager.started(command) as process:
        assert process.stderr is not None
        for path in paths:
            assert f"Listening on {path} as" in process.stderr.readline()
            path.chmod(0o640)
        before = [path.stat() for path in paths]
        with guestd.attach_blocking(manager.runtime) as guest:
            guest["rng"].getrandom(4)
            status = json.loads(manager.good("hostd status --json"))
        assert (status["pid"], status["socket"]) == (process.pid, str(paths[0]))
        for entry in Path(f"/proc/{process.pid}/fdinfo").iterdir():
            try:
                flags = entry.read_text().split("flags:")[1].split()[0]
            except FileNotFoundError:  # it was closed meanwhile
                continue
            assert int(entry.name) < 3 or int(flags, 8) & os.O_CLOEXEC, f"descriptor {entry.name} is inherited"
    for path, then in zip(paths, before, strict=True):
        now = path.stat()
        assert (now.st_ino, now.st_mode) == (then.st_ino, then.st_mode)


@pytest.mark.parametrize(
    ("files", "names", "guests_at", "control_at"),
    [
        (["guest.sock", "control.sock"], None, "guest.sock", "control.sock"),
        (["control.sock", "guest.sock"], "hostd.socket:unknown", "guest.sock", "control.sock"),
        (["one", "guest.sock"], "guest:control", "one", "guest.sock"),  # the descriptor's name counts
        (["guest.sock"], None, "guest.sock", "control.sock"),
        (["other"], "control", "guest.sock", "other"),
    ],
)
def test_sockets_are_known_by_descriptor_or_file_and_what_is_missing_is_made(
    manager: Manager, files: list[str], names: str | None, guests_at: str, control_at: str
) -> None:
    with contextlib.ExitStack() as stack:
        fds = [stack.enter_context(manager.listener(name)).fileno() for name in files]
        variables = {} if names is None else {"LISTEN_FDNAMES": names}
        with manager.started(manager.handing_over(*fds), fds, **variables):
            manager.hears("READY")
            with guestd.attach_blocking(manager.runtime / guests_at) as guest:
                guest["rng"].getrandom(4)
            with socket.socket(socket.AF_UNIX) as control, control.makefile("rw") as lines:
                control.connect(str(manager.runtime / control_at))
                lines.write('{"do": "status"}\n')
                lines.flush()
                assert json.loads(lines.readline())["ok"]["socket"] == str(manager.runtime / guests_at)
    assert {path.name for path in manager.runtime.iterdir()} == {*files, "hostd.lock"}


def listening_tcp() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def listening_without_a_path() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind("")
    sock.listen()
    return sock


@pytest.mark.parametrize(
    ("hand_over", "variables", "says"),
    [
        (listening_tcp, {"LISTEN_FDNAMES": "guest"}, "descriptor 3 is no listening Unix stream socket"),
        (listening_without_a_path, {"LISTEN_FDNAMES": "guest"}, "descriptor 3 is no listening Unix stream socket"),
        (lambda: socket.socket(socket.AF_UNIX), {"LISTEN_FDNAMES": "guest"}, "descriptor 3 is no listening"),
        (lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), {}, "descriptor 3 is no listening"),
        (Path(os.devnull).open, {}, "descriptor 3 is no socket"),
        ("guest.sock", {"LISTEN_FDS": "2"}, "descriptor 4 is no socket: Bad file descriptor"),
        ("guest.sock", {"LISTEN_FDS": "many"}, "LISTEN_FDS='many' is no number"),
        ("other.sock", {}, "other.sock) is neither guest nor control"),
        ("other.sock", {"LISTEN_FDNAMES": "metrics"}, "descriptor 3 (metrics, "),
    ],
)
def test_a_descriptor_that_is_none_of_ours_gets_one_line(
    manager: Manager, hand_over: Any, variables: dict[str, str], says: str
) -> None:
    with manager.listener(hand_over) if isinstance(hand_over, str) else hand_over() as given:
        code, line = manager.refused([given.fileno()], **variables)
    assert code == 78 and says in line, line


def test_one_socket_handed_over_twice_is_refused(manager: Manager) -> None:
    with manager.listener("guest.sock") as one, manager.listener("other") as other:
        code, line = manager.refused([one.fileno(), other.fileno()], LISTEN_FDNAMES="x:guest")
    assert code == 78 and "guest.sock was handed over twice" in line


def test_descriptors_for_somebody_else_are_left_alone(manager: Manager) -> None:
    with (
        manager.listener("other") as other,
        manager.started(manager.handing_over(other.fileno()), [other.fileno()], LISTEN_PID="1", LISTEN_FDNAMES="guest"),
    ):
        assert manager.hears("READY")["STATUS"].endswith("/run/guest.sock")


def test_a_second_host_is_refused_whatever_was_handed_over(manager: Manager) -> None:
    with manager.started(), manager.listener("other") as other:
        manager.hears("READY")
        refused = manager.refused([other.fileno()], LISTEN_FDNAMES="guest")
        assert refused[0] == 5 and "another hostd serves" in refused[1]


@contextlib.contextmanager
def at_a_terminal(*command: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """`hostd *command*` in the foreground of a terminal of its own, and the other end of that, to be closed here."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["setsid", "--ctty", sys.executable, "-m", "hostd", *command], stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()


def read_until(terminal: int, what: bytes) -> bytes:
    """What comes from *terminal*, up to *what*."""
    seen = b""
    while what not in seen:
        assert select.select([terminal], [], [], PATIENCE)[0], seen
        seen += os.read(terminal, 4096)
    return seen


def rest(terminal: int) -> bytes:
    """What still comes from *terminal*, to its end; closes it."""
    seen = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end open any more
        while data := os.read(terminal, 4096):
            seen += data
    os.close(terminal)
    return seen


def test_the_end_of_its_terminal_is_the_end_of_a_host_and_no_reload(manager: Manager) -> None:
    with at_a_terminal(*manager.serve[1:]) as (process, terminal):
        read_until(terminal, b"guest.sock\r\n")
        os.close(terminal)
        assert process.wait(PATIENCE) == 0
    assert [path.name for path in manager.runtime.iterdir()] == ["hostd.lock"]


@pytest.mark.parametrize(
    ("script", "code", "says"),
    [
        ("trap 'echo decided; exit 7' INT; echo go; while :; do read x; done", 7, b"decided"),
        ("trap '' INT; echo go; read x; echo $x", 0, b"typed"),
        ("echo go; exec sleep 60", 128 + signal.SIGINT, b""),
    ],
)
def test_the_command_of_hostd_run_decides_what_ctrl_c_is(manager: Manager, script: str, code: int, says: bytes) -> None:
    with at_a_terminal("run", str(manager.machine), "--", "sh", "-c", script) as (process, terminal):
        read_until(terminal, b"go")
        os.write(terminal, b"\x03")
        said = read_until(terminal, b"^C")
        os.write(terminal, b"typed\n")
        said += rest(terminal)
        assert process.wait(PATIENCE) == code
    assert says in said and b"Traceback" not in said


def test_sigterm_of_hostd_run_is_the_commands(manager: Manager) -> None:
    script = "trap 'exit 9' TERM; echo $HOSTD_SOCKET; read x"
    with subprocess.Popen(
        [sys.executable, "-m", "hostd", "run", str(manager.machine), "--", "sh", "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin and process.stdout and process.stderr
        where = Path(process.stdout.readline().strip())
        assert where.is_socket()
        process.terminate()
        try:
            code = process.wait(PATIENCE)
        finally:
            process.kill()
            process.stdin.close()  # ends the command, too
        assert (code, process.stderr.read()) == (9, "") and not where.parent.exists()
