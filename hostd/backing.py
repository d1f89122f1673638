"""What stands behind a stream on the host, and the device's end of it.

backings/ has them, backings/named.py the texts that name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from hcall.clock import Clock
from hcall.errors import NoSuchCall
from hcall.saved import Saved

from .device import Room


class Port(Protocol):
    """The device's end of a backing; a BackedStream is one."""

    clock: Clock

    @property
    def space(self) -> int:
        """How many bytes `send` takes."""

    @property
    def ahead(self) -> int:
        """How many it wants that are not waited for: what stays where it is can be fetched."""

    @property
    def awaited(self) -> Room | None:
        """Where the next bytes are waited for, then `filled` says how many came; None: they are not."""

    def filled(self, count: int) -> None:
        """So many bytes are in the `awaited` room."""

    def send(self, data: bytes) -> int:
        """Bytes from the backing, no more than `space`."""

    def transmit(self) -> None:
        """The backing takes bytes again."""

    def parted(self) -> None:
        """Whoever was at the backing's other end has gone; another one may come."""

    def hang_up(self) -> None:
        """The backing is gone."""

    def failed(self, error: Exception) -> None:
        """What the backing took before has not come to where it was to go."""


class Carried:
    """What stands behind a device, and can go on behind another one: with what it knows, and with its descriptors.

    Of two that have the same terminal, or peer, only one may go on: the other one has to `cede`.
    """

    def save(self) -> tuple[Saved, Sequence[int]]:
        """What another one of this sort needs to go on as this one, and the descriptors, which stay this one's."""
        return {}, ()

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        """Before `start`, which begins nothing anew then: what was *saved*, and its *fds*, are this one's now.

        Raises ValueError, and has not taken them.  `stop` lets go of them, whether it was started or not.
        """
        if fds:
            raise ValueError(f"a {type(self).__name__} has no descriptors")

    def cede(self) -> None:
        """Another one has what was saved: let go of the descriptors, and leave all else as it is; `stop` may follow."""


class Backing(Carried):
    """Base: takes bytes and gives none.  Made of what follows the scheme, and the folder that paths are relative to."""

    endpoint: str  # for people: where the other end is, once it is started

    def __init__(self, rest: str, folder: Path) -> None:
        """May raise ValueError; takes hold of nothing yet."""

    def start(self, port: Port) -> None:
        """Begin.  Raises OSError."""
        raise NotImplementedError

    def stop(self) -> None:
        """End, and leave nothing behind."""
        raise NotImplementedError

    def write(self, data: bytes | memoryview) -> int:
        """Bytes taken, perhaps none; if not all, `port.transmit` says when there is room again.  Raises OSError.

        *data* may be the guest's memory: it is not kept, and may change meanwhile.
        """
        raise NotImplementedError

    def fetch(self, into: Room) -> int:
        """Bytes that are there already go *into* that room: how many; 0: none are, or it does not do so."""
        return 0

    @property
    def unwritten(self) -> int:
        """Bytes that were taken, and are not in the host's file yet; when they are, `port.transmit` says so."""
        return 0

    def resume(self) -> None:
        """The port has space again, or waits."""

    def reset(self) -> None:
        """Another guest comes."""

    def tick(self) -> None:
        """Called about once a second, by the device's own `tick`."""

    def winsize(self) -> tuple[int, int]:
        """(columns, rows) of the terminal; (0, 0): not known."""
        return 0, 0

    def set_winsize(self, columns: int, rows: int) -> None:
        """Change the terminal's size."""
        raise NoSuchCall("there is no terminal behind this stream")

    def set_speed(self, baud: int) -> None:
        """The line has another speed, for whoever looks."""

    def send_break(self) -> None:
        """A break on the line."""
        raise NoSuchCall("there is no terminal behind this stream")
