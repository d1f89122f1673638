"""The drivers that there are, and which of them takes which device."""

from __future__ import annotations

import functools
import importlib
import logging
import os
import pkgutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from hcall.programs import plugins

from .. import drivers
from ..driver import Driver
from ..probers import Found

VARIABLE: Final = "GUESTD_DRIVERS"  # of own drivers, as --driver takes them, with commas between
GROUP: Final = "guestd.drivers"
log = logging.getLogger(__name__)


def known_drivers() -> list[type[Driver]]:
    """The drivers that there are: the user's own, which $GUESTD_DRIVERS names, then the installed ones."""
    own = os.environ.get(VARIABLE, "")
    return [*own_drivers(filter(None, own.split(","))), *_installed()]


def own_drivers(names: Iterable[str]) -> list[type[Driver]]:
    """The drivers in files, `path/file.py` or `path/file.py:Class`, or `module:Class`.  Raises PluginError."""
    return [driver for name in names for driver in plugins.load_all(name, Path(), Driver)]


@functools.cache
def _installed() -> list[type[Driver]]:
    """Those of `guestd/drivers`, and what packages offer, by name.  One that cannot be loaded is left out."""
    modules = [importlib.import_module(f"{drivers.__name__}.{module.name}")
               for module in pkgutil.iter_modules(drivers.__path__)]  # fmt: skip
    found = [driver for module in modules for driver in plugins.of(module, Driver)]
    for point in plugins.offered(GROUP).values():
        try:
            found.append(plugins.load_offered(point, Driver))
        except plugins.PluginError as error:
            log.warning("a driver is left out: %s", error)
    return sorted(found, key=lambda driver: (driver.__name__, driver.__module__))


def match(found: Found, candidates: Iterable[type[Driver]]) -> type[Driver] | None:
    """The driver for *found*: by its most specific compatible string that any has, else by ids.

    Of two that are equal the first counts.
    """
    in_order = list(candidates)
    for compatible in found.compatible:
        for driver in in_order:
            if compatible in driver.compatible:
                return driver
    for driver in in_order:
        if found.ids != (0, 0) and found.ids in driver.ids:
            return driver
    return None
