"""What the service manager hears: one message for each thing, pings in time, and no variable for anybody else."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hcall.clock import ManualClock
from hostd.service.systemd import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Callable[[], list[str]]]]:
    """(NOTIFY_SOCKET, what has come there so far)."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@hostd-test-{os.urandom(8).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address.replace("@", "\0", 1))
        sock.setblocking(False)

        def heard() -> list[str]:
            messages = []
            try:
                while True:
                    messages.append(sock.recv(4096).decode())
            except BlockingIOError:
                return messages

        yield address, heard


def test_what_is_told_arrives_in_one_message(manager: tuple[str, Callable[[], list[str]]]) -> None:
    address, heard = manager
    environ = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}
    notifier = Notifier(environ)
    notifier.tell("READY=1", "STATUS=serving")
    assert heard() == ["READY=1\nSTATUS=serving"]
    assert environ == {"PATH": "/bin"}


@pytest.mark.parametrize("for_whom", [{}, {"WATCHDOG_PID": str(os.getpid())}])
def test_the_watchdog_hears_a_ping_twice_in_its_interval(
    manager: tuple[str, Callable[[], list[str]]], for_whom: dict[str, str]
) -> None:
    address, heard = manager
    clock, notifier = ManualClock(), Notifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000", **for_whom})
    notifier.watch(clock)
    assert heard() == ["WATCHDOG=1"]
    clock.turn(14)
    assert heard() == []
    clock.turn(1)
    assert heard() == ["WATCHDOG=1"]
    clock.turn(60)
    assert heard() == ["WATCHDOG=1"] * 4
    notifier.close()
    clock.turn(60)
    assert heard() == []


@pytest.mark.parametrize("wanted", [{}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
def test_nobody_elses_watchdog_is_fed(manager: tuple[str, Callable[[], list[str]]], wanted: dict[str, str]) -> None:
    address, heard = manager
    clock, notifier = ManualClock(), Notifier({"NOTIFY_SOCKET": address, **wanted})
    notifier.watch(clock)
    clock.turn(60)
    assert heard() == []


def test_nobody_need_be_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Notifier({}).tell("READY=1")
    assert not caplog.messages
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}).tell("READY=1")
    (message,) = caplog.messages
    assert "READY=1" in message and "No such file" in message


def fill(address: str) -> None:
    """Nothing more can be sent there until something is read."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, pytest.raises(BlockingIOError):
        while True:
            sock.sendto(b"full", socket.MSG_DONTWAIT, address.replace("@", "\0", 1))


async def test_a_manager_that_does_not_read_is_told_later_and_nobody_waits(
    manager: tuple[str, Callable[[], list[str]]], caplog: pytest.LogCaptureFixture
) -> None:
    address, heard = manager
    notifier, before = Notifier({"NOTIFY_SOCKET": address}), list[str]()
    fill(address)
    notifier.tell("READY=1", "STATUS=serving")
    notifier.tell("WATCHDOG=1")
    notifier.tell("WATCHDOG=1")
    while len(before) < 2:
        before += [message for message in heard() if message != "full"]
        await asyncio.sleep(0)
    assert before == ["READY=1\nSTATUS=serving", "WATCHDOG=1"] and not caplog.records
    notifier.tell("STOPPING=1")
    assert heard() == ["STOPPING=1"]


async def test_what_was_not_heard_is_forgotten_at_the_end(manager: tuple[str, Callable[[], list[str]]]) -> None:
    address, heard = manager
    notifier = Notifier({"NOTIFY_SOCKET": address})
    fill(address)
    with socket.socket() as next_one:
        number = next_one.fileno()
    notifier.tell("STOPPING=1")
    notifier.close()
    assert {*heard()} == {"full"}
    await asyncio.sleep(0)
    assert not heard()
    with socket.socket() as next_one:
        assert next_one.fileno() == number and not asyncio.get_running_loop().remove_writer(number), "it is looked at"
