"""The serial port: somebody at its Unix socket on the host, and bytes both ways at once."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from pathlib import Path

from guestd.clients.asynchronous import AsyncGuest
from guestd.drivers.tty import TtyDriver

_COUNT = 1 << 20


async def show(guest: AsyncGuest, folder: Path) -> str:
    """Send as much each way as no buffer holds, and compare."""
    tty = await guest.bind("tty")
    assert isinstance(tty, TtyDriver)
    await tty.set_baud(9600)
    speed = await tty.baud()
    assert speed == 9600, f"the speed is {speed}"
    endpoint: str = await tty.dev.property("endpoint")
    reader, writer = await asyncio.open_unix_connection(endpoint.removeprefix("unix:"))
    data, answer = secrets.token_bytes(_COUNT), secrets.token_bytes(_COUNT)
    try:
        writer.write(answer)
        _, sent, received = await asyncio.gather(
            tty.write_all(data), reader.readexactly(_COUNT), tty.read_exactly(_COUNT)
        )
    finally:
        writer.close()
        await writer.wait_closed()
    assert sent == data and received == answer, "bytes were changed on the way"
    return f"1 MiB each way over {Path(endpoint).name}, sha256 {hashlib.sha256(sent).hexdigest()[:8]}..., {speed} baud"
