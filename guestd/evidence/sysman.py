"""Buttons are pressed through the control socket of the host, and arrive as events; then the clock and a light."""

import asyncio
import json
import time
from pathlib import Path

from guestd import AsyncGuest
from protocol.formats.sysmgmt import Happened
from protocol.rendezvous import CONTROL_SOCKET, find


async def show(guest: AsyncGuest, folder: Path) -> str:
    """Raises AssertionError where anything else arrives."""
    sysman = await guest.bind("sysman")
    reader, writer = await asyncio.open_unix_connection(find(str(guest.path), CONTROL_SOCKET))
    events = []
    for action in ("press", "release"):
        writer.write(json.dumps({"do": "act", "path": "/sysman", "action": action, "args": ["power"]}).encode() + b"\n")
        answer = json.loads(await reader.readline())
        assert answer == {"ok": "the guest was told"}, answer
        events.append(await guest["sysman"].event())
    writer.close()
    assert [Happened(event.type) for event in events] == [Happened.POWER_PRESSED, Happened.POWER_RELEASED], events
    behind = time.time() - await guest["sysman"].get_time()
    assert abs(behind) < 1, f"the clock is {behind} s behind"
    await guest["sysman"].set_led("power", "on")
    leds = await sysman.dev.property("leds")
    assert "power=on" in leds, leds
    return f"power pressed, released after {events[1].value} ms; clock {behind * 1000:+.1f} ms"
