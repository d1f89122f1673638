"""IPv4, ICMP echo and UDP: as much as it takes to send a packet, and to answer one (RFC 791, 792, 768, 862)."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import Final, NamedTuple

ICMP, UDP = 1, 17  # protocol numbers
ECHO_PORT: Final = 7
DEFAULT_TTL: Final = 64

_HEADER: Final = struct.Struct(">BBHHHBBH4s4s")
_UDP: Final = struct.Struct(">HHHH")
_ECHO: Final = struct.Struct(">BBHHH")  # type, code, checksum, identifier, sequence
_ECHO_REPLY, _ECHO_REQUEST = 0, 8
_FRAGMENT: Final = 0x3FFF  # more fragments, and the offset


class Packet(NamedTuple):
    """A packet, without the options of its header."""

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    payload: bytes
    ttl: int = DEFAULT_TTL

    def encode(self) -> bytes:
        """Its bytes."""
        header = _HEADER.pack(
            0x45, 0, _HEADER.size + len(self.payload), 0, 0x4000, self.ttl, self.protocol, 0,
            self.source.packed, self.destination.packed,
        )  # fmt: skip
        return header[:10] + checksum(header).to_bytes(2) + header[12:] + self.payload

    @classmethod
    def decode(cls, raw: bytes) -> Packet | None:
        """The packet in *raw*; None if that is damaged, or one fragment of it."""
        if len(raw) < _HEADER.size or raw[0] >> 4 != 4:
            return None
        _, _, length, _, fragment, ttl, protocol, _, source, destination = _HEADER.unpack_from(raw)
        start = (raw[0] & 15) * 4
        if not _HEADER.size <= start <= length <= len(raw) or checksum(raw[:start]) or fragment & _FRAGMENT:
            return None
        return cls(IPv4Address(source), IPv4Address(destination), protocol, raw[start:length], ttl)


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071); 0 for what has a right one in it.

    A sum of 16-bit words with the carry added at the other end is the remainder of all bits as one number.
    """
    number = int.from_bytes(data + bytes(len(data) % 2))
    return 0xFFFF - (number % 0xFFFF or (0xFFFF if number else 0))


def echo_request(source: IPv4Address, destination: IPv4Address, ident: int, sequence: int, data: bytes) -> bytes:
    """A ping."""
    payload = _ECHO.pack(_ECHO_REQUEST, 0, 0, ident, sequence) + data
    return Packet(source, destination, ICMP, _with_checksum(payload, 2, payload)).encode()


def datagram(source: tuple[IPv4Address, int], destination: tuple[IPv4Address, int], data: bytes) -> bytes:
    """A packet of UDP; the ends are an address and a port each."""
    payload = _UDP.pack(source[1], destination[1], _UDP.size + len(data), 0) + data
    pseudo = source[0].packed + destination[0].packed + struct.pack(">HH", UDP, len(payload))
    return Packet(source[0], destination[0], UDP, _with_checksum(payload, 6, pseudo + payload)).encode()


def forwarded(raw: bytes) -> bytes | None:
    """A packet as a router sends it on; None if it is damaged, or has come too far."""
    start = (raw[0] & 15) * 4 if raw else 0
    if not _HEADER.size <= start <= len(raw) or raw[0] >> 4 != 4 or checksum(raw[:start]) or raw[8] < 2:
        return None
    header = raw[:8] + bytes((raw[8] - 1, raw[9], 0, 0)) + raw[12:start]
    return _with_checksum(header, 10, header) + raw[start:]


def answer(raw: bytes, address: IPv4Address) -> bytes | None:
    """What a host at *address* answers to a ping, or to a datagram to its echo port; None: nothing."""
    packet = Packet.decode(raw)
    if packet is None or packet.destination != address or packet.source == address:
        return None
    payload = packet.payload
    if packet.protocol == ICMP and payload[:2] == bytes((_ECHO_REQUEST, 0)) and not checksum(payload):
        reply = bytes((_ECHO_REPLY, 0, 0, 0)) + payload[4:]
        return Packet(address, packet.source, ICMP, _with_checksum(reply, 2, reply)).encode()
    if packet.protocol == UDP and len(payload) >= _UDP.size:
        source, destination, length, check = _UDP.unpack_from(payload)
        pseudo = packet.source.packed + address.packed + struct.pack(">HH", UDP, length)
        if destination != ECHO_PORT or not _UDP.size <= length <= len(payload) or source == ECHO_PORT:
            return None  # two echo services would never end
        if check and checksum(pseudo + payload[:length]):
            return None
        return datagram((address, ECHO_PORT), (packet.source, source), payload[_UDP.size : length])
    return None


def _with_checksum(data: bytes, at: int, summed: bytes) -> bytes:
    """*data* with the checksum of *summed*, in which it is 0, at *at*; 0 goes as FFFF, which is as good (RFC 768)."""
    return data[:at] + (checksum(summed) or 0xFFFF).to_bytes(2) + data[at + 2 :]
