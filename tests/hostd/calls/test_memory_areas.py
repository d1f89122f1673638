"""Guest memory: no area reaches beyond it, nothing that could shrink is mapped, and rooms of both sorts are alike."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from guest_files import Files, add
from hypothesis import given, settings
from hypothesis import strategies as st
from raw import memory_of

from hcall.errors import BadArea
from hcall.kernel.memfd import PAGE
from hcall.wire import MAX_INLINE

IN, OUT = 1, 0  # the directions: to the guest, to the device
LOW, NEXT, HIGH = 0x10000, 0x10000 + 2 * PAGE, (1 << 64) - PAGE  # two pages, one right behind them, the last of all


@pytest.fixture
def files() -> Iterator[Files]:
    files = Files()
    yield files
    for fd in files.open:
        os.close(fd)


class World:
    """Three regions of different bytes, and the descriptors behind them."""

    def __init__(self, files: Files) -> None:
        self.memory = memory_of()
        self.fds = {}
        for start, size in ((LOW, 2 * PAGE), (NEXT, PAGE), (HIGH, PAGE)):
            self.fds[start] = fd = files.memfd(size)
            os.pwrite(fd, os.urandom(size), 0)
            add(self.memory, start, size, fd)

    def bytes_at(self, address: int, count: int) -> bytes:
        start = max(start for start in self.fds if start <= address)
        found = os.pread(self.fds[start], count, address - start)
        return found if len(found) == count else found + self.bytes_at(address + len(found), count - len(found))


@pytest.fixture
def world(files: Files) -> Iterator[World]:
    world = World(files)
    yield world
    world.memory.close()  # pytest keeps the fixture until the leak check is over


# Bounds.

INSIDE = [
    (LOW, 1), (LOW, PAGE), (LOW, 2 * PAGE), (LOW + 1, 2 * PAGE - 1), (NEXT - 1, 1), (NEXT, PAGE), (NEXT + PAGE - 1, 1),
    (HIGH, PAGE), ((1 << 64) - 1, 1), (LOW, 0), (NEXT, 0), (NEXT + PAGE, 0), (1 << 64, 0),
    (LOW, 2 * PAGE + 1), (NEXT - 1, 2), (LOW, 3 * PAGE), (LOW + 5, 3 * PAGE - 5),  # from one region into the next
]  # fmt: skip
OUTSIDE = [
    (0, 0), (0, 1), (LOW - 1, 0), (LOW - 1, 1), (LOW - 1, 2), (NEXT + PAGE, 1), (NEXT + PAGE - 1, 2),
    (NEXT + PAGE + 1, 0), (LOW, 3 * PAGE + 1), (NEXT - 1, PAGE + 2),  # from one region into the next, and out of that
    (HIGH - 1, 1), (HIGH, PAGE + 1), ((1 << 64) - 1, 2), (1 << 64, 1), (HIGH, LOW + PAGE + 1),  # around the end
    (LOW, (1 << 64) - 1), (LOW, -1), (LOW + 1, -1), (-1, 1), (-1, 2), (-PAGE, PAGE), (LOW, (1 << 64) + 1), (LOW, -PAGE),
]  # fmt: skip


@pytest.mark.parametrize(("address", "length"), INSIDE)
@pytest.mark.spec("A-2")
def test_an_area_inside_is_exactly_those_bytes_of_the_guest(world: World, address: int, length: int) -> None:
    expected = world.bytes_at(address, length)
    data = world.memory.data(((address, length, OUT),))
    assert data.get() == expected and data.nbytes == length and all(view.readonly for view in data)
    room = world.memory.room(((address, length, IN),))
    assert b"".join(room) == expected and room.nbytes == length
    fresh = os.urandom(length)
    assert room.put(fresh) == length and world.bytes_at(address, length) == fresh


@pytest.mark.parametrize(("name", "way"), [("room", IN), ("data", OUT), ("both", IN), ("both", OUT)])
@pytest.mark.spec("A-2")
def test_an_area_outside_is_refused(world: World, name: str, way: int) -> None:
    use: Any = {"room": world.memory.room, "data": world.memory.data, "both": world.memory.both}[name]
    for address, length in OUTSIDE:
        for before in ((), ((LOW, 1, way),)):
            with pytest.raises(BadArea):
                pytest.fail(f"{address:#x}+{length:#x} is {use((*before, (address, length, way)))}")


NEITHER: list[object] = [
    (LOW, 1, 2), (LOW, 1, -1), (LOW, 1, True), (LOW, 1, False), (LOW, 1, 1.0), (LOW, 1, 0.0), (LOW, 1, None), (LOW, 1),
    (LOW, 1, IN, 0), (LOW, 1, OUT, 0), (LOW, True, IN), (LOW, False, OUT), (float(LOW), 1, IN), (str(LOW), 1, OUT),
    (None, 1, IN), (), None, "text", {LOW: 1}, 1.0, True, False, -1, MAX_INLINE + 1, 1 << 63,
]  # fmt: skip


@pytest.mark.parametrize(
    ("area", "uses"),
    [
        *((area, set()) for area in NEITHER),
        ((LOW, 1, IN), {"room", "second of a room", "both"}),
        ((LOW, 1, OUT), {"data", "second of data", "both"}),
        *((area, {"data", "second of data", "both"}) for area in (b"", b"bytes")),
        *((area, {"room"}) for area in (0, 1, MAX_INLINE)),  # the only area of its call
    ],
    ids=lambda value: repr(sorted(value) if isinstance(value, set) else value),
)
@pytest.mark.spec("A-1")
def test_an_area_is_only_what_its_shape_and_direction_say(world: World, area: object, uses: set[str]) -> None:
    memory = world.memory
    calls: dict[str, Callable[[], object]] = {
        "room": lambda: memory.room((area,)),
        "second of a room": lambda: memory.room(((LOW, 1, IN), area)),
        "data": lambda: memory.data((area,)),
        "second of data": lambda: memory.data(((LOW, 1, OUT), area)),
        "both": lambda: memory.both((area,)),
    }
    for name, use in calls.items():
        if name in uses:
            use()
        else:
            with pytest.raises(BadArea):
                use()


def test_no_memory_has_no_areas() -> None:
    memory = memory_of()
    assert memory.room(()).nbytes == memory.data(()).nbytes == 0
    assert memory.room(()).put(b"x") == 0 and memory.data(()).get() == b""
    with pytest.raises(BadArea):
        memory.room(((0, 0, IN),))


# Areas that span regions.


@pytest.mark.spec("A-2", "M-3")
def test_an_area_over_many_regions_is_in_the_order_of_addresses_whatever_their_own_order(files: Files) -> None:
    memory, content = memory_of(), os.urandom(4 * PAGE)
    for n in (2, 0, 3, 1):
        fd = files.memfd(PAGE)
        os.pwrite(fd, content[n * PAGE : (n + 1) * PAGE], 0)
        add(memory, n * PAGE, PAGE, fd)
    data = memory.data((b"head", (PAGE - 3, 2 * PAGE + 6, OUT), b"tail"))
    assert data.get() == b"head" + content[PAGE - 3 : 3 * PAGE + 3] + b"tail" and data.nbytes == 2 * PAGE + 14
    assert [len(view) for view in data] == [4, 3, PAGE, PAGE, 3, 4]
    room, other = memory.both(((1, 4 * PAGE - 1, IN), (0, 4 * PAGE, OUT), (0, 1, IN)))
    assert other.get() == content
    assert room.put(content[1:] + content[:1]) == 4 * PAGE == room.nbytes
    assert memory.data(((0, 4 * PAGE, OUT),)).get() == content
    memory.remove(PAGE)
    with pytest.raises(BadArea):
        memory.data(((0, 4 * PAGE, OUT),))
    assert memory.data(((2 * PAGE, 2 * PAGE, OUT),)).get() == content[2 * PAGE :]
    del data, room, other
    memory.close()


@settings(max_examples=200)
@given(st.data())
def test_an_area_is_taken_if_every_byte_of_it_is_memory(data: st.DataObject) -> None:
    """Against a list of pages, with pieces of odd sizes."""
    there = data.draw(st.sets(st.integers(0, 7), max_size=5))
    files, memory = Files(), memory_of()
    try:
        for page in data.draw(st.permutations(sorted(there))):
            fd = files.memfd(PAGE)
            os.pwrite(fd, bytes([page]) * PAGE, 0)
            add(memory, page * PAGE, PAGE, fd)
        edges = st.integers(0, 8).map(lambda page: page * PAGE)
        address = data.draw(edges) + data.draw(st.integers(-2, 2))
        length = data.draw(edges) + data.draw(st.integers(-2, 2))
        wanted = range(address, address + length)
        if length < 0 or (length and not {at // PAGE for at in (*wanted[:1], *wanted[::PAGE], *wanted[-1:])} <= there):
            with pytest.raises(BadArea):
                memory.data(((address, length, OUT),))
        elif length:
            area = memory.data(((address, length, OUT),))
            assert area.get() == bytes(at // PAGE for at in wanted) and area.nbytes == length
            del area
    finally:
        memory.close()
        for fd in files.open:
            os.close(fd)


def test_more_pieces_than_one_system_call_takes_are_refused(files: Files) -> None:
    memory = memory_of(regions=32)
    fd = files.memfd(PAGE)
    for n in range(32):
        add(memory, n * PAGE, PAGE, fd)
    with (Path("/dev/zero")).open("rb", buffering=0) as zero:
        room: Any = memory.room(((0, 32 * PAGE, IN),) * 32)
        assert len(room) == 1024 and os.preadv(zero.fileno(), room, 0) == room.nbytes
    with pytest.raises(BadArea, match="1024 regions"):
        memory.room((*((0, 32 * PAGE, IN),) * 32, (PAGE - 1, 2, IN)))
    room.release()
    memory.close()


# Scatter lists.


@pytest.mark.spec("A-4")
def test_a_scattered_room_is_filled_piece_by_piece_and_nothing_else_is_touched(world: World) -> None:
    pieces = [(NEXT, 3), (LOW + 5, 0), (LOW, 4), (NEXT - 2, 2), (HIGH + 7, 5)]
    room = world.memory.room(tuple((*piece, IN) for piece in pieces))
    assert room.nbytes == 14 and len(room) == 5
    before = [world.bytes_at(*piece) for piece in pieces]
    around = world.bytes_at(NEXT + 3, 100), world.bytes_at(LOW + 4, 100), world.bytes_at(HIGH + 12, 100)
    assert room.put(b"abcde") == 5
    assert [world.bytes_at(*piece) for piece in pieces] == [b"abc", b"", b"de" + before[2][2:], *before[3:]]
    assert room.put(b"0123456789ABCDEFG") == 14
    assert [world.bytes_at(*piece) for piece in pieces] == [b"012", b"", b"3456", b"78", b"9ABCD"]
    assert (world.bytes_at(NEXT + 3, 100), world.bytes_at(LOW + 4, 100), world.bytes_at(HIGH + 12, 100)) == around


def test_more_than_there_is_room_for_is_cut(world: World) -> None:
    after = world.bytes_at(LOW + 4, 4)
    assert world.memory.room(((LOW, 4, IN),)).put(b"12345678") == 4
    assert world.bytes_at(LOW, 8) == b"1234" + after
    assert world.memory.room((4,)).put(b"12345678") == 4


@pytest.mark.spec("A-5")
def test_scattered_data_is_joined_from_memory_and_from_the_message(world: World) -> None:
    data = world.memory.data((b"one", (NEXT - 4, 4, OUT), b"", (NEXT, 4, OUT), b"two"))
    assert data.get() == b"one" + world.bytes_at(NEXT - 4, 4) + world.bytes_at(NEXT, 4) + b"two"
    assert data.nbytes == 14
    with pytest.raises(TypeError):
        data[1][0] = 0


def test_both_sorts_the_areas_of_a_call_each_in_its_order(world: World) -> None:
    room, data = world.memory.both(((NEXT, 2, IN), b"first", (LOW, 3, OUT), (LOW + 8, 1, IN), (NEXT, 2, IN)))
    assert [len(view) for view in room] == [2, 1, 2] and room.nbytes == 5
    assert data.get() == b"first" + world.bytes_at(LOW, 3)
    room.put(b"abcde")
    assert world.bytes_at(NEXT, 2) == b"de" and world.bytes_at(LOW + 8, 1) == b"c"


@pytest.mark.parametrize("areas", [((LOW, 5, IN), (NEXT, 300, IN)), ((LOW, 9, IN),), (4096,), (10,), (0,)], ids=repr)
def test_a_file_is_read_straight_into_a_room_and_written_from_data(
    world: World, areas: tuple[Any, ...], tmp_path: Path
) -> None:
    content = os.urandom(5000)
    path = tmp_path / "file"
    path.write_bytes(content)
    room: Any = world.memory.room(areas)
    with path.open("r+b") as file:
        assert os.preadv(file.fileno(), room, 100) == room.nbytes
        filled = room.filled(room.nbytes) if type(areas[0]) is int else b"".join(room)
        assert filled == content[100 : 100 + room.nbytes]
        data = world.memory.data((b"head", (NEXT - 3, 3, OUT), (NEXT, 5, OUT)))
        assert os.pwritev(file.fileno(), data, 10) == 12
    assert path.read_bytes()[10:22] == b"head" + world.bytes_at(NEXT - 3, 3) + world.bytes_at(NEXT, 5)


def test_a_released_area_is_of_no_use_any_more(world: World) -> None:
    room: Any = world.memory.room(((LOW, 4, IN), (NEXT, 4, IN)))
    single: Any = world.memory.room(((LOW, 4, IN),))
    data: Any = world.memory.data(((LOW, 4, OUT), b"bytes"))
    before = world.bytes_at(LOW, 4)
    for area in (room, single, data):
        area.release()
    for use in (lambda: room.put(b"x"), lambda: single.put(b"x"), data.get, lambda: room[0][0], lambda: data[1][0]):
        with pytest.raises((ValueError, TypeError)):
            use()
    assert world.bytes_at(LOW, 4) == before
    assert world.memory.data(((LOW, 4, OUT),)).get() == before  # the next call is not concerned


@pytest.mark.spec("C-16")
def test_memory_that_is_taken_away_stays_with_the_calls_that_have_it(world: World) -> None:
    version = world.memory.version
    data = world.memory.data(((LOW, 8, OUT),))
    expected = world.bytes_at(LOW, 8)
    world.memory.remove(LOW)
    assert data.get() == expected
    for gone in (LOW, LOW + PAGE, NEXT + 1):
        with pytest.raises(BadArea):
            world.memory.remove(gone)
    with pytest.raises(BadArea):
        world.memory.data(((LOW, 8, OUT),))
    assert world.memory.data(((NEXT, 8, OUT),)).get() == world.bytes_at(NEXT, 8)
    removed = world.memory.version
    add(world.memory, LOW, 2 * PAGE, world.fds[LOW])
    assert world.memory.data(((LOW, 8, OUT),)).get() == expected
    assert len({version, removed, world.memory.version}) == 3  # who keeps areas sees it


def test_an_area_that_a_lane_keeps_serves_call_after_call(world: World) -> None:
    taken: list[Any] = [
        world.memory.room(((NEXT - 2, 4, IN), (HIGH, 1, IN))),
        world.memory.data(((LOW, 3, OUT), b"tail")),
    ]
    room, data = (area.kept() for area in taken)
    for n in range(3):
        assert room.nbytes == 5 and room.put(b"%d1234" % n) == 5 and world.bytes_at(NEXT - 2, 4) == b"%d123" % n
        assert data.nbytes == 7 and data.get() == world.bytes_at(LOW, 3) + b"tail"
        room.release()  # as a call does that ends
        data.release()


def test_two_areas_that_are_equal_as_numbers_go_are_each_looked_at(world: World) -> None:
    for area in ((LOW, 4, True), (LOW, 4, 1.0), (float(LOW), 4, IN)):
        with pytest.raises(BadArea):
            world.memory.both(((LOW, 4, IN), area))


# Room in the reply.


@pytest.mark.parametrize(
    ("put", "views", "count", "expected"),
    [
        (b"abc", {}, 3, b"abc"), (b"abc", {}, 2, b"ab"), (b"abc", {}, 0, b""), (b"abc", {}, 5, b"abc\0\0"),
        (b"abcdefghijk", {}, 8, b"abcdefgh"), (None, {}, 4, bytes(4)), (None, {2: b"xy"}, 4, b"\0\0xy"),
        (None, {6: b"xy"}, 8, bytes(6) + b"xy"), (None, {2: b"xy"}, 3, b"\0\0x"), (b"abc", {2: b"xy"}, 4, b"abxy"),
        (b"abc", {0: b"x"}, 8, b"xbc" + bytes(5)),
    ],
)  # fmt: skip
def test_a_reply_has_what_was_put_and_what_was_written_to_views(
    put: bytes | None, views: dict[int, bytes], count: int, expected: bytes
) -> None:
    room: Any = memory_of().room((8,))
    if put is not None:
        assert room.put(put) == min(len(put), 8)
    for at, data in views.items():
        room[0][at : at + len(data)] = data
    assert room.filled(count) == expected and type(room.filled(count)) is bytes


operations = st.lists(st.tuples(st.none() | st.integers(0, 11), st.binary(max_size=16)), max_size=5)


def test_a_device_cannot_tell_one_sort_of_room_from_the_other(files: Files) -> None:
    memory, fd = memory_of(), files.memfd(PAGE)
    add(memory, 0, PAGE, fd)

    @given(operations)
    def check(operations: list[tuple[int | None, bytes]]) -> None:
        os.pwrite(fd, bytes(12), 0)
        inline: Any = memory.room((12,))
        scattered: Any = memory.room(((0, 12, IN),))
        for room in (inline, scattered):
            for at, data in operations:
                if at is None:
                    assert room.put(data) == min(len(data), 12)
                else:
                    part = data[: 12 - at]
                    room[0][at : at + len(part)] = part
        scattered.release()
        assert inline.filled(12) == os.pread(fd, 12, 0)

    try:
        check()
    finally:
        memory.close()
