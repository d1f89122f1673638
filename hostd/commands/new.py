"""`hostd new`: a device of the user's own that works as it stands: model, driver, test and machine file."""

from __future__ import annotations

import builtins
import importlib.metadata
import keyword
import re
import shutil
import sys
from pathlib import Path
from typing import Final

from hcall.programs.command import Exit, Failure

from .shipped import shipped

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,30}")
_OURS: Final = {
    "hostd", "guestd", "hcall", "machine", "test", "self",
    "bad_argument", "config", "device", "driver", "irq", "op", "property", "signal",
}  # fmt: skip


def make(name: str, within: Path) -> list[Path]:
    """Write the files of the device *name* to a folder of that name; what was written.  Raises Failure."""
    wrong = _mistake(name)
    if wrong is not None:
        raise Failure(f"{name!r} {wrong}", Exit.USAGE)
    folder = within / name
    try:
        folder.mkdir()
    except FileExistsError:
        raise Failure(f"{folder} is there already: take another name, or remove it", Exit.USAGE) from None
    try:
        return [_write(source, folder, name) for source in sorted(shipped("template").iterdir()) if source.is_file()]
    except BaseException:  # the disk is full, or Ctrl-C: half a device is none
        shutil.rmtree(folder)
        raise


def _write(source: Path, folder: Path, name: str) -> Path:
    """The file of the template, with *name* for the example's; where it is now."""
    text = source.read_text().replace("Example", _class_name(name)).replace("example", name)
    target = folder / source.name.replace("example", name)
    target.write_text(text.replace(f'"{name},{name}"', f'"example,{name}"'))
    return target


def _mistake(name: str) -> str | None:
    """Why *name*, which becomes that of a module, a class and a node, will not do."""
    if not _NAME.fullmatch(name):
        near = re.sub(r"\W+", "_", name).strip("_").lower()
        hint = f": say, {near}" if near != name and _mistake(near) is None else ""
        return f"is no name for a module: 1 to 31 small letters, digits and _, a letter first{hint}"
    python = {*keyword.kwlist, *sys.stdlib_module_names, *dir(builtins)}
    if {name, _class_name(name)} & python or name in _OURS or name in importlib.metadata.packages_distributions():
        return f"is Python's, ours, or an installed package's: say, {name}_device"
    return None


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))
