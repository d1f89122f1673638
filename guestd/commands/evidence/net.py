"""Frames go from one card to another, of another guest, in their order; broadcasts do, too."""

import zlib
from pathlib import Path

from guestd import AsyncGuest, attach
from guestd.drivers.net import NetDriver

DEVICES = ("net0", "net1")
_COUNT = 2000
_SIZE = 1500
_EXPERIMENTS = b"\x88\xb5"  # an EtherType that IEEE 802 leaves for them


async def show(guest: AsyncGuest, folder: Path) -> str:
    """Raises AssertionError where a frame does not come as it went."""
    async with attach(guest.path) as other:
        here, there = await guest.bind("net0"), await other.bind("net1")
        assert isinstance(here, NetDriver)
        assert isinstance(there, NetDriver)
        await there.send([b"\xff" * 6 + there.mac + _EXPERIMENTS + b"I am here"])
        (hello,) = await here.receive()
        assert hello[6:12] == there.mac, f"a broadcast came from {hello[6:12].hex(':')}"
        header = hello[6:12] + here.mac + _EXPERIMENTS
        sent = [header + n.to_bytes(4, "big") * ((_SIZE - len(header)) // 4) for n in range(_COUNT)]
        await here.send(sent)
        came: list[bytes] = []
        while len(came) < _COUNT:
            came += await there.receive()
        assert came == sent, "the frames that came are not those that went"
        await guest.unbind("net0")
        return f"{_COUNT} frames from {here.mac.hex(':')} to {there.mac.hex(':')}, CRC {zlib.crc32(b''.join(came)):08x}"
