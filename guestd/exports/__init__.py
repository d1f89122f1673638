"""Ways to let ordinary programs use a device of a guest: `guestd export NAME URI`.

One file each, with classes that say which URIs lead to them, and of what drivers they make something.  There is no
list to edit: whatever lies here is found.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import ClassVar, Final

from hcall.programs import endpoint, plugins
from hcall.programs.command import Exit, Failure
from hcall.programs.endpoint import Kind

from ..clients.asynchronous import AsyncGuest
from ..driver import Driver

__all__ = ["LINGER_SECONDS", "Export", "Kind", "choose"]

LINGER_SECONDS: Final = 1.0  # for what still comes after a peer's last word


class Export:
    """One device, made something that programs know."""

    kind: ClassVar[Kind]  # the URIs that lead here
    takes: ClassVar[type[Driver]]  # of the devices that can be exported so

    def __init__(self, device: str, rest: str) -> None:
        """*device* is what the user calls it; *rest* is the URI behind its scheme.  Raises ValueError."""
        self.device, self.rest = device, rest

    @property
    def where(self) -> str:
        """The whole URI: where others find it."""
        return f"{self.kind.scheme}{self.rest}"

    async def run(self, guest: AsyncGuest, driver: Driver, ready: Callable[[], None]) -> None:
        """Serve until the device ends, or until cancelled, and leave nothing behind; *driver* is one that it `takes`.

        Calls *ready* when others can use it.  Raises OSError if it cannot be had, or the errors of the device.
        """
        raise NotImplementedError


def choose(device: str, driver: Driver, uri: str) -> Export:
    """The export that *uri* names, for a device of *driver*.  Raises Failure that lists what is allowed."""
    fitting: dict[Kind, type[Export]] = {}
    for base in type(driver).__mro__:  # a printer is a stream, too, but is more than that
        fitting = fitting or {each.kind: each for each in _known() if each.takes is base}
    fits = [each for each in _known() if each.kind not in fitting and uri.startswith(each.kind.scheme)]
    hint = f"; {fits[0].kind.scheme} is for a {' or '.join(map(_noun, fits))} device" if fits else ""
    if not fitting:
        raise Failure(f"{device} cannot be exported{hint}", Exit.USAGE)
    try:
        kind, rest = endpoint.split(uri, fitting, f"export of {device}")
        return fitting[kind](device, rest)
    except ValueError as error:
        raise Failure(f"{error}{hint}", Exit.USAGE) from None


def _noun(export: type[Export]) -> str:
    return export.takes.__name__.removesuffix("Driver").lower()


@functools.cache
def _known() -> list[type[Export]]:
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    found = (each for module in modules for each in plugins.of(module, Export))
    return [each for each in found if hasattr(each, "kind") and hasattr(each, "takes")]  # not the bases of others
