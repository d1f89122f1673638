"""What the tests of exports share: a machine, and `guestd export` as a user types it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SECONDS = 60.0  # before a program is taken to hang


class Machine:
    """A host, served in a process of its own, and its guests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "HOSTD_SOCKET": str(folder / "run"), "NO_COLOR": "1"}

    def guestd(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command, to its end."""
        return self.run(sys.executable, "-m", "guestd", *words, check=False)

    def run(self, *command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A program, to its end; it has to succeed."""
        done = subprocess.run(
            [*map(str, command)], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def start(self, *words: object, given: int = subprocess.DEVNULL, out: int | None = None) -> subprocess.Popen[str]:
        """A process of ours, which says on a descriptor when it is ready."""
        reading, writing = os.pipe()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", *map(str, words), "--ready-fd", str(writing)], cwd=self.folder,
                env=self.environment, pass_fds=[writing], stdin=given, stdout=out, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            os.close(writing)
            said = os.read(reading, 100)
        finally:
            os.close(reading)
        if said != b"ready\n":
            raise AssertionError(process.communicate(timeout=SECONDS)[1])
        return process

    @contextlib.contextmanager
    def export(self, device: str, uri: str, code: int = 0) -> Iterator[subprocess.Popen[str]]:
        """`guestd export`, from when it is ready until SIGTERM."""
        process = self.start("guestd", "export", device, uri)
        try:
            yield process
        finally:
            assert end(process) == code


def end(process: subprocess.Popen[str]) -> int:
    """End a process as systemd would; its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.communicate(timeout=SECONDS)
    return process.returncode


@contextlib.contextmanager
def served(folder: Path, devices: str) -> Iterator[Machine]:
    """The machine that the text *devices* is."""
    machine = Machine(folder)
    (folder / "machine.toml").write_text(devices)
    host = machine.start("hostd", "serve", "machine.toml", "--runtime-dir", folder / "run")
    try:
        yield machine
    finally:
        assert end(host) == 0


def need(*programs: str) -> None:
    """Skip where one of *programs* is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
