"""`guestd copy`: files and folders between a shared folder and this side's filesystem."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import uvloop

from hcall.errors import NoMatch, Reset, StaleHandle
from hcall.formats.folder import Kind
from hcall.programs.command import Exit, Failure, say
from hcall.text import counted

from ..clients.asynchronous import AsyncGuest, attach
from ..driver import Driver
from ..drivers.folder import FolderDriver
from .transfer import TransferProgress
from .trees import Copied, copy_in, copy_out, is_folder

_SHOWN: Final = 10  # names of what was left out


def copy(socket: str | None, source: str, target: str, drivers: list[type[Driver]]) -> None:
    """Copy DEVICE:PATH to a local path, or a local path to DEVICE:PATH.  Raises Failure, OSError or HcallError."""
    out, into = _remote(source), _remote(target)
    remote = out or into
    if remote is None or (out and into):
        raise Failure("one of the two is in a shared folder: NAME:PATH, such as shared:/notes.txt", Exit.USAGE)

    async def main() -> Copied:
        try:
            async with attach(socket, drivers=drivers) as guest:
                with TransferProgress(f"copying {source}", None) as progress:
                    copied = Copied(moved=progress.moved)
                    shared = await _find(guest, remote[0])
                    if out:
                        await _copy_out(shared, remote[1], Path(target), copied)
                    else:
                        await _copy_in(shared, Path(source), remote[1], copied)
                    return copied
        except (StaleHandle, Reset):
            raise StaleHandle(f"{remote[0]} was unplugged") from None

    copied = uvloop.run(main())
    for name in copied.left_out[:_SHOWN]:
        say("guestd", f"{name!r} is left out: it is neither file nor folder")
    if len(copied.left_out) > _SHOWN:
        say("guestd", f"{len(copied.left_out) - _SHOWN} more are left out")
    say("guestd", f"{counted(copied.files, 'file')} of {counted(copied.bytes, 'byte')} copied")


def _remote(text: str) -> tuple[str, str] | None:
    """Device and path of `NAME:PATH`; None for a local path, which has a / before any colon."""
    name, colon, path = text.partition(":")
    return (name, path.strip("/")) if colon and name and "/" not in name else None


async def _copy_out(shared: FolderDriver, path: str, target: Path, copied: Copied) -> None:
    """As `cp -r`: into a folder that is there, under its own name."""
    name = path.rpartition("/")[2]
    await copy_out(shared, path, target / name if is_folder(target) else target, copied)


async def _copy_in(shared: FolderDriver, source: Path, path: str, copied: Copied) -> None:
    try:
        into_folder = (await shared.stat(path)).kind == Kind.FOLDER
    except NoMatch:
        into_folder = False
    await copy_in(shared, source, f"{path}/{_name(source)}" if into_folder else path, copied)


async def _find(guest: AsyncGuest, name: str) -> FolderDriver:
    """The shared folder of that name or tag.  Raises Failure, or as `bind`."""
    nodes = [found for found in await guest.walk() if FolderDriver.compatible[0] in found.compatible]
    for found in nodes:
        tag = (await guest.properties(found.node)).get("mount-tag")
        if name in (found.path.removeprefix("/"), tag):
            driver = await guest.bind(found.path)
            if isinstance(driver, FolderDriver):
                return driver
    there = ", ".join(found.path.removeprefix("/") for found in nodes) or "none"
    raise Failure(f"no shared folder {name!r}; there are: {there}", Exit.NO_DEVICE)


def _name(path: Path) -> str:
    return path.resolve().name  # that of `.`, too
