"""`guestd shell` as a process: lines from a pipe, lines as arguments, and a terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from at_prompt import machine
from raw import attached, in_thread

import hostd
from hcall.errors import Busy
from hcall.programs.command import Exit

SECONDS = 30.0  # for a process to start, and to end


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with machine(tmp_path) as host:
        yield host


def environment(host: hostd.Host, folder: Path) -> dict[str, str]:
    ours = {"HOSTD_SOCKET": str(host.socket), "XDG_STATE_HOME": str(folder / "state"), "TERM": "dumb"}
    return {**os.environ, **ours, "PYTHONUNBUFFERED": ""}


async def command(host: hostd.Host, folder: Path, *lines: str, given: str = "") -> tuple[int, str, list[str]]:
    """Run `guestd shell` from a pipe: exit code, what it prints, the lines of its standard error."""

    def work() -> tuple[int, str, list[str]]:
        done = subprocess.run(
            [sys.executable, "-m", "guestd", "shell", *lines], input=given, capture_output=True, text=True,
            env=environment(host, folder), timeout=SECONDS, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr.splitlines()

    return await in_thread(host, work, SECONDS)


async def test_lines_of_a_pipe_are_run_to_the_first_that_fails(host: hostd.Host, tmp_path: Path) -> None:
    script = """
        # looks at a device
        dev bench   \\ isn't it one
        add 40 2

        write "some text"
        frob
        add 1 2
    """
    code, printed, errors = await command(host, tmp_path, given=textwrap.dedent(script))
    assert (code, printed) == (Exit.USAGE, "42\n")
    assert errors == ["guestd: 9 bytes written", "guestd: line 7: no word 'frob' here"]
    assert not (tmp_path / "state").exists()  # a history is what somebody types


async def test_lines_that_are_arguments(host: hostd.Host, tmp_path: Path) -> None:
    assert await command(host, tmp_path, "dev bench", "pwd", "bye", "frob", given="frob") == (0, "/bench\n", [])
    code, printed, errors = await command(host, tmp_path, "pwd", "dev bench", "wait done 0.01", "pwd")
    assert (code, printed, errors) == (Exit.TIMEOUT, "/\n", ["guestd: line 3: no done within 0.01 s"])
    async with attached(host) as owner:
        await owner.open("/bench")
        code, _, (error,) = await command(host, tmp_path, "dev bench", "add 1 2")
        assert code == Exit.BUSY and error.startswith("guestd: line 2: /bench ")


async def test_see_knows_a_driver_of_the_users_own(host: hostd.Host, tmp_path: Path) -> None:
    declared = "total = Op[[], int]()  # the sum of the data"
    driver = f"""
        from guestd.driver import Driver, Op

        class Own(Driver):
            compatible = ("test,bench-2",)
            {declared}
    """
    (tmp_path / "own.py").write_text(textwrap.dedent(driver))
    code, printed, _ = await command(host, tmp_path, "--driver", f"{tmp_path}/own.py", "dev bench", "see total")
    assert code == 0 and printed.splitlines()[1:] == [f"Own: {declared}"]


class Terminal:
    """`guestd shell` on a terminal."""

    def __init__(self, ours: int, pid: int) -> None:
        self._ours, self._pid, self.seen = ours, pid, ""

    def type(self, keys: str, until: str, seconds: float = SECONDS) -> str:
        """Press *keys*, and wait until *until* is on the screen; what came until then."""
        os.write(self._ours, keys.encode())
        while until not in self.seen:
            ready, _, _ = select.select([self._ours], [], [], seconds)
            assert ready, f"no {until!r} in {self.seen!r}"
            self.seen += os.read(self._ours, 4096).decode()
        before, _, self.seen = self.seen.partition(until)
        return before

    def interrupt(self) -> None:
        """Press Ctrl-C when it waits, and again as one does: Python sees a signal that came just before only then."""
        while Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
            os.sched_yield()
        try:
            self.type("\x03", "ok ", SECONDS / 10)
        except AssertionError:
            self.type("\x03", "ok ")


@contextmanager
def terminal(environment: dict[str, str], *lines: str, code: int = 0) -> Iterator[Terminal]:
    """A shell on a terminal, which has to leave by itself, with the exit code *code*."""
    ours, theirs = pty.openpty()
    on_it = 'exec <"$0" >"$0" 2>&1; exec "$@"'  # a session leader gets the terminal that it opens
    shell = [sys.executable, "-m", "guestd", "shell", *lines]
    process = subprocess.Popen(["sh", "-c", on_it, os.ttyname(theirs), *shell], env=environment,
                               start_new_session=True)  # fmt: skip
    try:
        there = Terminal(ours, process.pid)
        if not lines:
            there.type("", "ok ")
        yield there
        assert process.wait(SECONDS) == code
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
        os.close(ours)


async def test_a_prompt_with_completion_and_history(host: hostd.Host, tmp_path: Path) -> None:
    def work() -> None:
        with terminal(environment(host, tmp_path)) as there:
            there.type("dev be\t\n", "ok ")
            assert "/bench" in there.type("pwd\n", "ok ")
            assert "42" in there.type("ad\t 40 2\n", "ok ")
            assert "did you mean 'shout'" in there.type("shuot\n", "ok ")
            there.type("frob", "frob")
            there.interrupt()  # abandons the line
            there.type("wait done\n", "wait done\r\n")
            there.interrupt()  # and what it waits for
            assert "OK" in there.type("shout ok\n", "ok ")
            there.type("\x04", "\n")

    await in_thread(host, work, SECONDS)
    typed = ["dev bench", "pwd", "add  40 2", "shuot", "wait done", "shout ok"]
    assert (tmp_path / "state/hostd/shell_history").read_text().splitlines() == typed

    def again() -> None:
        with terminal(environment(host, tmp_path)) as there:
            assert "shout ok" in there.type("\x10\n", "ok ")  # Ctrl-P: the line before
            there.type("bye\n", "\n")

    await in_thread(host, again, SECONDS)


async def test_lines_that_are_arguments_are_no_reason_for_a_prompt(host: hostd.Host, tmp_path: Path) -> None:
    def work() -> None:
        with terminal(environment(host, tmp_path), "pwd", "frob", code=Exit.USAGE) as there:
            assert there.type("", "guestd: line 2: no word") == "/\r\n"

    await in_thread(host, work, SECONDS)


async def test_a_device_goes_while_somebody_is_at_the_prompt(host: hostd.Host, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()

    def work() -> None:
        with terminal(environment(host, tmp_path)) as there:
            there.type("dev bench\n", "ok ")
            there.type("add 1 2\n", "3\r\nok ")
            asyncio.run_coroutine_threadsafe(host.unplug("/bench", surprise=True), loop).result(SECONDS)
            there.type("add 1 2\n", "/bench is gone; at / now\r\n")
            assert "no word 'add' here" in there.type("", "ok ")
            assert "rng" in there.type("ls\n", "ok ")
            there.type("\x04", "\n")

    await in_thread(host, work, SECONDS)


async def test_a_history_that_cannot_be_kept_and_a_python_without_readline(host: hostd.Host, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")
    (tmp_path / "readline.py").write_text("raise ImportError")
    plain = environment(host, tmp_path)
    path = os.pathsep.join(filter(None, [str(tmp_path), *sys.path]))

    def work() -> None:
        for environ in (plain, plain | {"PYTHONPATH": path}):
            with terminal(environ) as there:
                there.type("dev bench\n", "ok ")
                there.type("pwd\n", "/bench\r\nok ")
                there.type("bye\n", "bye\r\n")

    await in_thread(host, work, 2 * SECONDS)


async def test_the_shell_ends_with_its_session(host: hostd.Host, tmp_path: Path) -> None:
    """At a terminal, and from a pipe that stays open: what was printed has come before the next line is given."""

    def at_a_terminal() -> None:
        with terminal(environment(host, tmp_path), code=Exit.NO_HOST) as there:
            asyncio.run_coroutine_threadsafe(end(), loop).result(SECONDS)
            there.type("pwd\n", "guestd: the host ended the session: it is late\r\n")

    def from_a_pipe() -> int:
        process = subprocess.Popen(
            [sys.executable, "-m", "guestd", "shell"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, env=environment(host, tmp_path), text=True,
        )  # fmt: skip
        with process:
            assert process.stdin and process.stdout and process.stderr
            process.stdin.write("pwd\n")
            process.stdin.flush()
            assert select.select([process.stdout], [], [], SECONDS / 2)[0] and process.stdout.readline() == "/\n"
            asyncio.run_coroutine_threadsafe(end(), loop).result(SECONDS)
            process.stdin.write("pwd\n" * 2)
            process.stdin.close()
            assert "line 2: the host ended the session: it is late" in process.stderr.read()
            return process.wait(SECONDS)

    async def end() -> None:
        for each in list(host.guests.by_token.values()):
            host.guests.end(each, Busy.status, "it is late")

    loop = asyncio.get_running_loop()
    await in_thread(host, at_a_terminal, SECONDS)
    assert await in_thread(host, from_a_pipe, SECONDS) == Exit.NO_HOST
