"""The codec of split virtqueues: bytes, chains good and bad, and when to tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.errors import ProtocolViolation, Status
from hcall.formats.lanes import ring
from hcall.formats.lanes.ring import Chain, describe, is_due, pack_body, put_answer, unpack_answer, unpack_body, walk
from hcall.wire import Decoder

PIECE = st.tuples(st.integers(0, (1 << 48)), st.integers(0, 1 << 20))
CHAINS = st.builds(
    Chain,
    st.tuples(st.integers(0, 1 << 48), st.integers(1, ring.MAX_BODY)),
    st.lists(PIECE, max_size=3).map(tuple),
    st.tuples(st.integers(0, 1 << 48), st.integers(ring.LEAST_ANSWER, 1 << 16)),
    st.lists(PIECE, max_size=3).map(tuple),
)


@given(CHAINS, st.integers(0, 8))
def test_a_chain_that_was_described_is_what_is_walked(chain: Chain, first: int) -> None:
    table = bytearray(16 * 16)
    raw = describe(chain, first)
    table[16 * first : 16 * first + len(raw)] = raw
    assert walk(memoryview(table), first, 16) == (chain, raw)


@given(st.integers(0, 0xFFFF), st.integers(0, 1024), st.integers(0, 0xFFFF))
def test_the_other_end_is_told_when_the_index_passes_its_event(old: int, more: int, event: int) -> None:
    passed = {(old + n) & 0xFFFF for n in range(more)}
    assert is_due(event, (old + more) & 0xFFFF, old) is (event in passed)


@given(st.integers(0, 0xFFFFFFFF), st.integers(0, (1 << 64) - 1), st.lists(st.integers(0, (1 << 64) - 1), max_size=3))
def test_a_body_is_msgpack_and_comes_back(number: int, handle: int, args: list[int]) -> None:
    body = pack_body(number, handle, tuple(args))
    assert Decoder().feed(body) == [(number, handle, tuple(args))]
    assert unpack_body(body) == (number, handle, tuple(args))


@given(st.sampled_from((0, 1, 16)), st.integers(0, (1 << 64) - 1) | st.text(max_size=60) | st.none() | st.binary())
def test_an_answer_is_msgpack_and_comes_back(status: int, value: object) -> None:
    room = memoryview(bytearray(512))
    size = put_answer(room, status, value)
    assert Decoder().feed(bytes(room[:size])) == [(status, value)]
    assert unpack_answer(bytes(room[:size])) == (status, value)


def test_an_answer_that_does_not_fit_is_told_so_and_one_that_no_message_carries_raises() -> None:
    room = memoryview(bytearray(ring.LEAST_ANSWER))
    size = put_answer(room, 0, b"x" * 400)
    status, text = unpack_answer(bytes(room[:size]))
    assert status == Status.BAD_AREA and "there was room for 300" in str(text)
    assert put_answer(room, 13, "x" * 256) <= ring.LEAST_ANSWER
    with pytest.raises(ValueError, match="too long"):
        put_answer(room, 0, b"x" * 5000)
    with pytest.raises(TypeError):
        put_answer(room, 0, object())


@pytest.mark.parametrize("data", ["", "93", "c1", "92 01 02", "93 01 02 03", "93 01 a1 61 90", "93 01 02 90 c0"])
def test_what_is_no_body_is_said_to_be_none(data: str) -> None:
    with pytest.raises(ProtocolViolation):
        unpack_body(bytes.fromhex(data))


def described(*descriptors: tuple[int, int, int, int]) -> memoryview:
    table = bytearray(16 * 8)
    for n, each in enumerate(descriptors):
        ring.DESCRIPTOR.pack_into(table, 16 * n, *each)
    return memoryview(table)


BODY, ANSWER = (0x1000, 25, 1, 1), (0x2000, 300, 2, 0)


@pytest.mark.parametrize(
    ("descriptors", "why"),
    [
        ([BODY, (0x2000, 300, 3, 0)], "after one to be written"),
        ([BODY, (0x2000, 300, 3, 1)], "circle"),
        ([(0x1000, 25, 1, 8), ANSWER], "a descriptor 8 of a queue of 8"),
        ([(0x1000, 25, 1, 0xFFFF), ANSWER], "a descriptor 65535"),
        ([(0x1000, 25, 5, 1), ANSWER], "flags 0x5"),
        ([(0x1000, 0, 1, 1), ANSWER], "a body of 1 to 16384"),
        ([(0x1000, 16385, 1, 1), ANSWER], "a body of 1 to 16384"),
        ([((1 << 64) - 8, 25, 1, 1), ANSWER], "25 bytes at 0xfff"),
        ([BODY, (0x2000, 299, 2, 0)], "300 bytes or more for its answer"),
        ([(0x1000, 25, 0, 0)], "300 bytes or more for its answer"),
        ([ANSWER], "begins with a body"),
    ],
)
def test_a_chain_that_breaks_a_rule_is_said_to(descriptors: list[tuple[int, int, int, int]], why: str) -> None:
    with pytest.raises(ProtocolViolation, match=why):
        walk(described(*descriptors), 0, 8)


def test_a_chain_over_the_whole_table_in_any_order_is_one() -> None:
    table = described(BODY, (0x3000, 1, 1, 3), ANSWER, (0x4000, 2, 1, 2))
    chain, raw = walk(table, 0, 8)
    assert raw is None and chain == Chain((0x1000, 25), ((0x3000, 1), (0x4000, 2)), (0x2000, 300), ())


@pytest.mark.parametrize("size", [0, 1, 3, 2048, -2])
def test_a_queue_has_a_power_of_two(size: int) -> None:
    with pytest.raises(ValueError, match=r"2, 4, 8, \.\.\. or 1024"):
        ring.check_size(size)
