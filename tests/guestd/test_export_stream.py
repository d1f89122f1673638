"""A stream for other programs: pty, sockets, standard input and output; peers that come and go; wrong URIs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from export_peers import SECONDS, Machine, end, need, served

import guestd
import hostd
from guestd.exports import choose

MUCH = 10 << 20  # bytes
CONSOLES = """
[devices.echo]
model = "console"
backing = "cmd:stty raw -echo; echo ready; exec cat"
[devices.early]
model = "console"
backing = "cmd:stty raw; echo early words; exec cat >/dev/null"
[devices.stubborn]
model = "console"
backing = "cmd:stty raw -echo; head -c 1000000 /dev/zero; exec cat"
[devices.short]
model = "console"
backing = "cmd:echo only this"
[devices.disk]
model = "block"
path = "disk.img"
create = "1M"
[devices.rng]
model = "rng"
"""
READY = b"ready\n"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with served(tmp_path, CONSOLES) as machine:
        yield machine


@contextlib.contextmanager
def connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(SECONDS)
        peer.connect(str(path))
        yield peer


def received(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := peer.recv(count - len(data))):
        data += more
    return data


def test_much_both_ways_through_a_pty(machine: Machine) -> None:
    need("socat")
    link, back, sent = machine.folder / "tty", machine.folder / "back", machine.folder / "sent"
    sent.write_bytes(os.urandom(MUCH))
    with machine.export("echo", f"pty:{link}"):
        assert link.is_symlink() and link.is_char_device()
        opened = f"FILE:{link},raw,echo=0"
        command = ["socat", "-u", f"{opened},readbytes={len(READY) + MUCH}", f"CREATE:{back}"]
        with subprocess.Popen(command) as reader:  # before the writer: it never waits for room
            machine.run("socat", "-u", f"FILE:{sent}", opened)
            assert reader.wait(SECONDS) == 0
    assert back.read_bytes() == READY + sent.read_bytes()
    assert not link.is_symlink()


@pytest.mark.parametrize("options", [[], ["--spin"]])
def test_much_both_ways_through_tcp(machine: Machine, options: list[str]) -> None:
    need("socat")
    sent = machine.folder / "sent"
    sent.write_bytes(os.urandom(MUCH))
    export = machine.start("guestd", "export", "echo", "tcp:127.0.0.1:0", *options)
    try:
        assert export.stderr is not None
        said = export.stderr.readline().split()  # "guestd: echo is at tcp:127.0.0.1:40001"
        assert said[:4] == ["guestd:", "echo", "is", "at"] and not said[4].endswith(":0")
        with sent.open("rb") as source:
            done = subprocess.run(
                ["socat", "-t", "30", "-", said[4].replace("tcp", "TCP")], stdin=source, capture_output=True,
                timeout=SECONDS, check=True,
            )  # fmt: skip
    finally:
        assert end(export) == 0
    assert done.stdout == READY + sent.read_bytes()


def test_peers_come_and_go_one_at_a_time(machine: Machine) -> None:
    path = machine.folder / "echo.sock"
    with machine.export("echo", f"unix:{path}"):
        assert path.stat().st_mode & 0o777 == 0o600
        with connected(path) as first, connected(path) as second:
            assert received(first, len(READY)) == READY
            second.sendall(b"later")
            first.sendall(b"now")
            assert received(first, 3) == b"now"
            assert not select.select([second], [], [], 0)[0]
            first.close()
            assert received(second, 5) == b"later"
        for n in range(20):
            with connected(path) as peer:
                peer.sendall(b"%5d" % n)
                assert received(peer, 5) == b"%5d" % n
    assert not path.exists()


def test_what_a_peer_did_not_take_is_for_the_next(machine: Machine) -> None:
    """Nothing that the device says while nobody is there is lost, and what nobody reads stops it."""
    path = machine.folder / "echo.sock"
    with machine.export("echo", f"unix:{path}"):
        with connected(path) as talker:
            talker.sendall(b"x" * 100_000)
            assert received(talker, len(READY)) == READY
            talker.shutdown(socket.SHUT_WR)
            count = len(received(talker, 200_000))  # until the export has had enough of it
        assert count == 100_000


def test_a_peer_that_goes_while_nobody_listens_to_the_device_holds_up_nobody(machine: Machine) -> None:
    """The device takes nothing before somebody takes what it says: that can only be the next peer."""
    path = machine.folder / "stubborn.sock"
    with machine.export("stubborn", f"unix:{path}"):
        for _ in range(10):
            with connected(path) as peer:
                peer.sendall(b"x" * 100_000)
        with connected(path) as peer:
            peer.sendall(b"the last")
            said = b""
            while not said.endswith(b"the last"):
                more = peer.recv(65536)
                assert more
                said = said[-8:] + more


def test_early_words_wait_for_the_first_peer(machine: Machine) -> None:
    path = machine.folder / "early.sock"
    with machine.export("early", f"unix:{path}"), connected(path) as peer:
        assert received(peer, 11) == b"early words"


@pytest.mark.parametrize("uri", ["unix:{folder}/short.sock", "pty:{folder}/short", "stdio:"])
def test_an_export_ends_with_its_device(machine: Machine, uri: str) -> None:
    uri = uri.format(folder=machine.folder)
    reading, writing = os.pipe()
    export = machine.start("guestd", "export", "short", uri, given=reading, out=subprocess.PIPE)
    try:
        os.close(reading)
        path = machine.folder / uri.rpartition("/")[2]
        if uri.startswith("unix:"):
            with connected(path) as peer:
                assert received(peer, 100) == b"only this\r\n"
        elif uri.startswith("pty:"):
            fd = os.open(path, os.O_RDONLY | os.O_NOCTTY)
            assert os.read(fd, 100) == b"only this\r\n"
            os.close(fd)
        out, _ = export.communicate(timeout=SECONDS)
        assert export.returncode == 0 and (out == "only this\n" or not uri.startswith("stdio"))
    finally:
        os.close(writing)
        end(export)


def test_standard_input_and_output(machine: Machine) -> None:
    data = os.urandom(1 << 20)
    done = subprocess.run(
        [sys.executable, "-m", "guestd", "export", "echo", "stdio:"], input=data, capture_output=True,
        env=machine.environment, cwd=machine.folder, timeout=SECONDS, check=True,
    )  # fmt: skip
    assert done.stdout == READY + data and done.stderr == b"guestd: echo is at stdio:\n"


def test_standard_output_that_fails_is_an_error(machine: Machine) -> None:
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "guestd", "export", "echo", "stdio:"], stdin=subprocess.PIPE, stdout=full,
            stderr=subprocess.PIPE, env=machine.environment, cwd=machine.folder,
        )  # fmt: skip
        said = process.communicate(timeout=SECONDS)[1]
    assert process.returncode == 1 and b"guestd: standard output: No space left on device\n" in said


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (
            "echo nbd:unix:x",
            2,
            "'nbd:unix:x' is no export of echo: pty:PATH, stdio:, tcp:HOST:PORT or unix:PATH; "
            "nbd:unix: is for a block device",
        ),
        ("disk pty:x", 2, "'pty:x' is no export of disk: nbd:unix:PATH; pty: is for a stream device"),
        ("disk nbd:x", 2, "'nbd:x' is no export of disk (did you mean 'nbd:unix:'?): nbd:unix:PATH"),
        ("echo tcp:here", 2, "'here' is no HOST:PORT, such as localhost:9100"),
        ("rng unix:x", 2, "rng cannot be exported; unix: is for a printer or stream device"),
        ("rng nonsense", 2, "rng cannot be exported"),
        ("nothing unix:x", 4, "no node '/nothing': `hostd ls` shows what there is"),
        ("echo unix:machine.toml", 1, "machine.toml: Address already in use"),
        ("disk nbd:unix:nowhere/x", 1, "nowhere/x: No such file or directory"),
        ("echo pty:machine.toml", 1, "machine.toml: File exists"),
        ("echo pty:nowhere/x", 1, "nowhere/x: No such file or directory"),
        (f"disk nbd:unix:{'x' * 200}", 1, f"{'x' * 200}: AF_UNIX path too long"),
        ("echo tcp:192.0.2.1:9", 1, "192.0.2.1:9: Cannot assign requested address"),
    ],
)
def test_what_cannot_be_exported_is_told_in_one_line(machine: Machine, line: str, code: int, said: str) -> None:
    done = machine.guestd("export", *line.split())
    assert (done.returncode, done.stderr, done.stdout) == (code, f"guestd: {said}\n", "")
    assert (machine.folder / "machine.toml").read_text() == CONSOLES


def test_what_a_killed_export_left_is_replaced(machine: Machine) -> None:
    path, link = machine.folder / "disk.sock", machine.folder / "tty"
    for device, uri in ("disk", f"nbd:unix:{path}"), ("echo", f"pty:{link}"):
        killed = machine.start("guestd", "export", device, uri)
        killed.kill()
        killed.communicate(timeout=SECONDS)
        with machine.export(device, uri):
            pass
    assert not path.exists() and not link.is_symlink()


@pytest.mark.parametrize("scheme", ["unix", "pty"])
def test_two_exports_do_not_share_a_path(machine: Machine, scheme: str) -> None:
    path = machine.folder / "x"
    with machine.export("echo", f"{scheme}:{path}"):
        for _ in range(3):
            done = machine.guestd("export", "early", f"{scheme}:{path}")
            assert (done.returncode, done.stderr) == (1, f"guestd: {path}: Address already in use\n")
        assert path.exists()
        if scheme == "unix":
            with connected(path) as peer:
                assert received(peer, len(READY)) == READY


@pytest.mark.parametrize("uri", ["unix:{folder}/x", "nbd:unix:{folder}/x"])
def test_an_export_ends_when_its_device_is_unplugged(machine: Machine, uri: str) -> None:
    device = "disk" if uri.startswith("nbd") else "echo"
    export = machine.start("guestd", "export", device, uri.format(folder=machine.folder))
    machine.run(sys.executable, "-m", "hostd", "unplug", device)
    said = export.communicate(timeout=SECONDS)[1].splitlines()
    assert export.returncode == 4 and said[-1] in (f"guestd: {device} was unplugged", f"guestd: {device} is gone")
    assert not (machine.folder / "x").exists()


def test_ctrl_c_ends_it(machine: Machine) -> None:
    path = machine.folder / "x"
    export = machine.start("guestd", "export", "disk", f"nbd:unix:{path}")
    export.send_signal(signal.SIGINT)
    assert export.communicate(timeout=SECONDS) == (None, f"guestd: disk is at nbd:unix:{path}\n")
    assert export.returncode == 0 and not path.exists()


async def test_peers_that_vanish_in_the_middle_leave_the_rest_to_the_next(tmp_path: Path) -> None:
    """On both loops: one that reads nothing and is gone, while another waits, many times over."""
    devices = {"talker": {"model": "console", "backing": "cmd:stty raw -echo; exec cat /dev/zero"}}
    path = tmp_path / "x"
    machine = hostd.Machine.from_tables({"devices": devices}, tmp_path)
    async with hostd.serve(machine, tmp_path / "run") as host, guestd.attach(host.socket) as guest:
        driver = await guest.bind("talker")
        ready = asyncio.Event()
        run = asyncio.ensure_future(choose("talker", driver, f"unix:{path}").run(guest, driver, ready.set))
        try:
            async with asyncio.timeout(SECONDS):
                await ready.wait()
                reader, writer = await asyncio.open_unix_connection(path)
                for _ in range(20):
                    next_reader, next_writer = await asyncio.open_unix_connection(path)
                    assert await reader.readexactly(300_000) == bytes(300_000)  # more than a socket holds
                    writer.transport.abort()
                    reader, writer = next_reader, next_writer
                assert await reader.readexactly(10) == bytes(10)
                writer.transport.abort()
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)
    assert not path.exists()
