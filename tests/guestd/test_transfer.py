"""Transfers that take a while, and who is told of it."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hcall.formats.input import EV_KEY, Event, Packet, Packets
from hcall.formats.keycodes import KEYS

SLOW = """
from hostd.device import Data, Device, Later, Property, Room

class Slow(Device):
    compatible = "hostd,block"
    capacity = Property(int)

    def start(self):
        self.capacity = 4 << 20

    def read(self, into: Room, at: int) -> int | Later[int]:
        later = Later()
        self.clock.call_later(0.4, lambda: later.done(into.put(bytes(into.nbytes))))
        return later

    def write(self, data: Data, at: int) -> int | Later[int]:
        later = Later()
        size = data.nbytes
        self.clock.call_later(0.4, lambda: later.done(size))
        return later
"""

TYPED = b"".join(Packet(at, (Event(EV_KEY, KEYS["KEY_A"], at % 2),)).encode() for at in range(1, 501))


@pytest.fixture
def command(tmp_path: Path) -> Iterator[list[str]]:
    """A host of a slow disk, a fast one and a console, which is around whatever comes after."""
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "typed").write_bytes(TYPED)
    (tmp_path / "m.toml").write_text(
        '[devices.slow]\nmodel = "slow.py"\n[devices.rng]\nmodel = "rng"\n'
        '[devices.console]\nmodel = "console"\nbacking = "cmd:cat"\n'
        '[devices.printer]\nmodel = "printer"\nspool = "spool:spool"\n'
        '[devices.keyboard]\nmodel = "hid"\nreplay = "typed"\ntimed = false\n'
    )
    yield [sys.executable, "-m", "hostd", "run", str(tmp_path / "m.toml"), "--", sys.executable, "-m", "guestd"]


def at_a_terminal(command: list[str], given: int = subprocess.DEVNULL, out: bool = False) -> tuple[int, str]:
    """Run *command* with standard error, and perhaps output, on a terminal; its exit code, and what came there."""
    ours, theirs = pty.openpty()
    try:
        environment = {**os.environ, "TERM": "xterm"}
        process = subprocess.Popen(
            command, stdin=given, stdout=theirs if out else subprocess.DEVNULL, stderr=theirs, env=environment
        )
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the terminal's other end is closed
            while True:
                shown += os.read(ours, 4096)
        return process.wait(30), shown.decode()
    finally:
        os.close(ours)


@pytest.mark.parametrize(("line", "said"), [("read slow", "reading slow"), ("write slow", "writing slow")])
def test_a_slow_transfer_shows_its_progress_at_a_terminal(
    command: list[str], line: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "data").write_bytes(bytes(4 << 20))
    with (tmp_path / "data").open("rb") as data:
        code, shown = at_a_terminal([*command, *line.split()], data.fileno())
    assert code == 0 and said in shown and "MiB" in shown


def test_no_progress_where_nobody_looks(command: list[str]) -> None:
    done = subprocess.run([*command, "read", "slow"], capture_output=True, timeout=30, check=True)
    assert done.stdout == bytes(4 << 20) and done.stderr == b""


def test_a_fast_transfer_shows_none(command: list[str], tmp_path: Path) -> None:
    code, shown = at_a_terminal([*command, "read", "rng", "--count", "2000000", "-o", str(tmp_path / "out")])
    assert (code, shown) == (0, "") and (tmp_path / "out").stat().st_size == 2_000_000


def test_bytes_are_not_thrown_at_a_terminal(command: list[str]) -> None:
    code, shown = at_a_terminal([*command, "read", "rng", "--count", "16"], out=True)
    assert (
        code == 2
        and shown == "guestd: these bytes are not for a terminal: pipe them to xxd, or name a file with -o\r\n"
    )


@pytest.mark.parametrize("line", ["read console --at 5 --count 1", "write console --at 5"])
def test_a_stream_has_no_places(command: list[str], line: str) -> None:
    done = subprocess.run(
        [*command, *line.split()], capture_output=True, stdin=subprocess.DEVNULL, timeout=30, check=False
    )
    assert done.returncode == 2 and done.stderr == b"guestd: console is a stream: there is no --at in it\n"


def test_what_is_written_to_a_printer_is_a_job(command: list[str], tmp_path: Path) -> None:
    text = b"one page\n" * 20_000
    subprocess.run([*command, "write", "printer"], input=text, capture_output=True, timeout=30, check=True)
    (job,) = (tmp_path / "spool").iterdir()
    assert job.read_bytes() == text


def test_the_events_of_a_keyboard_are_kept_as_they_come(command: list[str], tmp_path: Path) -> None:
    line = ["read", "keyboard", "--count", str(len(TYPED)), "-o", str(tmp_path / "kept")]
    subprocess.run([*command, *line], stdin=subprocess.DEVNULL, timeout=30, check=True)
    typed, kept = (Packets().feed(data) for data in (TYPED, (tmp_path / "kept").read_bytes()))
    assert [packet.events for packet in kept] == [packet.events for packet in typed]
