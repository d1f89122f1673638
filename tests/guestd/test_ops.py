"""Calls as a driver declares them: areas of every sort, and answers that are looked at before anybody believes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from enum import IntFlag
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import pytest
from desk import CLIENTS
from fake_host import FIRST_OWN, lying
from test_lying_host import within

import guestd
import hostd
from guestd.bus import known_drivers
from guestd.clients.guest import Guest
from guestd.driver import Buffer, Data, Driver, Inline, Op, Room
from hcall.errors import BadArgument, IoError
from hcall.programs.plugins import Mistakes
from hostd import device
from hostd.device import Device, call
from hostd.machine.file import DeviceSpec

KINDS = (int, str, bool, bytes, float)


class Store(Device):
    """Bytes by a key."""

    compatible = "test,store"

    def start(self) -> None:
        self.kept: dict[str, bytes] = {}

    @call
    def fetch(self, into: device.Room, key: str, at: int) -> int:
        return into.put(self.kept[key][at:])

    @call
    def keep(self, data: device.Data, key: str) -> int:
        self.kept[key] = data.get()
        return data.nbytes

    @call
    def swap(self, into: device.Room, data: device.Data, key: str) -> int:
        before, self.kept[key] = self.kept[key], data.get()
        return into.put(before)

    @call
    def sizes(self) -> tuple[int, str, tuple[int, ...]]:
        return len(self.kept), ",".join(self.kept), tuple(map(len, self.kept.values()))


class Sizes(NamedTuple):
    count: int
    keys: str
    sizes: tuple[int, ...]


class StoreDriver(Driver):
    compatible = ("test,store",)
    fetch = Op[[Inline, str, int], bytes]()
    fetch_into = Op[[Room, str, int], int]("fetch")
    keep = Op[[Data, str], int]()
    swap = Op[[Room, Data, str], int]()
    sizes = Op[[], Sizes]()
    anything = Op[..., Any]("sizes")


@pytest.fixture
async def store(host: hostd.Host) -> AsyncIterator[StoreDriver]:
    host.plug(DeviceSpec("store", "store", Store, {}))
    async with guestd.attach(host.socket, drivers=[StoreDriver]) as guest:
        driver = await guest.bind("store")
        assert isinstance(driver, StoreDriver)
        yield driver
    await host.guests.wait_for(lambda: not host.guests.by_token)


async def test_areas_are_buffers_or_within_the_message(store: StoreDriver) -> None:
    assert await store.keep(b"hello", "a") == 5
    assert await store.fetch(100, "a", 1) == b"ello" and await store.fetch(2, "a", 0) == b"he"
    with store.dev.ram.alloc(10_000) as buffer:
        buffer.view[:] = b"x" * 10_000
        assert await store.keep(buffer, "b") == 10_000
        assert await store.keep(buffer.part(5, 3), "c") == 3
        assert await store.fetch_into(buffer.part(100, 5), "a", 0) == 5
        assert bytes(buffer.view[99:106]) == b"xhellox"
        assert await store.swap(buffer.part(0, 4), buffer.part(100, 5), "c") == 3
        assert await store.fetch(10, "c", 0) == b"hello" and bytes(buffer.view[:4]) == b"xxxx"
    assert await store.sizes() == Sizes(3, "a,b,c", (5, 10_000, 5))
    assert isinstance(await store.sizes(), Sizes)
    assert await store.anything() == (3, "a,b,c", (5, 10_000, 5))


async def test_what_is_no_area_of_it_is_refused_by_the_host_or_here(store: StoreDriver) -> None:
    with pytest.raises(BadArgument, match="given back"):
        with store.dev.ram.alloc(10) as buffer:
            pass
        await store.fetch_into(buffer, "a", 0)
    with pytest.raises(TypeError, match="fetch takes its arguments by position"):
        await store.fetch(10, key="a", at=0)  # type: ignore[call-arg]  # as an author may try


async def test_several_calls_are_under_way_at_once(store: StoreDriver) -> None:
    await store.keep(b"0123456789", "a")
    fetches = [store.fetch(1, "a", n) for n in range(10)]
    assert [await each for each in reversed(fetches)] == [b"%d" % n for n in reversed(range(10))]
    assert await asyncio.gather(*(store.fetch(2, "a", n) for n in range(3))) == [b"01", b"12", b"23"]


GOOD: list[tuple[Any, object, object]] = [
    (int, 5, 5), (str, "x", "x"), (bool, True, True), (bytes, b"x", b"x"), (None, None, None), (float, 2, 2.0),
    (float, 2.5, 2.5), (tuple[int, str], (1, "x"), (1, "x")), (tuple[int, ...], (), ()), (int | None, None, None),
    (Annotated[int, msgspec.Meta(ge=0)], 0, 0), (list[int], (1, 2), [1, 2]), (Any, (1,), (1,)),
]  # fmt: skip
BAD: list[tuple[Any, object]] = [
    *((kind, value) for kind in (*KINDS, None) for value in (5, "x", True, b"x", 2.5, None, (1,))
      if type(value) is not (kind or type(None)) and (kind, value) != (float, 5)),
    (tuple[int, str], (1,)), (tuple[int, str], (1, 2)), (tuple[int, ...], 1), (Annotated[int, msgspec.Meta(ge=0)], -1),
    (Sizes, (1, "x")),
]  # fmt: skip


def answering(kind: Any) -> type[Driver]:
    return type("Mine", (Driver,), {"compatible": ("test,thing",), "own": Op[[], kind]()})  # type: ignore[misc]


async def told(folder: Path, client: str, kind: Any, lie: object) -> object:
    """What the driver gets whose device answers so."""
    got: list[object] = []

    async def scenario(guest: Guest[Any]) -> None:
        guest.known = [answering(kind)]
        driver: Any = await guest.bind_path("/thing")
        got.append(await driver.own())

    with lying(folder, {FIRST_OWN: lie}, calls={"own": FIRST_OWN}) as host:
        await within(host.path, client, scenario)
    return got[0]


@CLIENTS
@pytest.mark.parametrize(("kind", "lie", "value"), GOOD, ids=str)
async def test_an_answer_of_the_type_that_was_declared(
    tmp_path: Path, client: str, kind: Any, lie: object, value: object
) -> None:
    got = await told(tmp_path, client, kind, lie)
    assert got == value and type(got) is type(value)


@CLIENTS
@pytest.mark.parametrize(("kind", "lie"), BAD, ids=str)
async def test_an_answer_of_another_type_is_an_io_error(tmp_path: Path, client: str, kind: Any, lie: object) -> None:
    with pytest.raises(IoError, match="thing answers own with what is none: "):
        await told(tmp_path, client, kind, lie)


@CLIENTS
@pytest.mark.parametrize(
    ("kind", "lie", "said"),
    [(int, "x", "got `str`"), (tuple[int, str], (1, 2), "got `int` - at `$[1]`"), (Sizes, 5, "got `int`"),
     (tuple[tuple[int, ...], int], ((1, b""), 2), "got `bytes` - at `$[0][1]`")],
    ids=str,
)  # fmt: skip
async def test_it_says_where_in_the_answer(tmp_path: Path, client: str, kind: Any, lie: object, said: str) -> None:
    with pytest.raises(IoError) as caught:
        await told(tmp_path, client, kind, lie)
    assert str(caught.value).endswith(said)


def test_whatever_the_drivers_that_are_shipped_are_answered_is_looked_at() -> None:
    ops = [member for driver in known_drivers() for member in vars(driver).values() if isinstance(member, Op)]
    assert len(ops) > 40 and not [op.name for op in ops if op.is_unchecked]


@pytest.mark.parametrize(
    ("takes", "answer"),
    [
        ([int, Room], int), ([Room, Room], int), ([Data, Room], int), ([Inline, Data], bytes), ([Inline, Room], int),
        ([Buffer], int), ([int, list], None), ([Room], bytes), ([Room], None), ([Inline], int), ([Room, Data], str),
        ([], set), ([], object), ([], Buffer), ([int], tuple[int, set[int]]), ([], dict[str, object]), ([], 5),
    ],
    ids=str,
)  # fmt: skip
def test_a_call_that_cannot_be_is_refused_with_the_class(takes: list[Any], answer: Any) -> None:
    op = Op[takes, answer]()  # type: ignore[valid-type]
    with pytest.raises(Mistakes, match=r"Mine.own: (it takes Inline, Room, Data|(it|what it fills) is answered with)"):
        type("Mine", (Driver,), {"compatible": ("test,thing",), "own": op})


@pytest.mark.parametrize("answer", [None, Any, int | None, tuple[int, ...], tuple[Sizes, str], dict[str, int], IntFlag])
def test_whatever_the_wire_brings_can_be_declared(answer: Any) -> None:
    type("Mine", (Driver,), {"compatible": ("test,thing",), "own": Op[[], answer]()})


@pytest.mark.parametrize("data", [5, "text", None, 1.5, [1]])
async def test_what_is_no_bytes_is_not_made_to_some(store: StoreDriver, data: Any) -> None:
    with pytest.raises(TypeError, match="bytes-like"):
        await store.keep(data, "key")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_bytes_of_every_sort_are_taken(store: StoreDriver, kind: Any) -> None:
    assert await store.keep(kind(b"abc"), "key") == 3
    assert await store.fetch(3, "key", 0) == b"abc"
