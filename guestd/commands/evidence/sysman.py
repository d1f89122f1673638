"""Power is pressed through the host's control socket, and comes as events; a light, the clock; then the guest ends."""

import asyncio
import json
import time
from pathlib import Path

from guestd import AsyncGuest
from guestd.drivers.sysman import SysmanDriver
from hcall.errors import LinkLost
from hcall.formats.sysmgmt import Happened
from hcall.rendezvous import CONTROL_SOCKET, find


async def show(guest: AsyncGuest, folder: Path) -> str:
    """Raises AssertionError where anything else arrives."""
    sysman = await guest.bind("sysman")
    assert isinstance(sysman, SysmanDriver)
    reader, writer = await asyncio.open_unix_connection(find(str(guest.path), CONTROL_SOCKET))
    events = []
    for action in ("press", "release"):
        writer.write(json.dumps({"do": "act", "path": "/sysman", "action": action, "args": ["power"]}).encode() + b"\n")
        answer = json.loads(await reader.readline())
        assert answer == {"ok": "the guest was told"}, f"the front panel said {answer}"
        events.append(await sysman.event())
    writer.close()
    await writer.wait_closed()
    assert [event.type for event in events] == [Happened.POWER_PRESSED, Happened.POWER_RELEASED], f"{events} came"
    off = abs(time.time() - await sysman.get_time())
    assert off < 1, f"the clock is {off:.3f} s off"
    await sysman.set_led("power", "on")
    leds = await sysman.dev.property("leds")
    assert "power=on" in leds, f"the lights are {leds}"
    await sysman.shutdown()
    try:
        await guest.nop()
    except LinkLost as error:
        assert "the guest was shut down" in str(error), f"it ended otherwise: {error}"
    else:
        raise AssertionError("it goes on after its shutdown")
    return f"a button; {leds}; clock {off * 1000:.0f} ms off; shut down"
