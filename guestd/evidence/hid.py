"""Keyboard and mouse: a program at a socket is the keyboard, another one the mouse."""

import asyncio
from pathlib import Path
from typing import cast

from guestd.client import AsyncGuest
from guestd.drivers.hid import HidDriver
from protocol.formats.input import DOWN, EV_KEY, EV_LED, EV_REL, UP, Event, Packet, Packets
from protocol.formats.keycodes import AXES, KEYS, LEDS, typed

DEVICES = ("keyboard", "mouse")
_TEXT = "hello from the host"
_MOVES = 1000


async def show(guest: AsyncGuest, folder: Path) -> str:
    """A text is typed, an LED goes back, and motion is added up."""
    keyboard, mouse = cast(HidDriver, await guest.bind("keyboard")), cast(HidDriver, await guest.bind("mouse"))
    keys = [typed()[character][0] for character in _TEXT]
    taps = [Packet(0, (Event(EV_KEY, key, value),)) for key in keys for value in (DOWN, UP)]
    reader, writer = await asyncio.open_unix_connection(folder / "keyboard.sock")
    _, mover = await asyncio.open_unix_connection(folder / "mouse.sock")
    try:
        writer.write(b"".join(packet.encode() for packet in taps))
        pressed = [event.code for event in await _until(keyboard, len(taps)) if event.value]
        assert pressed == keys, pressed
        await keyboard.set_led(LEDS["LED_CAPSL"], True)
        (led,) = Packets().feed(await reader.readexactly(48))
        assert led.events == (Event(EV_LED, LEDS["LED_CAPSL"], 1),), led
        step = Packet(0, (Event(EV_REL, AXES["REL_X"], 1),)).encode()
        mover.write(step * _MOVES + Packet(0, (Event(EV_KEY, KEYS["KEY_A"], DOWN),)).encode())  # a mouse has no A
        moved, packets = 0, 0
        while moved < _MOVES:
            events = await _until(mouse, 1)
            moved += sum(event.value for event in events)
            packets += len(events)
        assert moved == _MOVES
    finally:
        for each in (writer, mover):
            each.close()
            await each.wait_closed()
    return f"{len(taps)} key events and a LED back; {moved} moves of 1 came in {packets}"


async def _until(driver: HidDriver, count: int) -> list[Event]:
    """So many events, or more."""
    events: list[Event] = []
    while len(events) < count:
        events += [event for packet in await driver.events() for event in packet.events]
    return events
