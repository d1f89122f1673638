"""What a model does wrong is in the log once, with device, call and guest, and then as a count: nobody can fill it."""

from __future__ import annotations

import logging
import os
import reprlib
from collections.abc import Callable
from pathlib import Path

import pytest
from raw import attached, connected, served

from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import BadArgument, Internal, LinkLost, Status
from hostd.calls.core import CORE
from hostd.device import Device, call
from hostd.machine.file import DeviceSpec
from hostd.tree.complaints import Complaints, Users


def raised(work: Callable[[], object]) -> BaseException:
    try:
        work()
    except BaseException as error:
        return error
    raise AssertionError("it works")


def index() -> BaseException:
    return raised([].pop)


def full() -> BaseException:
    return OSError(28, "No space left on device")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def complaints(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> Complaints:
    caplog.set_level(logging.DEBUG)
    return Complaints("/two", clock)


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return lines


def test_the_first_has_a_traceback_and_the_rest_are_a_count(
    complaints: Complaints, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        complaints.note("pick()", index(), "ann")
    (record,) = caplog.records
    assert record.exc_info is not None and record.levelname == "ERROR"
    assert told(caplog) == ["/two: pick() failed for guest 'ann': IndexError: pop from empty list"]
    complaints.settle()
    assert told(caplog) == ["/two: pick() failed 999 times more: IndexError: pop from empty list"]


def test_what_is_expected_has_no_traceback(complaints: Complaints, caplog: pytest.LogCaptureFixture) -> None:
    complaints.note("write()", full(), "ann", is_expected=True)
    complaints.note("write()", full(), "ann", is_expected=True)
    (record,) = caplog.records
    assert record.exc_info is None and record.levelname == "WARNING"
    complaints.settle()
    assert told(caplog) == [
        "/two: write() failed for guest 'ann': No space left on device",
        "/two: write() failed once more: No space left on device",
    ]


def test_another_call_error_or_line_is_another_failure(
    complaints: Complaints, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        complaints.note("pick()", index())
        complaints.note("drop()", index())
        complaints.note("pick()", raised(lambda: [[].pop()]))
        complaints.note("pick()", raised(lambda: {}["x"]))
        complaints.note("pick()", OSError(5, "Input/output error"), is_expected=True)
        complaints.note("pick()", full(), is_expected=True)
    assert len(told(caplog)) == 6
    complaints.settle()
    assert len(told(caplog)) == 6


def test_another_guest_is_named_and_not_more_than_eight(
    complaints: Complaints, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(100):
        complaints.note("pick()", index(), f"g{number}")
    lines = told(caplog)
    assert len(lines) == 8 and lines[1] == ("/two: pick() failed for guest 'g1', too: IndexError: pop from empty list")
    complaints.settle()
    assert told(caplog) == ["/two: pick() failed 92 times more: IndexError: pop from empty list"]


def test_one_that_fails_and_resets_again_and_again_fills_no_log(
    complaints: Complaints, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        complaints.note("pick()", index(), "ann")
        complaints.settle()
    assert len(told(caplog)) == 2  # before the first reset, and after it
    clock.turn(10)
    complaints.settle()
    assert told(caplog) == ["/two: pick() failed 998 times more: IndexError: pop from empty list"]
    complaints.note("pick()", index(), "ann")
    complaints.note("pick()", index(), "ann")
    assert len(told(caplog)) == 1  # news again
    complaints.settle(last=True)
    assert told(caplog) == ["/two: pick() failed once more: IndexError: pop from empty list"]
    complaints.settle(last=True)
    assert told(caplog) == []


def test_failures_without_end_are_not_kept(complaints: Complaints, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(1000):
        complaints.note("pick()", type("Made", (Exception,), {})(number))
    assert len(told(caplog)) == 64
    complaints.settle()
    assert told(caplog) == ["/two: 936 more of other sorts"]


def test_what_a_model_says_is_counted_too(
    complaints: Complaints, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        complaints.say("the guest has\x1b lost its way")
        complaints.say("no paper")
    assert told(caplog) == ["/two: the guest has\\x1b lost its way", "/two: no paper"]
    complaints.settle()
    assert told(caplog) == [
        "/two: 9 times more: the guest has\\x1b lost its way", "/two: 9 times more: no paper"
    ]  # fmt: skip


def test_of_each_user_so_many_lines_in_ten_seconds(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    users = Users(clock)
    for number in range(5000):
        users.say(1000, "a guest was refused: it says nothing")
        users.say(1001, f"a guest was refused: it says {number}")
    users.say(1002, "a guest was refused: it says nothing")
    lines = told(caplog)
    assert lines[0] == "user 1000: a guest was refused: it says nothing" and len(lines) == 26
    assert lines[-1] == "user 1002: a guest was refused: it says nothing"
    clock.turn(9.9)
    assert told(caplog) == []
    clock.turn(0.1)
    assert told(caplog) == [
        "user 1000: 4,999 times more: a guest was refused: it says nothing", "user 1001: 4976 more of other sorts"
    ]  # fmt: skip
    clock.turn(100)
    assert told(caplog) == []
    users.say(1000, "a guest was refused: it says nothing")
    users.say(1000, "a guest was refused: it says nothing")
    users.close()
    assert told(caplog) == [
        "user 1000: a guest was refused: it says nothing",
        "user 1000: once more: a guest was refused: it says nothing",
    ]


def test_what_nobody_wants_to_know_takes_the_place_of_nothing(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    users = Users(clock)
    for number in range(100):
        users.say(0, f"guest {number} is here", logging.INFO)
    users.say(0, "a guest was refused")
    assert told(caplog) == ["user 0: a guest was refused"]


def test_users_that_are_silent_are_forgotten(clock: ManualClock) -> None:
    users = Users(clock)
    for uid in range(1000):
        users.say(uid, "here")
        clock.turn(1)
    assert len(users._of) <= 64


async def test_five_hundred_refusals_are_a_few_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    async with served(tmp_path, clock=clock) as host:
        for _ in range(500):
            with connected(host) as stranger:
                stranger.send(b"\x90")
                await stranger.ended()
        assert len(told(caplog)) == 1
        clock.turn(10)
        (line,) = told(caplog)
        assert line.startswith(f"user {os.getuid()}: 499 times more: a guest was refused: ")
        for _ in range(3):
            with connected(host) as stranger:
                stranger.send(b"\x90")
                await stranger.ended()
    first, count = told(caplog)
    assert "a guest was refused" in first and "2 times more: a guest was refused" in count  # at the end


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\nb\x1b[31m"), "ValueError: a b\\x1b[31m"),
        (ValueError(), "ValueError"),
        (Rude(), "Rude"),
        (ValueError("x" * 10_000), "ValueError: " + "x" * 288),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_an_error_is_one_harmless_line(
    complaints: Complaints, caplog: pytest.LogCaptureFixture, error: BaseException, text: str
) -> None:
    complaints.note("pick()", error)
    assert told(caplog) == [f"/two: pick() failed: {text}"]


class Mute(BadArgument):
    """An error that cannot be told."""

    def __str__(self) -> str:
        raise KeyError


class Bad(Device):
    compatible, shared = "test,bad", True

    @call
    def pick(self, number: int) -> int:
        return {1: 1}[number]

    @call
    def long(self) -> bytes:
        return bytes(10_000)

    @call
    def lost(self) -> None:
        raise LinkLost("no")

    @call
    def mute(self) -> None:
        raise Mute("nothing")

    @call
    def grumble(self) -> None:
        self.complain("the guest is rude")

    @call
    def refuse(self) -> None:
        raise BadArgument("no")


BAD = [DeviceSpec(name, "bad", Bad, {}) for name in ("one", "two")]


async def test_the_log_says_which_device_which_call_and_which_guest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    async with served(tmp_path, *BAD, clock=clock) as host, attached(host) as guest:
        handle, calls = await guest.open("/two")
        for _ in range(100):
            assert (await guest.call(calls["pick"], handle, 5))[0] == Status.INTERNAL
            assert (await guest.call(calls["refuse"], handle))[0] == Status.BAD_ARGUMENT  # which is no mistake
        for _ in range(10):
            assert (await guest.call(calls["grumble"], handle))[0] == Status.OK
        for name, status in (("long", Internal), ("lost", Internal), ("mute", Internal)):
            assert (await guest.call(calls[name], handle))[0] == status.status
        assert told(caplog) == [
            "/two: pick() failed for guest 'raw': KeyError: 5",
            "/two: the guest is rude",
            "/two: long() failed for guest 'raw': its answer does not fit a message: " + reprlib.repr(bytes(10_000)),
            "/two: lost() failed for guest 'raw': LinkLost: no",
            "/two: mute() failed for guest 'raw': KeyError",
        ]
        assert await guest.core(numbers.CLOSE, handle) == 0
        assert told(caplog) == [
            "/two: pick() failed 99 times more: KeyError: 5", "/two: 9 times more: the guest is rude"
        ]  # fmt: skip


async def test_one_that_opens_and_fails_again_and_again_fills_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(tmp_path, *BAD, clock=ManualClock()) as host, attached(host) as guest:
        for _ in range(50):
            handle, calls = await guest.open("/one")
            await guest.call(calls["pick"], handle, 5)
            await guest.core(numbers.CLOSE, handle)
        assert len(told(caplog)) == 2
    assert told(caplog) == ["/one: pick() failed 48 times more: KeyError: 5"]  # when it is stopped


def test_calls_of_the_core_have_names() -> None:
    assert all(getattr(numbers, name) == number for number, name in numbers.CORE.items())
    assert set(numbers.CORE) == set(CORE)  # each is made by somebody
