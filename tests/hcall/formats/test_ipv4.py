"""IPv4, ICMP echo and UDP: what is answered, what is passed on, and what is dropped."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.formats import ipv4
from hcall.formats.ipv4 import ECHO_PORT, ICMP, Packet, answer, checksum, datagram, echo_request, forwarded

HOST, GUEST = IPv4Address("10.0.0.1"), IPv4Address("10.0.0.2")
PING = echo_request(GUEST, HOST, 1, 2, b"hello")
QUESTION = datagram((GUEST, 5000), (HOST, ECHO_PORT), b"hello")


def by_the_book(data: bytes) -> int:
    """RFC 1071, 4.1."""
    total = sum(int.from_bytes(data[at : at + 2].ljust(2, b"\0")) for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_the_checksum_of_rfc_1071s_example() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


@given(st.binary(max_size=200) | st.integers(0, 40).map(bytes) | st.integers(0, 40).map(lambda count: b"\xff" * count))
def test_the_checksum_is_the_books(data: bytes) -> None:
    assert checksum(data) == by_the_book(data)


@given(st.binary(max_size=1400), st.integers(0, 0xFFFF))
def test_pings_and_datagrams_come_back_with_right_checksums(data: bytes, number: int) -> None:
    pong = Packet.decode(answer(echo_request(GUEST, HOST, 1, number, data), HOST) or b"")
    assert pong is not None and (pong.source, pong.destination, pong.protocol) == (HOST, GUEST, ICMP)
    assert checksum(pong.payload) == 0 and pong.payload[4:] == b"\0\1" + number.to_bytes(2) + data
    if number != ECHO_PORT:
        reply = answer(datagram((GUEST, number), (HOST, ECHO_PORT), data), HOST)
        assert reply == datagram((HOST, ECHO_PORT), (GUEST, number), data)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        PING[:19],
        PING[:-1],
        b"\x65" + PING[1:],  # IPv6
        PING[:8] + b"\x01" + PING[9:],  # another TTL, with the old checksum
        PING[:-1] + b"!",  # other data, with the old checksum
        QUESTION[:-1] + b"!",
        echo_request(GUEST, IPv4Address("10.0.0.9"), 1, 2, b""),  # somebody else's
        echo_request(HOST, HOST, 1, 2, b""),
        datagram((GUEST, 5000), (HOST, 8), b""),  # another port
        datagram((GUEST, ECHO_PORT), (HOST, ECHO_PORT), b""),  # two echo services would never end
        Packet(GUEST, HOST, 6, b"tcp").encode(),
        answer(PING, HOST),  # a reply
    ],
)
def test_what_is_damaged_or_for_nobody_here_is_not_answered(packet: bytes) -> None:
    assert answer(packet, HOST) is None


def test_a_fragment_is_not_answered() -> None:
    for flags in (b"\x20\x00", b"\x00\x01"):
        header = PING[:6] + flags + PING[8:10] + b"\0\0" + PING[12:20]
        assert answer(header[:10] + checksum(header).to_bytes(2) + header[12:] + PING[20:], HOST) is None


def test_a_router_takes_one_from_the_time_to_live_until_there_is_none() -> None:
    packet: bytes | None = Packet(GUEST, HOST, 99, b"payload", ttl=3).encode()
    seen = []
    while packet is not None:
        decoded = Packet.decode(packet)  # its checksum is right
        assert decoded is not None and decoded._replace(ttl=3) == Packet(GUEST, HOST, 99, b"payload", ttl=3)
        seen.append(decoded.ttl)
        packet = forwarded(packet)
    assert seen == [3, 2, 1]


def test_options_of_a_header_are_passed_on() -> None:
    header = bytes((0x46,)) + PING[1:2] + (len(PING) + 4).to_bytes(2) + PING[4:10] + b"\0\0" + PING[12:20] + b"\1\1\1\0"
    packet = header[:10] + checksum(header).to_bytes(2) + header[12:] + PING[20:]
    onward = forwarded(packet)
    assert onward is not None and onward[20:] == packet[20:] and checksum(onward[:24]) == 0
    assert Packet.decode(onward) is not None


@given(st.binary(max_size=100) | st.binary(max_size=60).map(lambda data: PING[:20] + data))
def test_noise_never_raises(data: bytes) -> None:
    assert ipv4.answer(data, HOST) is None or data[:20] == PING[:20]
    forwarded(data)
