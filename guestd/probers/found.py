"""What a prober needs and yields: a way to make calls of the core, and a device as it was found."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, Protocol, TypeAlias

from ..memory import Ram


class Found(NamedTuple):
    """A device, or a node without one, as a prober found it."""

    node: int  # its handle
    path: str
    name: str
    compatible: tuple[str, ...]  # most specific first, if the bus tells
    ids: tuple[int, int]  # 16-bit vendor and device, (0, 0) = none

    @property
    def has_device(self) -> bool:
        """Whether there is a device; a bus may know its ids and nothing else."""
        return bool(self.compatible) or any(self.ids)


class Core(Protocol):
    """How a core call is made."""

    def __call__(self, handle: int, number: int, *args: object) -> Awaitable[Any]: ...


class Reach:
    """The calls of the core, and memory of the guest's for those that need some."""

    def __init__(self, core: Core, ram: Ram) -> None:
        self._core, self.ram = core, ram

    def __call__(self, handle: int, number: int, *args: object) -> Awaitable[Any]:
        """See `Core`."""
        return self._core(handle, number, *args)


#: Finds what there is, and nothing else: no driver, no I/O but the core's calls.
Probe: TypeAlias = Callable[[Reach], AsyncIterator[Found]]


def absolute(path: str) -> str:
    """*path* from the root on, a `/` in front or not."""
    if not isinstance(path, str):
        raise TypeError(f"the path of a device is text, not {path!r}")
    return "/" + path.strip("/")
