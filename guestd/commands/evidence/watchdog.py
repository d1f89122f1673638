"""A second guest, which is silent for a second, is reset; the first goes on and reads that it was so."""

from pathlib import Path

from guestd import AsyncGuest, attach
from hcall.errors import LinkLost


async def show(guest: AsyncGuest, folder: Path) -> str:
    """Raises AssertionError where the wrong guest is reset, or none."""
    async with attach(guest.path, name="silent") as silent:
        victim = await silent.bind("watchdog")
        began = victim.clock.time()
        assert await silent["watchdog"].set_timeout(1) == 1
        try:
            await silent.happened()
        except LinkLost as error:
            assert "the watchdog fired" in str(error), error
        seconds = victim.clock.time() - began
    watchdog = guest["watchdog"]
    status = await watchdog.boot_status()
    assert status == 0x20, f"boot status {status:#x}"
    await watchdog.disarm()
    await guest.unbind("watchdog")
    await guest.nop()
    return f"fired after {seconds:.2f} s, boot status {status:#04x}, this guest unharmed"
