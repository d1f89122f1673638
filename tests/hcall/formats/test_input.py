"""Records of evdev against python3-evdev and the kernel's header; however they are cut; and whatever comes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.formats import input as evdev
from hcall.formats.input import DROPPED, MAX_EVENTS, Event, Packet, Packets, bitmap, codes_of
from hcall.formats.keycodes import AXES, BUTTONS, KEYS, LEDS, typed

HEADER = Path("/usr/include/linux/input-event-codes.h")

EVENTS = st.builds(Event, st.integers(1, 0x1F), st.integers(0, 0x2FF), st.integers(-(1 << 31), (1 << 31) - 1))
PACKETS = st.lists(
    st.builds(Packet, st.integers(0, 1 << 60), st.lists(EVENTS, min_size=1, max_size=8).map(tuple)), max_size=10
)


@given(PACKETS)
def test_what_is_encoded_comes_back(packets: list[Packet]) -> None:
    assert Packets().feed(b"".join(packet.encode() for packet in packets)) == packets


@given(PACKETS)
def test_one_byte_at_a_time(packets: list[Packet]) -> None:
    decoder = Packets()
    data = b"".join(packet.encode() for packet in packets)
    assert [packet for n in range(len(data)) for packet in decoder.feed(data[n : n + 1])] == packets


@given(st.lists(st.binary(max_size=5000), max_size=5))
def test_whatever_comes_a_packet_is_bounded_and_can_be_encoded_or_is_refused(pieces: list[bytes]) -> None:
    decoder = Packets()
    for piece in pieces:
        for packet in decoder.feed(piece):
            assert 0 < len(packet.events) <= MAX_EVENTS
            again = packet._replace(at=1)  # the host has a clock of its own
            assert packet.dropped or Packets().feed(again.encode())[0].events == packet.events


def test_a_packet_that_does_not_end_is_cut() -> None:
    event = Event(evdev.EV_REL, 0, 1)
    endless = Packet(5, (event,) * 1000).encode()
    packets = Packets().feed(endless)
    assert [len(packet.events) for packet in packets] == [MAX_EVENTS] * (1000 // MAX_EVENTS) + [1000 % MAX_EVENTS]


def test_a_report_of_nothing_is_no_packet() -> None:
    assert Packets().feed(Packet(1, ()).encode() * 3) == []


def test_dropped_takes_along_its_packet_and_all_up_to_the_next_report() -> None:
    a, b, c, d = (Event(evdev.EV_KEY, code, 1) for code in range(30, 34))
    stream = Packet(1, (a, DROPPED, b)).encode() + Packet(2, (c,)).encode()
    packets = Packets().feed(stream + Packet(3, (DROPPED,)).encode() + Packet(4, (d,)).encode())
    assert packets == [Packet(1, (DROPPED,)), Packet(2, (c,)), Packet(3, (DROPPED,)), Packet(4, (d,))]
    assert [packet.dropped for packet in packets] == [True, False, True, False]


@pytest.mark.parametrize("event", [(1 << 16, 0, 0), (0, -1, 0), (0, 0, 1 << 31)])
def test_a_number_that_no_record_has_room_for_is_refused(event: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="evdev"):
        Packet(0, (Event(*event),)).encode()


def test_a_record_lies_as_input_h_has_it() -> None:
    data = Packet(1_700_000_000_123_456, (Event(1, 30, -2),)).encode()
    assert len(data) == 48 and data[:24] == (
        (1_700_000_000).to_bytes(8, sys.byteorder) + (123_456).to_bytes(8, sys.byteorder)
        + (1).to_bytes(2, sys.byteorder) + (30).to_bytes(2, sys.byteorder)
        + (-2).to_bytes(4, sys.byteorder, signed=True)
    )  # fmt: skip


@given(st.frozensets(st.integers(0, 0x2FF)))
def test_a_bitmap_has_a_bit_for_each_code(codes: frozenset[int]) -> None:
    bits = bitmap(codes)
    assert codes_of(bits) == codes and not bits.endswith(b"\0")
    assert all(bits[code // 8] >> code % 8 & 1 for code in codes)


def test_names_and_numbers_are_the_kernels() -> None:
    if not HEADER.exists():
        pytest.skip(f"there is no {HEADER}, which is of linux-libc-dev")
    kernel = {name: int(code, 0) for name, code in re.findall(r"#define\s+(\w+)\s+(\w+)", HEADER.read_text())
              if re.fullmatch(r"0x[0-9a-f]+|\d+", code)}  # fmt: skip
    ours = {name: value for name, value in vars(evdev).items() if re.match("(EV|SYN|MSC)_(?!CNT)", name)}
    for name, code in (KEYS | BUTTONS | AXES | LEDS | ours).items():
        assert kernel[name] == code, name
    assert len({*KEYS.values(), *BUTTONS.values()}) == len(KEYS) + len(BUTTONS)


def test_every_printable_character_has_a_key() -> None:
    keys = typed()
    assert {chr(code) for code in range(0x20, 0x7F)} | {"\n", "\t"} == set(keys)
    for character, name, shift in (("a", "A", False), ("Z", "Z", True), ("0", "0", False), (")", "0", True),
                                   ("~", "GRAVE", True), ("?", "SLASH", True), ("\n", "ENTER", False)):  # fmt: skip
        assert keys[character] == (KEYS[f"KEY_{name}"], shift)
