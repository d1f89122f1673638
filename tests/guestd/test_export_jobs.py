"""A printer that other programs print on: each peer's bytes are a job."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from export_peers import SECONDS, Machine, need, served

PRINTER = """
[devices.printer]
model = "printer"
spool = "spool:spool"
max_job = 1000000
"""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with served(tmp_path, PRINTER) as machine:
        yield machine


def jobs(machine: Machine) -> list[bytes]:
    return [path.read_bytes() for path in sorted((machine.folder / "spool").iterdir())]


def printed(path: Path, data: bytes) -> bytes:
    """Send a job, and wait until the export hangs up: what it said meanwhile."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(SECONDS)
        peer.connect(str(path))
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        return peer.recv(1)


def test_what_socat_sends_to_a_port_is_a_job(machine: Machine) -> None:
    need("socat")
    sent = [os.urandom(300_000), b"and another\n"]
    export = machine.start("guestd", "export", "printer", "tcp:localhost:0")
    try:
        assert export.stderr is not None
        address = export.stderr.readline().split()[-1].replace("tcp", "TCP")  # of "guestd: printer is at tcp:..."
        for number, job in enumerate(sent):
            (machine.folder / f"{number}").write_bytes(job)
            machine.run("socat", "-t", SECONDS, f"FILE:{machine.folder / str(number)}", address)
            assert jobs(machine) == sent[: number + 1]  # it hung up when the job was there
    finally:
        export.terminate()
        export.communicate()


def test_a_lost_job_is_told_and_the_next_is_printed(machine: Machine) -> None:
    path = machine.folder / "queue"
    with machine.export("printer", f"unix:{path}") as export:
        with socket.socket(socket.AF_UNIX) as peer, pytest.raises(ConnectionError):  # one that is too long
            peer.settimeout(SECONDS)
            peer.connect(str(path))
            while True:
                peer.sendall(bytes(100_000))
        assert printed(path, b"") == b""  # somebody who looked whether there is a printer
        assert printed(path, b"short") == b""
        assert export.stderr is not None
        said = [export.stderr.readline() for _ in range(2)]
    assert said[1] == "guestd: printer: a job is lost: a job has 1000000 bytes at most\n"
    assert jobs(machine) == [b"short"]


def test_half_a_job_of_a_peer_that_breaks_off_is_none(machine: Machine) -> None:
    export = machine.start("guestd", "export", "printer", "tcp:127.0.0.1:0")
    try:
        assert export.stderr is not None
        port = int(export.stderr.readline().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), SECONDS) as peer:
            peer.sendall(b"half a ")
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not closed
        assert export.stderr.readline() == "guestd: printer: a job is lost: Connection reset by peer\n"
        with socket.create_connection(("127.0.0.1", port), SECONDS) as peer:
            peer.sendall(b"whole")
            peer.shutdown(socket.SHUT_WR)
            assert peer.recv(1) == b""
    finally:
        export.terminate()
        export.communicate()
    assert jobs(machine) == [b"whole"]


def test_a_printer_is_no_terminal(machine: Machine) -> None:
    done = machine.guestd("export", "printer", "pty:tty")
    assert done.returncode == 2
    assert done.stderr == (
        "guestd: 'pty:tty' is no export of printer: tcp:HOST:PORT or unix:PATH; pty: is for a stream device\n"
    )


def test_the_export_ends_with_its_printer(machine: Machine) -> None:
    path = machine.folder / "queue"
    with machine.export("printer", f"unix:{path}", 4) as export, socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
        peer.sendall(b"half a ")
        machine.run(sys.executable, "-m", "hostd", "unplug", "printer", "--surprise")
        assert export.wait(SECONDS) == 4 and not path.exists()
    assert jobs(machine) == []
