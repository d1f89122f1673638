"""The tree: siblings in order, changes that are listed or forgotten as a whole, walks that plugging cannot confuse."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from raw import Nobody, RawGuest, attached, bystander, plugged, served, settled

import guestd
import hostd
from guestd.driver import Driver, Op
from guestd.probers import tree as tree_prober
from hcall import numbers
from hcall.errors import Busy, NoMatch, NoSuchCall, StaleHandle, Status, failure
from hcall.numbers import ADDED, LEAVING, REMOVED
from hcall.programs.mistakes import InUse
from hostd.calls.account import Account
from hostd.calls.dispatch import Dispatcher
from hostd.calls.limits import Limits
from hostd.device import Device, Later, call
from hostd.machine.file import DeviceSpec
from hostd.tree.tree import Tree


class Plain(Device):
    """Answers when the test lets it."""

    compatible = "test,plain"

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.waiting: list[Later[int]] = []
        self.stopped = 0

    def stop(self) -> None:
        self.stopped += 1

    @call
    def late(self) -> Later[int]:
        self.waiting.append(Later())
        return self.waiting[-1]


class PlainDriver(Driver):
    """Says when it was asked to let go."""

    compatible = ("test,plain",)
    late = Op[[], int]()
    removed = False

    async def remove(self) -> None:
        self.removed = True


class Stubborn(PlainDriver):
    """Fails to let go."""

    async def remove(self) -> None:
        raise RuntimeError("never")


@pytest.fixture
def tree() -> Tree:
    return Tree(7)


def ids(vendor: int, device: int) -> Device:
    made: type[Device] = type("Made", (Device,), {"compatible": f"test,{vendor}-{device}", "ids": (vendor, device)})
    return made()


@pytest.mark.spec("W-1")
def test_handles_are_of_one_counter_and_of_this_epoch(tree: Tree) -> None:
    node = tree.plug("a/b", plugged(Plain()))
    assert (tree.root.handle, tree.find("a").handle, node.handle) == tuple(7 << 48 | n for n in (1, 2, 3))
    tree.remove(node)
    again = tree.plug("a/b", plugged(Plain()))
    assert again.handle > node.handle and tree.find("/a/b") is again
    with pytest.raises(StaleHandle):
        tree.node(node.handle)
    for never in (0, 7 << 48, tree.handles.following, 8 << 48 | 1, -1):
        assert tree.handles.missing(never).status == Status.BAD_HANDLE


@pytest.mark.spec("C-1")
def test_siblings_stand_in_the_order_of_their_handles(tree: Tree) -> None:
    names = "abcdef"
    for order in itertools.permutations(range(6), 3):  # three of them go and come again
        nodes = {name: tree.plug(name, plugged(Plain())) for name in names}
        for n in order:
            tree.remove(nodes[names[n]])
            nodes[names[n]] = tree.plug(names[n], plugged(Plain()))
        linked, node = [], tree.root.first_child
        while node is not None:
            linked.append(node)
            assert node.next is None or node.next.previous is node
            node = node.next
        assert linked == sorted(nodes.values(), key=lambda each: each.handle) == list(tree.root.children.values())
        for each in linked:
            tree.remove(each)


@pytest.mark.parametrize("path", ["", "/", "a//b", "a/../b", ".hidden", "a b", "x" * 32, "ä", "a/"])
@pytest.mark.spec("C-3")
def test_a_path_that_cannot_be_is_refused_and_leaves_the_tree_alone(tree: Tree, path: str) -> None:
    if path != "a/":
        with pytest.raises(ValueError, match="device name"):
            tree.plug(path, plugged(Plain()))
        assert list(tree.root.walk()) == [tree.root]
    else:
        tree.plug(path, plugged(Plain()))
        with pytest.raises(InUse, match="already: unplug it first, or take another name"):
            tree.plug("a", plugged(Plain()))


@pytest.mark.spec("V-2")
def test_class_ids_are_device_ids_unless_two_vendors_collide_or_there_is_none(tree: Tree) -> None:
    devices = [ids(1, 0x44), ids(2, 0x44), ids(1, 0x44), Plain(), ids(2, 0x8001), ids(2, 0x44), Plain(), ids(3, 0)]
    places = [plugged(device) for device in devices]
    for n, place in enumerate(places):
        tree.plug(f"d{n}", place)
    assert [place.class_id for place in places] == [0x44, 0x8000, 0x44, 0x8001, 0x8002, 0x8000, 0x8001, 0x8003]
    assert places[1].calls == {} and places[3].calls == {"late": 0x8001 << 16 | 16}


@pytest.mark.spec("C-6")
def test_changes_are_listed_once_each_from_where_the_last_list_ended(tree: Tree) -> None:
    now, changes = tree.changes(0)
    assert changes is None
    assert tree.changes(now) == (now, ())
    a, b = tree.plug("a", plugged(Plain())), tree.plug("b/c", plugged(Plain()))
    expected = [(ADDED, a.handle), (ADDED, tree.find("b").handle), (ADDED, b.handle)]
    tree.leave(tree.find("b"))
    expected += [(LEAVING, b.handle), (LEAVING, tree.find("b").handle)]  # deepest first
    expected += [(REMOVED, b.handle), (REMOVED, tree.find("b").handle)]
    tree.remove(tree.find("b"))
    after, listed = tree.changes(now)
    assert listed is not None and [change[:2] for change in listed] == expected
    assert tree.changes(after) == (after, ())


@pytest.mark.spec("C-6")
def test_a_long_list_comes_in_pieces_and_too_long_a_one_not_at_all(tree: Tree) -> None:
    since, _ = tree.changes(0)
    there = [tree.plug(f"n{n}", plugged(Plain())).handle for n in range(256)]
    seen, position = [], since
    while True:
        position, changes = tree.changes(position)
        assert changes is not None and len(changes) <= numbers.CHANGES_LIMIT
        if not changes:
            break
        seen += [change.node for change in changes]
    assert seen == there
    tree.plug("one-more", plugged(Plain()))
    assert tree.changes(since)[1] is None and len(tree.changes(position)[1] or ()) == 1


# A walk, overtaken at every step.

SHAPE = ["a", "b/x", "b/y", "c"]


class Race:
    """A walk over an in-process core; before each of its calls something may happen to the tree."""

    def __init__(self, events: dict[int, Callable[[Tree], None]], *, by_page: bool = False) -> None:
        self.tree, self.events, self.calls, self.by_page = Tree(1), events, 0, by_page
        for path in SHAPE:
            self.tree.plug(path, plugged(Plain()))
        self.throughout = set(self.tree.nodes)
        self.dispatch = Dispatcher(Account(self.tree, Limits(), Nobody())).dispatch

    async def core(self, handle: int, number: int, *args: object) -> Any:
        event = self.events.get(self.calls)
        self.calls += 1
        assert self.calls < 200, "the walk does not end"
        if event is not None:
            event(self.tree)
            self.throughout &= set(self.tree.nodes)
        if number == numbers.LIST and not self.by_page:
            raise NoSuchCall("a host of before there were pages")
        answer = self.dispatch(number, handle, args, ())
        assert isinstance(answer, tuple)
        status, value = answer
        if status:
            raise failure(status, value)
        if number == numbers.CHANGES:
            self.ceiling: int = value[0]  # type: ignore[index]  # what CHANGES gives
        return value

    def run(self) -> None:
        async def walk() -> list[int]:
            return [found.node async for found in tree_prober.probe(self.core)]

        coroutine = walk()
        with pytest.raises(StopIteration) as ended:  # nothing in it waits: no loop is needed
            coroutine.send(None)
        seen: list[int] = ended.value.value
        assert len(seen) == len(set(seen)), "a node twice"
        assert self.throughout <= set(seen), "a node is missing"
        assert max(seen) < self.ceiling, "CHANGES tells of what came meanwhile"


def take(path: str) -> Callable[[Tree], None]:
    def event(tree: Tree) -> None:
        try:
            tree.remove(tree.find(path))
        except NoMatch:
            return  # it went with its parent

    return event


def put(path: str) -> Callable[[Tree], None]:
    def event(tree: Tree) -> None:
        try:
            tree.plug(path, plugged(Plain()))
        except InUse:
            return  # it is there

    return event


def again(path: str) -> Callable[[Tree], None]:
    def event(tree: Tree) -> None:
        take(path)(tree)
        put(path)(tree)

    return event


EVENTS = [take("a"), take("b"), take("b/x"), take("b/y"), take("c"), put("d"), put("b/z"), put("a/w"), again("b/x")]


def races() -> Iterator[dict[int, Callable[[Tree], None]]]:
    quiet = Race({})
    quiet.run()
    for first, second in itertools.combinations_with_replacement(range(quiet.calls + 4), 2):
        for one, other in itertools.product(EVENTS, EVENTS):
            yield {first: one, second: other}


@pytest.mark.spec("C-2")
def test_a_walk_overtaken_twice_at_any_steps_ends_shows_none_twice_and_misses_none_that_stays() -> None:
    count = 0
    for events in races():
        Race(events).run()
        Race(events, by_page=True).run()
        count += 1
    assert count > 10_000


# Over the wire.


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, *(DeviceSpec(path, "plain", Plain, {}) for path in ("one", "bus/two"))) as host:
        yield host


def plain(host: hostd.Host, path: str) -> Plain:
    device = host.tree.find(path).device
    assert isinstance(device, Plain)
    return device


async def changes(guest: RawGuest, since: int) -> tuple[int, list[tuple[int, ...]]]:
    now, listed = await guest.core(numbers.CHANGES, 0, since)
    return now, list(listed)


@pytest.mark.spec("W-2", "S-10", "C-7")
async def test_a_surprise_answers_each_call_once_and_its_handles_are_stale_for_ever(host: hostd.Host) -> None:
    device = plain(host, "/one")
    async with bystander(host) as other, attached(host) as guest:
        since, rescan = await guest.core(numbers.CHANGES, 0, 0)
        assert rescan is None
        node, root = await guest.core(numbers.FIND, 0, "/one"), host.tree.root.handle
        handle, calls = await guest.open("/one")
        guest.send(guest.next_call(calls["late"], handle) + guest.next_call(calls["late"], handle, slot=1))
        await settled(other)
        assert await host.unplug("/one", surprise=True) and [device.stopped] == [1]
        assert [(await guest.reply())[0] for _ in range(2)] == [Status.RESET] * 2
        for later in device.waiting:
            later.done(1)
        host.plug(DeviceSpec("one", "plain", Plain, {}))
        assert (await guest.call(calls["late"], handle))[0] == Status.STALE_HANDLE
        for number in (numbers.INFO, numbers.NEXT, numbers.CHILD, numbers.PARENT):
            assert (await guest.call(number, node))[0] == Status.STALE_HANDLE
        assert (await guest.call(numbers.OPEN, node, 0))[0] == Status.STALE_HANDLE
        heir, _ = await guest.open("/one")
        assert heir > await guest.core(numbers.FIND, 0, "/one") > handle
        assert [message[:3] for message in guest.interrupts] == [(2, root, 0)]  # one hint for both
        _, listed = await changes(guest, since)
        assert [(what, parent) for what, _, parent in listed] == [(REMOVED, root), (ADDED, root)]


@pytest.mark.spec("C-7")
async def test_an_orderly_unplug_waits_until_the_last_guest_has_let_go(host: hostd.Host) -> None:
    device = plain(host, "/bus/two")
    async with bystander(host), attached(host) as guest:
        since, _ = await guest.core(numbers.CHANGES, 0, 0)
        node, bus = await guest.core(numbers.FIND, 0, "/bus/two"), await guest.core(numbers.FIND, 0, "/bus")
        handle, _ = await guest.open("/bus/two")
        unplug = asyncio.create_task(host.unplug("/bus", within=60))
        await settled(guest)
        since, listed = await changes(guest, since)
        assert listed == [(LEAVING, node, bus), (LEAVING, bus, host.tree.root.handle)]
        assert (await guest.call(numbers.OPEN, node, 0))[0] == Status.BUSY
        assert not unplug.done() and device.stopped == 0
        await guest.core(numbers.CLOSE, handle)
        assert await unplug is True and [device.stopped] == [1]  # mypy does not see that it has changed
        _, listed = await changes(guest, since)
        assert listed == [(REMOVED, node, bus), (REMOVED, bus, host.tree.root.handle)]


@pytest.mark.spec("C-7", "T-7")
async def test_a_guest_that_does_not_let_go_loses_the_device_at_the_deadline(host: hostd.Host) -> None:
    device = plain(host, "/one")
    async with bystander(host), attached(host) as guest:
        handle, calls = await guest.open("/one")
        assert await host.unplug("/one", within=0.01) is False and device.stopped == 1
        assert (await guest.call(calls["late"], handle))[0] == Status.STALE_HANDLE
        for path in ("/one", "/none", "/"):
            with pytest.raises(NoMatch):
                await host.unplug(path)


async def test_the_guest_of_the_library_follows(host: hostd.Host) -> None:
    async with bystander(host), guestd.attach(host.socket, drivers=[PlainDriver]) as guest:
        driver = await guest.bind("/one")
        assert isinstance(driver, PlainDriver)
        late = driver.late()
        await guest.nop()
        assert await host.unplug("/one", within=60) is True  # its driver let go by itself
        assert driver.removed and "/one" not in guest.drivers
        with pytest.raises(StaleHandle):
            await driver.late()
        assert (await asyncio.gather(late, return_exceptions=True))[0].status == Status.RESET  # type: ignore[union-attr]
        host.plug(DeviceSpec("bus/three", "plain", Plain, {}))
        happened: list[tuple[int, str]] = []
        while len(happened) < 2:
            happened += await guest.happened()
        assert happened == [(LEAVING, "/one"), (ADDED, "/bus/three")]
        await guest.bind("/bus/three")
        await host.unplug("/bus/three", surprise=True)
        assert await guest.happened() == [(REMOVED, "/bus/three")] and "/bus/three" not in guest.drivers


async def test_a_driver_that_fails_to_let_go_does_not_keep_its_device_or_the_next_one(
    host: hostd.Host, caplog: pytest.LogCaptureFixture
) -> None:
    async with guestd.attach(host.socket, drivers=[Stubborn]) as guest:
        await guest.bind("/one")
        await guest.bind("/bus/two")
        answers = await asyncio.gather(*(host.unplug(path, within=1) for path in ("/one", "/bus/two")))
        assert answers == [True, True] and not guest.drivers
    assert "never retrieved" not in caplog.text


async def test_a_device_that_is_leaving_is_busy_for_the_library_too(host: hostd.Host) -> None:
    async with attached(host) as owner, guestd.attach(host.socket, drivers=[PlainDriver]) as guest:
        handle, _ = await owner.open("/one")
        unplug = asyncio.create_task(host.unplug("/one", within=60))
        await settled(owner)
        with pytest.raises(Busy):
            await guest.bind("/one")
        await owner.core(numbers.CLOSE, handle)
        assert await unplug
