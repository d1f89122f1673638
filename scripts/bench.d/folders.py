"""The shared folder: a tree of small files copied out, beside `cp -r` of the same tree; all of it is on tmpfs.

Ours is what `guestd copy` does, without the start of a process; cp is a process for each copy.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import peers
from meters import Meter
from outcome import Row

import guestd
from guestd.commands.trees import copy_out
from guestd.drivers.folder import FolderDriver

_FILES: Final = 5000
_FOLDERS: Final = 100
_MAX_BYTES: Final = 8192  # of a file
_OURS, _CP = "shared folder: copy", "cp -r: copy"
KEYS: Final = {_OURS, _CP}
ROWS: Final = (Row("5,000 small files copied out", (_OURS,), (_CP,), "s", 2.2, 3),)
GROUPS: Final = ((_OURS, _CP),)  # a turn is a whole copy


class _CopyMeter(Meter):
    """Times whole copies to a folder that is not there."""

    def __init__(self, copy: Callable[[Path], Awaitable[object] | None], target: Path) -> None:
        super().__init__(lambda _: None)
        self._copy, self._target = copy, target

    async def warm_up(self) -> None:
        """One copy."""
        await self.turn(0)
        self.values.clear()

    async def turn(self, seconds: float) -> None:
        """One copy."""
        start = time.perf_counter()
        work = self._copy(self._target)
        if work is not None:
            await work
        self.values.append(time.perf_counter() - start)
        shutil.rmtree(self._target)


async def folder_meters(stack: contextlib.AsyncExitStack, core: int, own: int, spin: bool) -> dict[str, Meter]:
    """Of a daemon on *core*; this process, and cp, are on the core *own*."""
    memory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm")))
    source = memory / "source"
    for number in range(_FILES):
        file = source / str(number % _FOLDERS) / str(number)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(random.randrange(_MAX_BYTES)))
    machine = '[devices.files]\nmodel = "folder"\npath = "source"\nread_only = true\n'
    guests, _ = stack.enter_context(peers.daemon(core, memory, "folder", machine, spin))
    guest = await stack.enter_async_context(guestd.attach(guests, spin=spin))
    files = await guest.bind("files")
    assert isinstance(files, FolderDriver)

    def cp(target: Path) -> None:
        with peers.pinned(own):
            subprocess.run(["cp", "-r", source, target], check=True)

    return {
        _OURS: _CopyMeter(lambda target: copy_out(files, "", target), memory / "ours"),
        _CP: _CopyMeter(cp, memory / "cp"),
    }
