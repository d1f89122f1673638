"""The slow network negotiates, and carries packets to the host's end and back."""

import zlib
from ipaddress import IPv4Address
from pathlib import Path

from guestd import AsyncGuest
from hcall.formats import ipv4

_COUNT = 100
_SIZE = 1000


async def show(guest: AsyncGuest, folder: Path) -> str:
    """Raises AssertionError where a packet does not come back as it went."""
    line = guest["ppp"]
    mine, host = await line.up()
    source, destination = (IPv4Address(mine), 7000), (IPv4Address(host), ipv4.ECHO_PORT)
    came = 0
    for number in range(_COUNT):
        data = number.to_bytes(4) + bytes((number + i) % 256 for i in range(_SIZE - 4))
        await line.send(ipv4.datagram(source, destination, data))
        packet = await line.receive()
        assert packet == ipv4.datagram(destination, source, data), f"datagram {number} came back as {packet.hex()}"
        came = zlib.crc32(data, came)
    await line.down()
    await guest.unbind("ppp")
    return f"{_COUNT} datagrams of {_SIZE} bytes from {mine} came back, CRC {came:08x}"
