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


class Datagrams(Protocol):
    """A socket of the host's where a datagram is a message."""

    def send(self, data: bytes) -> Awaitable[None]:
        """Send one.  Raises OSError."""

    def receive(self) -> Awaitable[bytes]:
        """The next one; none is empty.  Raises OSError if there is none in time, or the host has hung up."""

    def close(self) -> None:
        """Hang up."""


class Reach:
    """The calls of the core, memory of the guest's for those that need some, and the host's other sockets."""

    def __init__(self, core: Core, ram: Ram, datagrams: Callable[[str], Datagrams]) -> None:
        """*datagrams* connects to the socket of that name, see `hcall.rendezvous`.  Raises OSError."""
        self._core, self.ram, self.datagrams = core, ram, datagrams

    def __call__(self, handle: int, number: int, *args: object) -> Awaitable[Any]:
        """See `Core`."""
        return self._core(handle, number, *args)


#: Finds what there is, and nothing else: no driver, no I/O but what it is given.
Probe: TypeAlias = Callable[[Reach], AsyncIterator[Found]]


def absolute(path: str) -> str:
    """*path* from the root on, a `/` in front or not."""
    if not isinstance(path, str):
        raise TypeError(f"the path of a device is text, not {path!r}")
    return "/" + path.strip("/")
