"""Ways to let ordinary programs use a device of a guest: `guestd export NAME URI`.

One file each: a class that says which URIs lead to it, and of what drivers it makes something.  There is no list to
edit: whatever lies here is found.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import ClassVar, Final

from protocol import endpoint, plugins
from protocol.command import Exit, Failure
from protocol.endpoint import Kind

from ..client import AsyncGuest
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
    fitting = {each.kind: each for each in _known() if isinstance(driver, each.takes)}
    if not fitting:
        raise Failure(f"{device} cannot be exported: there is none for {type(driver).__name__}", Exit.USAGE)
    try:
        scheme, rest = endpoint.split(uri, fitting, f"export of {device}")
        return next(each for kind, each in fitting.items() if kind.scheme == scheme)(device, rest)
    except ValueError as error:
        raise Failure(str(error), Exit.USAGE) from None


@functools.cache
def _known() -> list[type[Export]]:
    modules = [importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    return [each for module in modules for each in plugins.of(module, Export) if hasattr(each, "kind")]
