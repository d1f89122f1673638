"""HDLC-like framing: RFC 1662's own numbers, and streams that are cut, damaged or hostile."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hcall.formats.hdlc import EVERY_CONTROL, Decoder, encode, fcs16

MAPS = [0, EVERY_CONTROL, 1 << 0x11 | 1 << 0x13, 1]


def by_the_book(data: bytes) -> int:
    """RFC 1662, C.1: bit by bit, polynomial 0x8408."""
    fcs = 0xFFFF
    for byte in data:
        fcs ^= byte
        for _ in range(8):
            fcs = fcs >> 1 ^ 0x8408 if fcs & 1 else fcs >> 1
    return fcs


def in_pieces(decoder: Decoder, stream: bytes, sizes: int) -> list[bytes]:
    return [frame for at in range(0, len(stream), sizes) for frame in decoder.feed(stream[at : at + sizes])]


def test_the_check_value_and_the_residue() -> None:
    assert fcs16(b"123456789") == 0x906E
    assert by_the_book(b"123456789" + fcs16(b"123456789").to_bytes(2, "little")) == 0xF0B8


@given(st.binary(max_size=300))
def test_the_check_sequence_is_the_books(data: bytes) -> None:
    assert fcs16(data) == by_the_book(data) ^ 0xFFFF


def test_a_frame_of_rfc_1662_style_as_it_stands_on_the_line() -> None:
    """A Configure-Request without options: FF 03 C0 21 01 01 00 04."""
    assert encode(bytes.fromhex("ff03c02101010004"), 0).hex() == "7eff03c02101010004d1b57e"
    assert encode(bytes.fromhex("ff03c02101010004")).hex() == "7eff7d23c0217d217d217d207d24d1b57e"
    assert encode(b"}~\x7f\x80", 0)[1:7] == b"}]}^\x7f\x80"


@given(st.lists(st.binary(min_size=2, max_size=200), max_size=5), st.sampled_from(MAPS), st.integers(1, 50))
@example([b"}~" * 20, b"\x00\x1f\x20"], EVERY_CONTROL, 1)
def test_what_was_encoded_comes_out_however_the_stream_is_cut(frames: list[bytes], accm: int, sizes: int) -> None:
    decoder = Decoder(200)
    decoder.accm = accm
    stream = b"".join(encode(frame, accm) for frame in frames)
    assert in_pieces(decoder, stream, sizes) == frames and decoder.dropped == 0
    controls = {byte for byte in stream if byte < 0x20}
    assert all(not accm >> byte & 1 for byte in controls)


def test_a_shared_flag_and_empty_frames_are_fine() -> None:
    one, two = encode(b"one"), encode(b"two")
    decoder = Decoder(10)
    assert list(decoder.feed(one + two[1:] + b"~~~" + one)) == [b"one", b"two", b"one"] and decoder.dropped == 0


def test_what_comes_before_the_first_flag_is_no_frame() -> None:
    decoder = Decoder(10)
    assert list(decoder.feed(b"OK\r\nCONNECT 9600\r\n" + encode(b"one"))) == [b"one"] and decoder.dropped == 0


def test_control_characters_that_the_line_put_in_are_dropped_where_the_map_says_so() -> None:
    noisy = encode(b"abc")[:3] + b"\x11\x13" + encode(b"abc")[3:]
    strict = Decoder(10)
    strict.accm = 0
    assert list(Decoder(10).feed(noisy)) == [b"abc"]
    assert list(strict.feed(noisy)) == [] and strict.dropped == 1


@pytest.mark.parametrize(
    "damaged",
    [
        encode(b"abcdef")[:-1] + b"}~",  # aborted (RFC 1662, 4.3)
        encode(b"abcdef")[:-3] + b"~",  # cut
        encode(b"abcdef").replace(b"c", b"d"),
        b"~a~",  # too short to have an FCS
        b"~}~",
        encode(b"x" * 17),  # longer than the limit
        b"~" + b"x" * 1000 + b"~",
    ],
)
def test_a_damaged_frame_is_dropped_and_the_next_one_is_not(damaged: bytes) -> None:
    for sizes in (1, 1000):
        decoder = Decoder(16)
        assert in_pieces(decoder, damaged + encode(b"next"), sizes) == [b"next"]
        assert decoder.dropped == 1


def test_a_frame_that_ends_with_an_escape_was_aborted_whatever_its_check_sequence() -> None:
    data = next(data for data in (number.to_bytes(3) for number in range(1 << 16)) if fcs16(data) >> 8 == 0x7D)
    decoder = Decoder(16)
    decoder.accm = 0
    assert list(decoder.feed(b"~" + data + fcs16(data).to_bytes(2, "little") + b"~")) == []
    assert list(decoder.feed(encode(data))) == [data]


def test_a_change_of_the_map_holds_from_the_next_frame_on() -> None:
    decoder = Decoder(10)
    came = []
    for frame in decoder.feed(encode(b"first") + encode(b"\x01\x02\x03", 0)):
        decoder.accm = 0
        came.append(frame)
    assert came == [b"first", b"\x01\x02\x03"]


def test_a_stream_without_flags_is_not_kept() -> None:
    decoder = Decoder(100)
    list(decoder.feed(b"~"))
    for _ in range(1000):
        assert not list(decoder.feed(b"x" * 1000))
        assert len(decoder._frame) <= 1400
    assert decoder.dropped == 1
    assert list(decoder.feed(encode(b"alive"))) == [b"alive"]


@given(st.integers(0, 2**32))
def test_noise_never_raises_and_a_good_frame_comes_through_it(seed: int) -> None:
    dice = random.Random(seed)
    decoder = Decoder(64)
    list(decoder.feed(bytes(dice.choice(b"~}\x00\x11aZ\xff") for _ in range(300))))
    assert list(decoder.feed(b"~" + encode(b"good")))[-1] == b"good"
