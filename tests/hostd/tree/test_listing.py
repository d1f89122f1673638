"""LIST: the tree by the page: whole, bounded, in order, only what somebody sees, whatever comes and goes meanwhile."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from raw import Nobody, attached, plugged, served

from guestd.probers import Found
from guestd.probers import tree as tree_prober
from hcall import numbers
from hcall.errors import failure
from hcall.messages import REPLY
from hcall.numbers import LIST
from hcall.wire import MAX_ITEMS, MAX_MESSAGE, encode, fits
from hostd.calls.account import Account
from hostd.calls.dispatch import Dispatcher
from hostd.calls.limits import Limits
from hostd.device import Device
from hostd.guests.policy import Rights
from hostd.machine.file import DeviceSpec
from hostd.tree.tree import Tree


class Small(Device):
    compatible = "test,small"
    ids = (0x1AF4, 0x1044)


class Wide(Device):
    compatible = tuple(f"{n:0255}" for n in range(16))  # as long as may be


class Somebody(Nobody):
    """One who sees what the *rights* of now say."""

    rights = Rights()

    @property
    def sees(self) -> Any:  # type: ignore[override]
        return self.rights.sees


class Asked:
    """A guest of *tree*; *between* is called before each call."""

    def __init__(self, tree: Tree, between: Callable[[], object] = lambda: None) -> None:
        self.owner = Somebody()
        self.account = Account(tree, Limits(), self.owner)
        self._dispatch, self._between = Dispatcher(self.account).dispatch, between
        self.calls: list[int] = []
        self.ceiling = 0

    async def core(self, handle: int, number: int, *args: object) -> Any:
        self._between()
        self.calls.append(number)
        answer = self._dispatch(number, handle, args, ())
        assert isinstance(answer, tuple)
        status, value = answer
        assert len(encode((REPLY, 63, 1 << 64 - 1, status, value))) <= MAX_MESSAGE and fits(value)
        if status:
            raise failure(status, value)
        if number == numbers.CHANGES:
            self.ceiling = value[0]  # type: ignore[index]  # what CHANGES gives
        return value

    async def walk(self) -> list[Found]:
        return [found async for found in tree_prober.probe(self.core)]


def filled(count: int, model: type[Device] = Small, name: str = "d{}") -> Tree:
    """A tree with so many devices: a third below others, a third on two buses."""
    tree = Tree(7)
    for n in range(count):
        own = name.format(n)
        above = ("", f"{name.format(n - 1)}/", f"bus{n % 2}/")[n % 3]
        tree.plug(above + own, plugged(model()))
    return tree


def shown(tree: Tree, sees: Callable[[str], bool] | None = None) -> list[Found]:
    """What a walk of it should show."""
    return [
        Found(node.handle, node.path, node.name, node.compatible, node.ids)
        for node in tree.root.walk()
        if sees is None or sees(node.path)
    ]


@pytest.mark.spec("C-19")
@pytest.mark.parametrize(("model", "name"), [(Small, "d{}"), (Wide, "{:031}")])
async def test_pages_have_each_node_once_in_the_order_of_handles(model: type[Device], name: str) -> None:
    tree, listed, after = filled(700, model, name), [], 0
    guest = Asked(tree)
    while True:
        following, groups = await guest.core(0, LIST, after)
        last = above = 0
        for steps, above_steps, names, sorts, kinds in groups:
            assert 0 < len(steps) == len(above_steps) == len(names) == len(kinds) <= MAX_ITEMS
            assert len(set(sorts)) == len(sorts) and set(kinds) == set(range(len(sorts)))
            handles, parents = [*accumulate(steps, initial=last)], [*accumulate(above_steps, initial=above)]
            last, above = handles[-1], parents[-1]
            listed += zip(handles[1:], parents[1:], names, (sorts[kind] for kind in kinds), strict=True)
        if not following:
            break
        assert following == last  # this guest sees all
        after = following
    assert [handle for handle, *_ in listed] == sorted(tree.nodes)
    for handle, parent, own, (compatible, ids) in listed:
        assert (own, compatible, ids) == await guest.core(handle, numbers.INFO)
        assert parent == await guest.core(handle, numbers.PARENT)


@pytest.mark.spec("C-19")
async def test_ten_thousand_devices_are_listed_in_seventeen_calls() -> None:
    tree = filled(10_000)
    guest = Asked(tree)
    assert await guest.walk() == shown(tree)
    assert guest.calls == [numbers.CHANGES] + 16 * [LIST]


@pytest.mark.spec("C-18", "C-19")
@pytest.mark.parametrize(("open_", "count"), [("d0", 3), ("d1998/d1999", 3), ("bus1/*", 335), ("*", 2003), ("x", 1)])
async def test_what_somebody_does_not_see_is_on_no_page(open_: str, count: int) -> None:
    tree = filled(2000)
    guest = Asked(tree)
    guest.owner.rights = Rights(("some",), (open_,))
    found = await guest.walk()
    assert found == shown(tree, guest.owner.sees) and len(found) == count
    assert len(guest.calls) < 40  # few are asked about in one call, and none is asked about twice


@pytest.mark.spec("C-2", "C-19")
@pytest.mark.parametrize("seed", range(60))
async def test_a_walk_by_pages_that_is_overtaken_shows_none_twice_and_misses_none_that_stays(seed: int) -> None:
    chance = random.Random(seed)
    tree = filled(chance.randrange(1, 2500))
    rules = [Rights(), Rights(("a",), ("*",)), Rights(("a",), ("bus*", "d1*")), Rights(("a",), ("d*",))]
    throughout: set[int] = set(tree.nodes)

    def between() -> None:
        for _ in range(chance.randrange(4)):
            node = tree.nodes[chance.choice([*tree.nodes])]
            match chance.randrange(3):
                case 0 if node is not tree.root:
                    tree.remove(node)
                case 1:
                    above = node.path if node.path.count("/") < 20 else ""
                    tree.plug(f"{above}/n{tree.handles.following}", plugged(Small()))
                case 2:
                    before, guest.owner.rights = guest.owner.sees, chance.choice(rules)
                    list(guest.account.revise(before))
        nonlocal throughout
        throughout &= {each.handle for each in tree.nodes.values() if guest.account.sees(each)}

    guest = Asked(tree, between)
    found = await guest.walk()
    nodes = [each.node for each in found]
    assert len(nodes) == len(set(nodes)) and throughout <= set(nodes) and max(nodes) < guest.ceiling
    places = {each.path: n for n, each in enumerate(found)}
    assert all(places[each.path.rpartition("/")[0] or "/"] < n for n, each in enumerate(found) if n)


@pytest.mark.spec("C-19", "B-1")
async def test_a_page_of_the_largest_devices_fits_a_message(tmp_path: Path) -> None:
    specs = [DeviceSpec(f"{n:031}", "wide", Wide, {}) for n in range(9)]
    async with served(tmp_path, *specs) as host, attached(host) as guest:
        pages, after = [], 0
        while True:
            after, groups = await guest.core(LIST, 0, after)
            pages.append(sum(len(handles) for handles, *_ in groups))
            if not after:
                break
        assert sum(pages) == 11 and max(pages) < 64 and len(pages) < 5


@pytest.mark.spec("C-19")
@pytest.mark.parametrize("after", [-1, 1, (1 << 64) - 1])
async def test_any_number_is_a_place_to_go_on_from(tmp_path: Path, after: int) -> None:
    async with served(tmp_path) as host, attached(host) as guest:
        following, groups = await guest.core(LIST, 0, after)
        assert following == 0 and (len(groups) == 1) is (after < host.tree.root.handle)
