"""Where a machine file's `model` leads: a model of ours, of an installed package, or of the user's own.

`block` is `hostd/devices/block.py`; other packages offer theirs in the entry point group `hostd.devices`; and
`module:Class` or `path/file.py:Class` is a class that nobody registered.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

from hcall.programs import plugins
from hcall.programs.plugins import PluginError
from hcall.text import suggest

from .. import devices
from ..device import Device

GROUP = "hostd.devices"


def names() -> list[str]:
    """The models that have a name."""
    return sorted({module.name for module in pkgutil.iter_modules(devices.__path__)} | plugins.offered(GROUP).keys())


def load(name: str, folder: Path) -> type[Device]:
    """The model *name*; a file is relative to *folder*.  Raises PluginError with what is wrong, or what there is."""
    if plugins.is_plugin(name):
        model = plugins.load(name, folder, Device)
    elif name in [module.name for module in pkgutil.iter_modules(devices.__path__)]:
        (model,) = plugins.of(importlib.import_module(f"{devices.__name__}.{name}"), Device)
    elif name in (offered := plugins.offered(GROUP)):
        model = plugins.load_offered(offered[name], Device)
    else:
        there = ", ".join([*names(), "path/file.py:Class", "module:Class"])
        raise PluginError([f"no model {name!r}{suggest(name, names())}; there are: {there}"])
    if not getattr(model, "compatible", ()):
        needs = f'{model.__name__} needs compatible = "vendor,name", which drivers look for'
        raise PluginError([f"{_place(model, name, folder)}: {needs}"])
    return model


def _place(model: type[Device], name: str, folder: Path) -> str:
    """File and line where *model*, which was asked for as *name*, is written; *name* if nowhere."""
    try:
        file, line = inspect.getfile(model), inspect.getsourcelines(model)[1]
    except (OSError, TypeError):  # it was made, not written
        return name
    place = name.partition(":")[0]
    return f"{place if Path(folder, place).resolve() == Path(file) else file}:{line}"
