"""What a model does wrong is in the log once, with device, call and guest, and then as a count: nobody can fill it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from hcall.clock import ManualClock

from hostd.tree.complaints import Complaints


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
    clock.turn(1)
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
    assert told(caplog) == ["/two: 936 failures of other sorts"]


class Rude(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\nb\x1b[31m"), "ValueError: a b\\x1b[31m"),
        (ValueError(), "ValueError"),
        (Rude(), "Rude: ?"),
        (ValueError("x" * 10_000), "ValueError: " + "x" * 288),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_an_error_is_one_harmless_line(
    complaints: Complaints, caplog: pytest.LogCaptureFixture, error: BaseException, text: str
) -> None:
    complaints.note("pick()", error)
    assert told(caplog) == [f"/two: pick() failed: {text}"]
