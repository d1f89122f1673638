"""The keyboard: a program at a socket types a text, and is told of an LED."""

import asyncio
from pathlib import Path

from guestd import AsyncGuest
from guestd.drivers.hid import HidDriver
from hcall.formats.input import DOWN, EV_KEY, EV_LED, UP, Event, Packet, Packets
from hcall.formats.keycodes import LEDS, typed

_TEXT = "hello from the host"
_CAPS = LEDS["LED_CAPSL"]


async def show(guest: AsyncGuest, folder: Path) -> str:
    """Raises AssertionError where another key comes, or another LED goes back."""
    keyboard = await guest.bind("keyboard")
    assert isinstance(keyboard, HidDriver)
    keys = [typed()[character][0] for character in _TEXT]
    edges = [Event(EV_KEY, key, value) for key in keys for value in (DOWN, UP)]
    reader, writer = await asyncio.open_unix_connection(folder / "keyboard.sock")
    try:
        writer.write(b"".join(Packet(0, (edge,)).encode() for edge in edges))
        came: list[Event] = []
        while len(came) < len(edges):
            came += [event for packet in await keyboard.events() for event in packet.events]
        assert came == edges, f"other keys came: {came}"
        await keyboard.set_led(_CAPS, True)
        told = Packet(0, (Event(EV_LED, _CAPS, 1),))
        (led,) = Packets().feed(await reader.readexactly(len(told.encode())))
        assert led.events == told.events, f"another LED went back: {led}"
    finally:
        writer.close()
        await writer.wait_closed()
    return f"{_TEXT!r} came in {len(edges)} key events; LED_CAPSL went back"
