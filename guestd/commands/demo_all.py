"""The guest's half of `hostd demo --all`: `python -m guestd.commands.demo_all SOCKET FOLDER`.

A line of JSON on standard output for each piece of evidence: the devices that it is of, what was seen, whether that is
as it should be.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
import traceback
from pathlib import Path

import uvloop

from hcall.clock import LoopClock, timeout

from ..clients.asynchronous import attach
from . import evidence

_SECONDS = 20.0  # for one device


async def _show_all(socket: str, folder: Path) -> None:
    for module in pkgutil.iter_modules(evidence.__path__):
        shows = importlib.import_module(f"{evidence.__name__}.{module.name}")
        try:
            # A guest for each: a device may end the session of the guest that has it.
            async with attach(socket, name=module.name) as guest, timeout(LoopClock(), _SECONDS):
                seen, ok = await shows.show(guest, folder), True
        except TimeoutError:
            traceback.print_exc()
            seen, ok = f"it took longer than {_SECONDS:.0f} s", False
        except Exception as error:  # whatever it is, the next device is not concerned
            traceback.print_exc()
            seen, ok = f"{type(error).__name__}: {error}".rstrip(": "), False
        names = getattr(shows, "DEVICES", (module.name,))
        print(json.dumps({"devices": names, "evidence": seen, "ok": ok}), flush=True)


def main() -> None:
    """The entry point."""
    uvloop.run(_show_all(sys.argv[1], Path(sys.argv[2])))


if __name__ == "__main__":
    main()
