"""What a model puts into a room comes out as the bytes it was; what it has itself stays as it was."""

from __future__ import annotations

import array
import ctypes
from collections.abc import Callable
from typing import Any

import pytest

from hostd.model.areas import InlineRoom, Room, Scattered

TEXT = bytes(range(24))
SORTS: dict[str, Callable[[bytes], Any]] = {
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "memoryview of a bytearray": lambda text: memoryview(bytearray(text)),
    "memoryview of numbers": lambda text: memoryview(bytearray(text)).cast("I"),
    "memoryview of a table": lambda text: memoryview(bytearray(text)).cast("B", [len(text) // 4, 4]),
    "memoryview of every second byte": lambda text: memoryview(bytes(b for byte in text for b in (byte, 99)))[::2],
    "array": lambda text: array.array("H", text),
    "structure": lambda text: (ctypes.c_uint32 * (len(text) // 4)).from_buffer_copy(text),
    "own sort of bytes": type("Own", (bytes,), {}),
}


def inline(size: int) -> tuple[Room, Callable[[int], bytes]]:
    room = InlineRoom(size)
    return room, room.filled


def scattered(*sizes: int) -> tuple[Room, Callable[[int], bytes]]:
    room: Any = Scattered(map(memoryview, map(bytearray, sizes)))
    room.nbytes = sum(sizes)
    return room, lambda count: b"".join(room)[:count]


ROOMS: dict[str, Callable[[int], tuple[Room, Callable[[int], bytes]]]] = {
    "inline": inline, "one piece": scattered, "pieces": lambda size: scattered(5, 0, size - 5),
}  # fmt: skip


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("kind", ROOMS)
@pytest.mark.parametrize("size", [8, 24, 25])
def test_a_room_takes_bytes_of_any_sort_as_many_as_fit(kind: str, sort: str, size: int) -> None:
    room, filled = ROOMS[kind](size)
    count = min(size, len(TEXT))
    assert room.put(SORTS[sort](TEXT)) == count
    assert filled(count) == TEXT[:count] and type(filled(count)) is bytes
    assert room.put(bytearray()) == room.put(memoryview(array.array("H"))) == 0 and filled(count) == TEXT[:count]


@pytest.mark.parametrize("kind", ROOMS)
@pytest.mark.parametrize("more", [0, 8])
def test_a_room_keeps_nothing_of_the_models(kind: str, more: int) -> None:
    memory = bytearray(TEXT)
    room, filled = ROOMS[kind](len(TEXT) + more)
    assert room.put(memory) == len(TEXT)
    memory[:4] = b"MINE"
    memory += b"and it can still grow"
    assert filled(len(TEXT)) == TEXT
    room[0][:4] = b"HEAD"
    assert filled(len(TEXT)) == b"HEAD" + TEXT[4:] and memory[:4] == b"MINE"


@pytest.mark.parametrize("kind", ROOMS)
def test_what_has_no_bytes_is_refused(kind: str) -> None:
    room, _ = ROOMS[kind](8)
    for wrong in ("text", [1, 2], 5, None):
        with pytest.raises(TypeError, match="bytes-like"):
            room.put(wrong)  # type: ignore[arg-type]  # the mistake itself


def test_bytes_in_an_inline_room_are_not_copied() -> None:
    room = InlineRoom(len(TEXT))
    room.put(TEXT)
    assert room.filled(len(TEXT)) is TEXT
