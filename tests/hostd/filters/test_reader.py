"""A reader of a trace has room for so much, and counts the rest."""

from __future__ import annotations

import json

import pytest

from hostd.filters.reader import Reader


def lines(taken: bytes) -> list[object]:
    return [json.loads(line) for line in taken.splitlines()]


def test_what_waits_is_taken_at_once_in_order() -> None:
    reader = Reader()
    for n in range(3):
        reader.put(b"%d" % n)
    assert reader.ready.is_set() and reader.take() == b"0\n1\n2\n"
    assert not reader.ready.is_set() and reader.take() == b""


def test_there_is_room_for_so_many_events_and_the_rest_is_counted_where_it_is_missing() -> None:
    reader = Reader(events=3)
    for n in range(10):
        reader.put(b"%d" % n)
    assert lines(reader.take()) == [0, 1, 2, {"event": "lost", "count": 7}]
    reader.put(b"10")
    assert lines(reader.take()) == [10]


def test_there_is_room_for_so_many_bytes_and_what_is_shorter_does_not_overtake() -> None:
    reader = Reader(size=10)
    for line in (b"12345", b"123456", b"1"):
        reader.put(line)
    assert lines(reader.take()) == [12345, {"event": "lost", "count": 2}]


@pytest.mark.parametrize(
    ("wanted", "device", "wants"),
    [
        (None, None, True), (None, "/a", True), ("/a", None, False), ("/a", "/a", True), ("/a", "/a/b", True),
        ("/a", "/ab", False), ("/a/b", "/a", False), ("/", "/a", True), ("/", "/", True), ("/", None, False),
    ],
)  # fmt: skip
def test_a_reader_wants_one_device_with_all_below_it_or_everything(
    wanted: str | None, device: str | None, wants: bool
) -> None:
    assert Reader(wanted).wants(device) is wants
