"""A network card exported as a tap: two network namespaces reach each other through two guests and a switch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestd.exports.tap import TapExport

SIZE = 10_000_000  # bytes of the transfer
SECONDS = 60
MACHINE = """
[devices.net0]
model = "net"
[devices.net1]
model = "net"
[devices.net2]
model = "net"
"""
SERVE = """
import hashlib, socket
server = socket.create_server(("10.77.0.2", 7777))
print("ready", flush=True)
peer, _ = server.accept()
seen = hashlib.sha256()
while data := peer.recv(1 << 16):
    seen.update(data)
print(seen.hexdigest(), flush=True)
"""
SEND = """
import socket, sys
with socket.create_connection(("10.77.0.2", 7777)) as peer:
    peer.sendall(sys.stdin.buffer.read())
"""


def run(*command: object, **options: object) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, timeout=SECONDS, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stderr.decode()}{done.stdout.decode()}"
    return str(done.stdout.decode())


@contextlib.contextmanager
def running(*command: object, until: str | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process; once it says *until* on its standard output."""
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        if until is not None:
            line = process.stdout.readline()
            assert until in line, line
        yield process
    finally:
        process.terminate()
        process.wait(SECONDS)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def namespaces() -> Iterator[tuple[str, str]]:
    if os.geteuid() != 0 or not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        pytest.skip("taps and network namespaces need root and /dev/net/tun")
    for tool in ("ip", "ping"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    names = (f"hostd-a-{os.getpid()}", f"hostd-b-{os.getpid()}")
    made = []
    try:
        for name in names:
            run("ip", "netns", "add", name)
            made.append(name)
        yield names
    finally:
        for name in made:
            run("ip", "netns", "del", name)


def exported(
    namespace: str, device: str, interface: str, runtime: Path
) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """`guestd export` in a namespace, once it is ready."""
    export = ("guestd", "export", device, f"tap:{interface}", "--socket", runtime, "--ready-fd", 1)
    return running("ip", "netns", "exec", namespace, sys.executable, "-m", *export, until="ready")


@pytest.fixture
def lan(tmp_path: Path, namespaces: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """10.77.0.1 in one namespace and 10.77.0.2 in the other, each behind a card of its own of one host."""
    (tmp_path / "machine.toml").write_text(MACHINE)
    runtime, python = tmp_path / "run", sys.executable
    with contextlib.ExitStack() as stack:
        serve = (python, "-m", "hostd", "serve", tmp_path / "machine.toml", "--runtime-dir", runtime)
        stack.enter_context(running(*serve))
        run(python, "-m", "hostd", "wait", "--socket", runtime, "--timeout", SECONDS)
        for number, name in enumerate(namespaces):
            stack.enter_context(exported(name, f"net{number}", "lan", runtime))
            run("ip", "-n", name, "addr", "add", f"10.77.0.{number + 1}/24", "dev", "lan")
            run("ip", "-n", name, "link", "set", "lan", "up")
        yield namespaces


def test_ping_and_a_transfer_reach_the_other_namespace_unharmed(lan: tuple[str, str]) -> None:
    here, there = (("ip", "netns", "exec", name) for name in lan)
    assert " 0% packet loss" in run(*here, "ping", "-c", 3, "-i", 0.2, "-W", 5, "10.77.0.2")
    data = os.urandom(SIZE)
    with running(*there, sys.executable, "-c", SERVE, until="ready") as server:
        run(*here, sys.executable, "-c", SEND, input=data)
        assert server.stdout is not None
        assert server.stdout.readline().strip() == hashlib.sha256(data).hexdigest()


def test_a_tap_has_the_address_and_the_carrier_of_its_card(lan: tuple[str, str], tmp_path: Path) -> None:
    hostd = (sys.executable, "-m", "hostd")
    cards = json.loads(run(*hostd, "ls", "--json", "--socket", tmp_path / "run"))
    address = next(card["properties"]["mac-address"] for card in cards if card["path"] == "/net0")

    def link() -> str:
        return run("ip", "-n", lan[0], "link", "show", "lan")

    assert address in link()
    assert "LOWER_UP" in link()
    run(*hostd, "act", "net0", "set_link", "false", "--socket", tmp_path / "run")
    deadline = time.monotonic() + SECONDS
    while "NO-CARRIER" not in link():
        assert time.monotonic() < deadline


def test_a_tap_that_is_deleted_ends_its_export(
    lan: tuple[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with exported(lan[0], "net2", "gone", tmp_path / "run") as export:
        run("ip", "-n", lan[0], "link", "delete", "gone")
        assert export.wait(SECONDS) == 1
    assert "guestd: gone: the interface was deleted\n" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["", "much-too-long-a-name", "with/slash", "with space", "lan%d"])
def test_a_name_that_no_interface_can_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"name of an interface"):
        TapExport("net", name)
