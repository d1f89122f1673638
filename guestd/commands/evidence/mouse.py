"""The mouse: a program at a socket moves it, with a click on the way; motion is added up, and never past a button."""

import asyncio
from pathlib import Path

from guestd import AsyncGuest
from guestd.drivers.hid import HidDriver
from hcall.formats.input import DOWN, EV_KEY, EV_REL, UP, Event, Packet
from hcall.formats.keycodes import AXES, BUTTONS

_MOVES = 500  # before the click, and after
_STEP, _DOWN, _UP = (
    Packet(0, (event,)).encode()
    for event in (
        Event(EV_REL, AXES["REL_X"], 1),
        Event(EV_KEY, BUTTONS["BTN_LEFT"], DOWN),
        Event(EV_KEY, BUTTONS["BTN_LEFT"], UP),
    )
)


async def show(guest: AsyncGuest, folder: Path) -> str:
    """Raises AssertionError where the way to the click, or behind it, is another one."""
    mouse = await guest.bind("mouse")
    assert isinstance(mouse, HidDriver)
    _, writer = await asyncio.open_unix_connection(folder / "mouse.sock")
    try:
        writer.write(_STEP * _MOVES + _DOWN + _UP + _STEP * _MOVES)
        at, edges, count = 0, [], 0
        while at < 2 * _MOVES:
            for event in (event for packet in await mouse.events() for event in packet.events):
                count += 1
                if event.type == EV_REL:
                    at += event.value
                else:
                    edges.append((at, event.value))
        assert (at, edges) == (2 * _MOVES, [(_MOVES, DOWN), (_MOVES, UP)]), f"it went to {at}, with {edges} on the way"
    finally:
        writer.close()
        await writer.wait_closed()
    return f"{2 * _MOVES} moves and a click amid them came in {count} events"
