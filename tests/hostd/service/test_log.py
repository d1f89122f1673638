"""What the daemon says is written by a thread: who does not read it stops nobody, and is told what is missing."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostd.service.log import Log

CHATTY = """
from hostd.device import Device
class Chatty(Device):
    compatible = "test,chatty"
    def start(self):
        print("first")
        for n in range(5000):
            print(f"line {n}", "x" * 100)
    def stop(self):
        print("last")
"""
MACHINE = '[devices.chatty]\nmodel = "chatty.py"\n'


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A page of room: the reading end, and the writing one."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    yield read, write
    os.close(read)
    os.close(write)


def rest(read: int) -> bytes:
    os.set_blocking(read, False)
    data = b""
    while True:
        try:
            data += os.read(read, 1 << 16)
        except BlockingIOError:
            return data


@pytest.mark.parametrize("blocking", [True, False])
def test_all_of_it_is_written_in_order(pipe: tuple[int, int], blocking: bool) -> None:
    read, write = pipe
    os.set_blocking(write, blocking)
    log = Log(write)
    lines = [b"%d\n" % n * 1000 for n in range(100)]
    for line in lines:
        assert log.write(line) == len(line)
    found = b""
    while len(found) < len(b"".join(lines)):
        found += os.read(read, 1000)
    assert found == b"".join(lines)
    log.end(10)
    assert not rest(read)


def test_what_is_lost_is_counted_where_it_is_missing(pipe: tuple[int, int]) -> None:
    read, write = pipe
    line = b"x" * 99 + b"\n"
    log = Log(write, 50 * 164 + 10_000)
    log.write(line * 100)  # more than the pipe takes: what comes now waits
    for _ in range(500):
        log.write(line)
    found = b""
    while b"lost" not in found.rpartition(b"\n")[0]:
        found += os.read(read, 1000)
    log.write(b"again\n")
    log.end(10)
    found += rest(read)
    *before, note, after = found.splitlines()
    assert {*before} == {line[:-1]} and after == b"again"
    assert note == b"hostd: %d messages lost here: standard error took no more" % (600 - len(before))
    assert len(before) == 149  # and not one more


def test_nobody_who_reads_is_no_end(pipe: tuple[int, int]) -> None:
    read, write = os.pipe()
    os.close(read)
    log = Log(write)
    assert log.write(b"into nothing\n") == 13
    log.end(10)
    os.close(write)


def test_at_the_end_a_reader_that_stopped_is_not_waited_for(pipe: tuple[int, int]) -> None:
    read, write = pipe
    log = Log(write)
    log.write(bytes(10_000))
    log.end(0)
    while os.read(read, 5000) and log.end(0.1) is None and log._thread.is_alive():
        pass


def test_a_host_whose_log_nobody_reads_serves_and_ends(tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text(CHATTY)
    (tmp_path / "machine.toml").write_text(MACHINE)
    command = [
        sys.executable,
        "-m",
        "hostd",
        "run",
        "machine.toml",
        "--",
        "sh",
        "-c",
        f"{sys.executable} -m hostd ls >ls",
    ]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        assert process.wait(60) == 0 and "/chatty" in (tmp_path / "ls").read_text()
        assert process.stderr is not None and process.stderr.read().startswith(b"first\nline 0 xxx")


def test_what_a_model_says_last_is_written(tmp_path: Path) -> None:
    (tmp_path / "chatty.py").write_text(CHATTY)
    (tmp_path / "machine.toml").write_text(MACHINE)
    command = [sys.executable, "-m", "hostd", "run", "machine.toml", "--", "true"]
    done = subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    lines = done.stderr.splitlines()
    assert not done.stdout and (lines[0], len(lines), lines[-1]) == (b"first", 5002, b"last")
