"""The console: a shell at its other end works something out, at a terminal whose size the guest has set."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from guestd.clients.asynchronous import AsyncGuest
from guestd.drivers.console import ConsoleDriver


async def show(guest: AsyncGuest, folder: Path) -> str:
    """Have the shell hash what nobody could know before, and say how large its terminal is."""
    console = await guest.bind("console")
    assert isinstance(console, ConsoleDriver)
    await console.set_winsize(132, 43)
    secret = secrets.token_hex(16)
    # The quotes keep the terminal's echo of the line from looking like the answer.
    await console.write_all(f"echo $(stty size) $(printf %s {secret} | sha256sum) do''ne\n".encode())
    answer = (await console.read_until(b"done\r\n")).decode()
    digest = hashlib.sha256(secret.encode()).hexdigest()
    assert f"43 132 {digest} " in answer, f"the shell said {answer!r}"
    return f"a shell at a terminal of 132 x 43 worked out sha256 {digest[:8]}..."
