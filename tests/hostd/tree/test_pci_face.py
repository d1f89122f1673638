"""The tree as a PCI bus has it: who gets which address, keeps it, and what a full machine says."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from raw import plugged

from hcall.formats import pci
from hostd.device import Device
from hostd.tree.faces.pci import MOST, REST
from hostd.tree.node import Node
from hostd.tree.tree import Tree


class Thing(Device):
    """Is there."""

    compatible = "test,thing"


@pytest.fixture
def tree() -> Tree:
    return Tree(1)


@pytest.fixture
def plug(tree: Tree) -> Callable[[str], Node]:
    return lambda path: tree.plug(path, plugged(Thing()))


def name(tree: Tree, node: Node) -> str | None:
    where = tree.pci.address(node)
    return where if where is None else pci.name(where)


@pytest.mark.spec("P-1")
def test_a_bus_has_31_devices_and_then_a_bridge(tree: Tree, plug: Callable[[str], Node]) -> None:
    nodes = [plug(f"d{n}") for n in range(31)]
    assert [name(tree, node) for node in nodes] == [f"00:{n:02x}.0" for n in range(31)]
    bridge = pci.address(0, 31)
    assert not tree.pci.bridge(bridge) and tree.pci.last_bus == 0
    one = plug("more")
    assert name(tree, one) == "01:00.0" and tree.pci.bridge(bridge) and not tree.pci.bridge(pci.address(1, 31))
    tree.remove(one)
    assert not tree.pci.bridge(bridge) and tree.pci.last_bus == 0


@pytest.mark.spec("P-2")
def test_what_goes_with_a_device_is_in_its_slot(tree: Tree, plug: Callable[[str], Node]) -> None:
    plug("bus/alone")
    first = plug("a")
    below = [plug(f"a/{n}/deep") if n % 2 else plug(f"a/{n}") for n in range(8)]
    assert [name(tree, node) for node in (first, *below)] == [*(f"00:01.{n}" for n in range(8)), "00:02.0"]
    tree.remove(below[3])
    assert name(tree, plug("a/again")) == "00:01.4"
    tree.remove(first)
    assert all(tree.pci.at(pci.address(0, 1, n)) is None for n in range(8))


@pytest.mark.spec("P-1")
def test_nodes_without_a_device_have_no_address(tree: Tree, plug: Callable[[str], Node]) -> None:
    node = plug("a/b")
    assert name(tree, tree.root) is name(tree, tree.find("a")) is None and name(tree, node) == "00:00.0"


@pytest.mark.spec("P-3")
def test_an_address_rests_until_64_others_were_left(tree: Tree, plug: Callable[[str], Node]) -> None:
    node = plug("x")
    given = []
    for _ in range(2 * REST + 3):
        given.append(name(tree, node))
        tree.remove(node)
        node = plug("x")
    assert given[: REST + 1] == [pci.name(pci.address(n // 31, n % 31)) for n in range(REST + 1)]
    assert given[REST + 1 :] == given[: REST + 2]


@pytest.mark.spec("P-3")
def test_addresses_stay_whatever_comes_and_goes_also_in_another_life(tree: Tree, plug: Callable[[str], Node]) -> None:
    chance = random.Random(11)
    there: dict[str, tuple[Node, int]] = {}
    for n in range(1500):
        if chance.random() < 0.6:
            path = f"n{n}" if chance.random() < 0.7 or not there else f"{chance.choice(sorted(there))}/n{n}"
            if path.count("/") < 30:
                node = plug(path)
                where = tree.pci.address(node)
                assert where is not None and where not in {each for _, each in there.values()}
                there[path] = node, where
        elif there:
            node, _ = there[chance.choice(sorted(there))]
            tree.remove(node)
            there = {path: each for path, each in there.items() if not each[0].gone}
        assert all(tree.pci.address(node) == where for node, where in there.values())
    assert tree.pci.last_bus == max(where >> 8 for _, where in there.values())
    again = Tree(2, saved=tree.save())
    lost = set(chance.sample(sorted(there), 9))
    for path in there:
        if not any(path == each or path.startswith(f"{each}/") for each in lost):
            node = again.plug(path, plugged(Thing()))
            assert again.pci.address(node) == there[path][1]
    new = [again.plug(f"new{n}", plugged(Thing())) for n in range(200)]
    found = [again.pci.address(node) for node in again.nodes.values() if node.plugged is not None]
    assert None not in found and len(set(found)) == len(found) and all(again.pci.address(node) for node in new)


@pytest.mark.spec("P-3")
def test_in_another_life_who_comes_first_takes_nothing_that_another_has_then(
    tree: Tree, plug: Callable[[str], Node]
) -> None:
    paths = [f"n{n}" for n in range(REST + 36)]
    for path in paths:
        plug(path)
    again = Tree(2, saved=tree.save())
    for path in [*(f"new{n}" for n in range(50)), *paths]:
        again.plug(path, plugged(Thing()))
    found = [again.pci.address(node) for node in again.nodes.values() if node.plugged is not None]
    assert None not in found and len(set(found)) == len(paths) + 50


@pytest.mark.spec("P-2")
def test_in_another_life_what_goes_with_no_device_any_more_has_a_slot_of_its_own(
    tree: Tree, plug: Callable[[str], Node]
) -> None:
    assert [name(tree, plug(path)) for path in ("a", "a/b", "c")] == ["00:00.0", "00:00.1", "00:01.0"]
    again = Tree(2, saved=tree.save())
    nodes = [again.plug(path, plugged(Thing())) for path in ("a/b", "c")]
    assert [name(again, node) for node in nodes] == ["00:02.0", "00:01.0"]


@pytest.mark.spec("P-4")
def test_a_full_machine_says_so_once_and_all_others_stay(
    tree: Tree, plug: Callable[[str], Node], caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [plug(f"d{n}") for n in range(MOST)]
    assert name(tree, nodes[-1]) == "ff:1e.0" and not caplog.records
    extra = [plug("one/more"), plug("two")]
    assert [name(tree, node) for node in extra] == [None, None]
    assert [record.getMessage() for record in caplog.records] == [
        "/one/more is not found as on a PCI bus, nor is what comes after it: all 7936 slots are taken; "
        "the other ways to probe find it"
    ]
    assert name(tree, plug("d5/function")) == "00:05.1"
    tree.remove(extra[0])
    tree.remove(nodes[77])
    assert name(tree, plug("three")) == "02:0f.0"
    assert name(tree, plug("four")) is None and len(caplog.records) == 2
