"""Messages of virtio-msg, byte for byte as the tables of the draft (2025-10) lay them out."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.formats import virtio_msg as msg
from hcall.formats.virtio_msg import HEADER, MOST, Body, Message, decode, encode

U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
EIGHTS = st.integers(0, (1 << 13) - 1).map(lambda eights: 8 * eights)
DATA, WORDS = st.binary(max_size=240), st.lists(U32, max_size=60).map(tuple)
BODIES: st.SearchStrategy[Body] = st.one_of(
    st.builds(msg.GetDeviceInfo), st.builds(msg.DeviceInfo, U32, U32, st.just(64), U32, U32, U16, U16),
    st.builds(msg.GetFeatures, U32, U32), st.builds(msg.Features, U32, WORDS),
    st.builds(msg.SetFeatures, U32, WORDS), st.builds(msg.FeaturesSet),
    st.builds(msg.GetConfig, U32, U32), st.builds(msg.Config, U32, U32, DATA),
    st.builds(msg.SetConfig, U32, U32, DATA), st.builds(msg.ConfigSet, U32, U32, DATA),
    st.builds(msg.GetStatus), st.builds(msg.StatusIs, U32),
    st.builds(msg.SetStatus, U32), st.builds(msg.StatusSet, U32),
    st.builds(msg.GetQueue, U32), st.builds(msg.Queue, U32, U32, U32, U64, U64, U64),
    st.builds(msg.SetQueue, U32, U32, U64, U64, U64), st.builds(msg.QueueSet),
    st.builds(msg.ResetQueue, U32), st.builds(msg.QueueReset),
    st.builds(msg.GetShm, U32), st.builds(msg.Shm, U32, U32, U32),
    st.builds(msg.ConfigChanged, U32, U32, U32, DATA), st.builds(msg.Available, U32, U32), st.builds(msg.Used, U32),
    st.builds(msg.GetDevices, EIGHTS, EIGHTS), st.builds(msg.Devices, EIGHTS, EIGHTS, DATA),
    st.builds(msg.Ping, U32), st.builds(msg.Pong, U32), st.builds(msg.DeviceEvent, U16, U16),
    st.builds(msg.GetBus), st.builds(msg.Bus, U32, U32, U32),
    st.builds(msg.GetNode, U16), st.builds(msg.Node, U16, U64, DATA),
)  # fmt: skip


def message(body: Body, device: int, token: int) -> Message:
    """With what it may have of both."""
    name = type(body).__name__
    is_of_bus = name in {"GetDevices", "Devices", "Ping", "Pong", "DeviceEvent", "GetBus", "Bus", "GetNode", "Node"}
    return Message(0 if is_of_bus else device, 0 if msg.is_event(body) else token, body)


MESSAGES = st.builds(message, BODIES, U16, st.integers(1, (1 << 16) - 1))


def written(given: Message) -> bytes:
    return encode(given.body, given.device, given.token)


@pytest.mark.parametrize(
    ("given", "wire"),
    [
        (Message(5, 7, msg.GetDeviceInfo()), "00 02 0500 0700 0800"),
        (Message(5, 7, msg.DeviceInfo(2, 0x1AF4, 64, 300, 3, 1, 2)),
         "01 02 0500 0700 2000  02000000 f41a0000 40000000 2c010000 03000000 0100 0200"),
        (Message(5, 7, msg.GetFeatures(1, 2)), "00 03 0500 0700 1000  01000000 02000000"),
        (Message(5, 7, msg.Features(1, (3, 1 << 31))),
         "01 03 0500 0700 1800  01000000 02000000 03000000 00000080"),
        (Message(5, 7, msg.SetFeatures(0, (1,))), "00 04 0500 0700 1400  00000000 01000000 01000000"),
        (Message(5, 7, msg.FeaturesSet()), "01 04 0500 0700 0800"),
        (Message(5, 7, msg.GetConfig(8, 4)), "00 05 0500 0700 1000  08000000 04000000"),
        (Message(5, 7, msg.Config(9, 8, b"abcd")), "01 05 0500 0700 1800  09000000 08000000 04000000 61626364"),
        (Message(5, 7, msg.SetConfig(9, 8, b"ab")), "00 06 0500 0700 1600  09000000 08000000 02000000 6162"),
        (Message(5, 7, msg.ConfigSet(10, 8, b"")), "01 06 0500 0700 1400  0a000000 08000000 00000000"),
        (Message(5, 7, msg.GetStatus()), "00 07 0500 0700 0800"),
        (Message(5, 7, msg.StatusIs(15)), "01 07 0500 0700 0c00  0f000000"),
        (Message(5, 7, msg.SetStatus(3)), "00 08 0500 0700 0c00  03000000"),
        (Message(5, 7, msg.StatusSet(3)), "01 08 0500 0700 0c00  03000000"),
        (Message(5, 7, msg.GetQueue(2)), "00 09 0500 0700 0c00  02000000"),
        (Message(5, 7, msg.Queue(2, 256, 64, 0x1000, 0x2000, 1 << 40)),
         "01 09 0500 0700 3000  02000000 00010000 40000000 00000000"
         "  0010000000000000 0020000000000000 0000000000010000"),
        (Message(5, 7, msg.SetQueue(2, 64, 0x1000, 0x2000, 0x3000)),
         "00 0a 0500 0700 3000  02000000 00000000 40000000 00000000"
         "  0010000000000000 0020000000000000 0030000000000000"),
        (Message(5, 7, msg.QueueSet()), "01 0a 0500 0700 0800"),
        (Message(5, 7, msg.ResetQueue(2)), "00 0b 0500 0700 0c00  02000000"),
        (Message(5, 7, msg.QueueReset()), "01 0b 0500 0700 0800"),
        (Message(5, 7, msg.GetShm(1)), "00 0c 0500 0700 0c00  01000000"),
        (Message(5, 7, msg.Shm(1, 4096, 65536)), "01 0c 0500 0700 1400  01000000 00100000 00000100"),
        (Message(5, 0, msg.ConfigChanged(15, 4, 0, b"x")),
         "00 40 0500 0000 1900  0f000000 04000000 00000000 01000000 78"),
        (Message(5, 0, msg.Available(2, 1 << 31)), "00 41 0500 0000 1000  02000000 00000080"),
        (Message(5, 0, msg.Used(2)), "00 42 0500 0000 0c00  02000000"),
        (Message(0, 7, msg.GetDevices(0, 16)), "02 02 0000 0700 0c00  0000 1000"),
        # The draft's own example: devices 0, 2 and 5 of 16, and go on at 16.
        (Message(0, 7, msg.Devices(0, 16, b"\x25\x00")), "03 02 0000 0700 1000  0000 1000 1000 2500"),
        (Message(0, 7, msg.Ping(0xDEADBEEF)), "02 03 0000 0700 0c00  efbeadde"),
        (Message(0, 7, msg.Pong(0xDEADBEEF)), "03 03 0000 0700 0c00  efbeadde"),
        (Message(0, 0, msg.DeviceEvent(5, msg.REMOVED)), "02 40 0000 0000 0c00  0500 0200"),
        (Message(0, 7, msg.GetBus()), "02 80 0000 0700 0800"),
        (Message(0, 7, msg.Bus(1, 264)), "03 80 0000 0700 1400  01000000 08010000 00000000"),
        (Message(0, 7, msg.GetNode(5)), "02 81 0000 0700 0a00  0500"),
        (Message(0, 7, msg.Node(5, 1 << 48 | 2, b"hostd,rng\0")),
         "03 81 0000 0700 1e00  0500 0200000000000100 0a00 686f7374642c726e6700"),
    ],
)  # fmt: skip
def test_a_message_has_these_bytes(given: Message, wire: str) -> None:
    data = bytes.fromhex(wire)
    assert written(given) == data
    assert decode(data) == given
    assert data[0] & 1 == msg.is_answer(given.body)


@given(MESSAGES)
def test_a_message_comes_as_it_went_and_no_cut_of_it_is_one(sent: Message) -> None:
    data = written(sent)
    assert len(data) <= MOST and decode(data) == sent
    for end in range(len(data)):
        with pytest.raises(ValueError, match="bytes"):
            decode(data[:end])


@given(MESSAGES, st.binary(max_size=20))
def test_padding_behind_a_message_is_nobodys(sent: Message, padding: bytes) -> None:
    data = written(sent)
    assert decode(data + padding) == sent
    longer = struct.pack("<H", len(data) + len(padding))  # it counts, and is behind what the message needs
    if len(data) + len(padding) <= MOST:
        assert decode(data[:6] + longer + data[8:] + padding) == sent


@given(MESSAGES, st.integers(0, 63))
def test_reserved_bits_of_the_type_are_ignored(sent: Message, bits: int) -> None:
    data = written(sent)
    assert decode(bytes([data[0] | bits << 2]) + data[1:]) == sent


@given(st.binary(max_size=300))
def test_whatever_comes_is_a_message_or_an_error(data: bytes) -> None:
    try:
        found = decode(data)
    except ValueError:
        return
    assert decode(written(found)) == found


@given(MESSAGES, st.integers(0, 7), st.integers(0, 255))
def test_a_broken_header_is_a_message_or_an_error(sent: Message, at: int, byte: int) -> None:
    data = bytearray(written(sent))
    data[at] = byte
    try:
        found = decode(bytes(data))
    except ValueError:
        return
    assert decode(written(found)) == found


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        ("", "0 bytes are no header"),
        ("00 02 0500 0700 08", "7 bytes are no header"),
        ("00 02 0500 0700 0700", "8 to 264 bytes, not 7"),
        ("00 02 0500 0700 0900", "8 bytes of 9"),
        ("00 02 0500 0000 0800", "without a token there is no answer"),
        ("00 41 0500 0100 1000  00000000 00000000", "an event has no token"),
        ("01 41 0500 0000 1000  00000000 00000000", "an event is no answer"),
        ("02 03 0500 0700 0c00  00000000", "a message of the bus is for no device, 5 say"),
        ("00 00 0500 0700 0800", "there is no message 0x0 of type 0"),
        ("00 0d 0500 0700 0800", "there is no message 0xd of type 0"),
        ("00 80 0500 0700 0800", "there is no message 0x80 of type 0"),
        ("02 04 0000 0700 0800", "there is no message 0x4 of type 2"),
        ("02 c0 0000 0000 0800", "there is no message 0xc0 of type 2"),
        ("02 c0 0000 0700 0800", "an event has no token"),
        ("00 05 0500 0700 0c00  00000000", "GetConfig has 16 bytes, not 12"),
        ("00 04 0500 0700 1000  00000000 ffffffff", "SetFeatures has 17179869196 bytes, not 16"),
        ("00 06 0500 0700 1400  00000000 00000000 01000000", "SetConfig has 21 bytes, not 20"),
        ("02 02 0000 0700 0c00  0400 0800", "4 is no multiple of 8"),
        ("02 02 0000 0700 0c00  0000 0900", "9 is no multiple of 8"),
    ],
)
def test_what_is_malformed_says_why(wire: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode(bytes.fromhex(wire))


def test_a_message_is_no_longer_than_a_bus_takes() -> None:
    with pytest.raises(ValueError, match="8 to 264 bytes, not 265"):
        encode(msg.Config(0, 0, bytes(245)), 1, 1)
    assert len(encode(msg.Config(0, 0, bytes(245)), 1, 1, most=300)) == 265
    with pytest.raises(ValueError, match="8 to 264 bytes, not 265"):
        decode(encode(msg.Config(0, 0, bytes(245)), 1, 1, most=300))
    assert HEADER == 8 and len(encode(msg.Queue(0, 0, 0, 0, 0, 0), 1, 1)) <= msg.LEAST


@pytest.mark.parametrize(
    ("body", "device", "token"),
    [
        (msg.StatusSet(1 << 32), 1, 1), (msg.StatusSet(-1), 1, 1), (msg.Ping(0), 1, 1), (msg.Ping(0), 0, 0),
        (msg.Used(0), 1, 1), (msg.GetStatus(), 1 << 16, 1), (msg.GetStatus(), 1, 1 << 16),
        (msg.Features(0, (1 << 32,)), 1, 1), (msg.GetDevices(4, 8), 0, 1),
        (msg.DeviceInfo(0, 0, 33, 0), 1, 1),
    ],
)  # fmt: skip
def test_what_is_no_message_is_not_sent(body: Body, device: int, token: int) -> None:
    with pytest.raises(ValueError, match=f"{type(body).__name__}.* is no message: "):
        encode(body, device, token)
