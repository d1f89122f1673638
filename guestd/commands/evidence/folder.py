"""Files copied into the shared folder and out again, as `guestd copy` does it: all checksums are the same."""

import hashlib
import os
from pathlib import Path

from guestd import AsyncGuest
from guestd.commands.trees import copy_in, copy_out
from guestd.drivers.folder import FolderDriver

_FILES = 100


async def show(guest: AsyncGuest, folder: Path) -> str:
    """Raises AssertionError where a file is not what it was."""
    there, back = folder / "copied-in", folder / "copied-out"
    for number in range(_FILES):
        file = there / f"{number % 7}" / f"{number}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(number * 997 % 20_000))
    shared = await guest.bind("folder")
    assert isinstance(shared, FolderDriver)
    await copy_in(shared, there, "evidence")
    await copy_out(shared, "evidence", back)
    before, on_host, after = map(_checksums, (there, folder / "shared" / "evidence", back))
    assert before == on_host == after and len(after) == _FILES, "not what it was"
    total = hashlib.sha256(repr(sorted(after.items())).encode()).hexdigest()
    return f"{len(after)} files in and out, all checksums the same ({total[:12]})"


def _checksums(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
