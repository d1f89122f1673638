"""The bytes of one call: the Room that a handler fills, the Data that it reads.

In guest memory they may be changed by the guest at any time: decide on a call's arguments, which are copies, never on
the bytes of an Area.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias, overload

#: What may be put into a room: so may an array, or whatever else has its items side by side.
Buffer: TypeAlias = bytes | bytearray | memoryview


class Area(Sequence[memoryview]):
    """Some bytes of one call, in one or more pieces; `os.preadv` and `os.pwritev` take it as it is.

    Dispatch made it, checked it, and releases it when the call is answered: keep no piece of it longer.
    """

    __slots__ = ()
    nbytes: int


class Room(Area):
    """Room that the device fills."""

    __slots__ = ()

    def put(self, data: Buffer) -> int:
        """Copy in as much of *data* as fits, from the start; the bytes copied.  *data* stays the caller's."""
        raise NotImplementedError


class Data(Area):
    """Bytes for the device to read."""

    __slots__ = ()

    def get(self) -> bytes:
        """A copy of all of it: decide on this, not on the Area, whose bytes may change."""
        raise NotImplementedError


class Scattered(list[memoryview]):
    """Pieces of guest memory."""

    __slots__ = ("nbytes",)
    nbytes: int

    def put(self, data: Buffer) -> int:
        if type(data) is not bytes:
            data = _flat(data)
        if len(self) == 1 and len(data) <= self.nbytes:
            self[0][: len(data)] = data
            return len(data)
        at = 0
        for view in self:
            part = data[at : at + len(view)]
            view[: len(part)] = part
            at += len(part)
        return at

    def get(self) -> bytes:
        return b"".join(self)

    def kept(self) -> Kept:
        """The same bytes, for a lane that keeps what it has checked."""
        kept = Kept(self)
        kept.nbytes = self.nbytes
        return kept

    def release(self) -> None:
        for view in self:
            view.release()


class Kept(Scattered):
    """Pieces that a lane keeps, for one call after the other: none of them ends it."""

    __slots__ = ()

    def release(self) -> None:
        """It goes with the lane's last look at it."""


Room.register(Scattered)
Data.register(Scattered)


class InlineRoom(Room):
    """Room in the reply.  Bytes given to `put`, which nobody can change, are kept as they are.

    Anything else is copied; there is a buffer only if a view is asked for.
    """

    __slots__ = ("_data", "nbytes")

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._data: bytes | bytearray | None = None

    def put(self, data: Buffer) -> int:
        if type(data) is not bytes:
            data = bytes(_flat(data)[: self.nbytes])
        count = len(data)
        if count > self.nbytes:
            count = self.nbytes
            data = data[:count]
        if self._data is None:
            self._data = data
        else:
            self[0][:count] = data
        return count

    def __len__(self) -> int:
        return 1

    @overload
    def __getitem__(self, n: int) -> memoryview: ...
    @overload
    def __getitem__(self, n: slice) -> Sequence[memoryview]: ...
    def __getitem__(self, n: int | slice) -> memoryview | Sequence[memoryview]:
        if not isinstance(self._data, bytearray):
            kept = self._data or b""
            self._data = bytearray(self.nbytes)
            self._data[: len(kept)] = kept
        return [memoryview(self._data)][n]

    def __iter__(self) -> Iterator[memoryview]:
        yield self[0]

    def filled(self, count: object) -> bytes:
        """The first *count* bytes.  Raises TypeError for a count that cannot be."""
        data = self._data
        if type(data) is bytes and len(data) == count:
            return data
        if type(count) is not int or not 0 <= count <= self.nbytes:
            raise TypeError(f"a handler with a Room returns a count up to {self.nbytes}, not {count!r}")
        return bytes((data or b"")[:count]).ljust(count, b"\0")


def _flat(data: Buffer) -> bytes | memoryview:
    """The bytes of *data*, whatever its items are."""
    view = memoryview(data)
    try:
        return view.cast("B")
    except TypeError:  # what is empty, or not side by side in memory
        return view.tobytes()
