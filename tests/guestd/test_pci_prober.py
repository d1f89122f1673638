"""The pci prober: a scan of any configuration space, of real machines by their dumps, and of a host by its calls."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fake_host import lying
from raw import Nobody, plugged

import guestd
from guestd.probers import Core, Found
from guestd.probers import pci as prober
from guestd.probers import tree as by_tree
from hcall import numbers
from hcall.errors import IoError, failure
from hcall.formats import pci
from hostd.calls.account import Account
from hostd.calls.dispatch import Dispatcher
from hostd.calls.limits import Limits
from hostd.device import Device
from hostd.tree.tree import Tree

T = TypeVar("T")
needs_lspci = pytest.mark.skipif(not shutil.which("lspci"), reason="there is no lspci here")


class Thing(Device):
    """Is there."""

    compatible = "test,found-thing"


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """What *work* comes to, which waits for nothing."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


async def listed(found: AsyncIterator[T]) -> list[T]:
    return [each async for each in found]


def scanned(functions: dict[int, bytes], buses: tuple[int, ...] = (0,)) -> tuple[list[str], int]:
    """What a scan finds, in its order, and how many reads it takes."""
    count = 0

    async def read(address: int, offset: int, size: int) -> int:
        nonlocal count
        count += 1
        space = functions.get(address, b"")
        return int.from_bytes(space[offset : offset + size].ljust(size, b"\xff"), "little")

    return [pci.name(each.address) for each in at_once(listed(prober.scan(read, buses)))], count


def foreign(header: int = 0, *, several: bool = False, behind: int = 0, pin: int = 0) -> bytes:
    """A function of somebody else."""
    space = bytearray(256)
    space[0:4] = b"\x86\x80\x34\x12"
    space[0x0E] = header | several << 7
    space[0x19], space[0x3D] = behind, pin
    return bytes(space)


def test_all_slots_of_a_bus_come_first_and_then_what_is_behind_its_bridges() -> None:
    at = pci.address
    functions = {
        at(0, 0): foreign(1, behind=5), at(0, 31): foreign(), at(5, 0): foreign(1, behind=6), at(5, 1): foreign(),
        at(6, 9): foreign(), at(0, 30): foreign(2, behind=9), at(9, 0): foreign(), at(7, 0): foreign(),
    }  # fmt: skip
    found, _ = scanned(functions)
    assert found == ["00:00.0", "00:1e.0", "00:1f.0", "05:00.0", "05:01.0", "06:09.0", "09:00.0"]


def test_functions_are_looked_for_only_where_function_0_says_so() -> None:
    at = pci.address
    functions = {at(0, slot, n): foreign() for slot in (1, 2) for n in (1, 7)}
    functions |= {at(0, 1): foreign(several=True), at(0, 3): foreign(), at(0, 3, 1): foreign()}
    found, reads = scanned(functions)
    assert found == ["00:01.0", "00:01.1", "00:01.7", "00:03.0"]
    assert reads < 32 + 7 + 4 * 12


@pytest.mark.parametrize("behind", [0, 1, 2, 3])
def test_bridges_that_lead_in_circles_are_followed_once(behind: int) -> None:
    functions = {pci.address(bus, 0, n): foreign(1, behind=behind, several=True) for bus in range(4) for n in range(8)}
    functions[pci.address(0, 1)] = foreign(1, behind=1)
    functions[pci.address(1, 1)] = foreign(1, behind=2)
    found, _ = scanned(functions)
    assert len(set(found)) == len(found)


def test_a_machine_that_is_nothing_but_bridges_has_an_end() -> None:
    everywhere = foreign(1, several=True)

    async def read(address: int, offset: int, size: int) -> int:
        space = everywhere[:0x19] + bytes([address * 7 & 0xFF]) + everywhere[0x1A:]
        return int.from_bytes(space[offset : offset + size], "little")

    assert len(at_once(listed(prober.scan(read)))) <= pci.FUNCTIONS_OF_ALL


def test_a_list_of_capabilities_that_goes_round_has_an_end() -> None:
    space = bytearray(foreign())
    space[0x06], space[0x34], space[0x40], space[0x41] = 0x10, 0x40, 5, 0x40
    assert scanned({0: bytes(space)})[0] == ["00:00.0"]


@pytest.mark.spec("P-13")
def test_the_interrupt_of_a_device_is_followed_to_the_first_bus() -> None:
    at = pci.address
    functions = {
        at(0, 3): foreign(1, behind=1), at(1, 2): foreign(1, behind=2), at(2, 1): foreign(pin=2),
        at(0, 4): foreign(pin=4), at(0, 5): foreign(pin=9),
    }  # fmt: skip
    found, _ = at_once(prober.dumped(functions))
    routes = {each.address: each.route for each in found}
    # B of slot 1 is C of the bridge in slot 2, which is A of the one in slot 3
    assert routes[at(2, 1)] == (3, 1) and routes[at(0, 4)] == (4, 4) and routes[at(0, 5)] == routes[at(0, 3)] == (0, 0)


# Real machines, as lspci shows them.


def random_dump(chance: random.Random) -> str:
    """Functions anywhere, with slots without function 0, domains, bridges, and few bytes of some."""
    functions: dict[int, bytes] = {}
    for _ in range(chance.randrange(1, 40)):
        where = chance.randrange(3) * chance.randrange(2) << 16 | chance.randrange(6) << 8 | chance.randrange(256)
        ids = chance.choice([0x8086, 0xFFFF, 0x1AF4]), chance.choice([0x1234, 0xFFFF])
        space = bytearray(foreign(chance.choice([0, 0, 1, 2]), several=chance.random() < 0.5))
        space[0x19] = chance.randrange(6)
        space[0:4] = ids[0].to_bytes(2, "little") + ids[1].to_bytes(2, "little")
        functions[where] = bytes(space[: chance.choice([64, 256])])
    return "".join(
        f"{line}\n" for where in sorted(functions) for line in pci.dumped(where, functions[where], "A thing")
    )


@needs_lspci
@pytest.mark.parametrize("seed", range(12))
def test_a_dump_has_the_functions_that_the_real_lspci_names(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "dump"
    path.write_text(random_dump(random.Random(seed)))
    lines = subprocess.run(
        ["lspci", "-D", "-n", "-F", path], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    found, lost = at_once(prober.dumped(pci.parse(path.read_text().splitlines())))
    ours = [
        f"{pci.name(each.address, domain=True)} {each.class_code >> 8:04x}: {each.ids[0]:04x}:{each.ids[1]:04x}"
        for each in sorted([*found, *lost])
    ]
    assert ours == [line.partition(" (")[0] for line in lines]


# A host.


def core_of(tree: Tree) -> Core:
    """The core's calls of one guest, without a wire."""
    dispatch = Dispatcher(Account(tree, Limits(), Nobody())).dispatch

    async def core(handle: int, number: int, *args: object) -> Any:
        status, value = dispatch(number, handle, args, ())  # type: ignore[misc]  # none of them comes later
        if status:
            raise failure(status, value)
        return value

    return core


def devices(found: list[Found]) -> dict[int, tuple[int, int]]:
    return {each.node: each.ids for each in found if each.has_device}


def grow(tree: Tree, chance: random.Random, count: int) -> None:
    """Plug and unplug at random."""
    for n in range(count):
        there = [node for node in tree.root.walk() if node.parent is not None]
        if chance.random() < 0.7 or not there:
            above = chance.choice([tree.root, *there]) if chance.random() < 0.4 else tree.root
            if above.path.count("/") < 20:
                path = f"{above.path}/{chance.choice(['', 'bus/'])}n{tree.handles.following}-{n}"
                tree.plug(path.lstrip("/"), plugged(Thing()))
        else:
            tree.remove(chance.choice(there))


@pytest.mark.parametrize("seed", range(8))
def test_an_idle_machine_is_the_same_as_by_the_tree(seed: int) -> None:
    chance, tree = random.Random(seed), Tree(1)
    grow(tree, chance, chance.randrange(200))
    core = core_of(tree)
    by_bus = at_once(listed(prober.probe(core)))
    known = {node.handle for node in tree.root.walk() if node.plugged is not None}
    assert {each.node for each in by_bus} == known == devices(at_once(listed(by_tree.probe(core)))).keys()
    assert len(by_bus) == len(known)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_comes_and_goes_what_stays_is_found_once(seed: int) -> None:
    chance, tree = random.Random(seed), Tree(1)
    grow(tree, chance, 120)
    stays = {node.handle for node in tree.root.walk() if node.plugged is not None}
    core = core_of(tree)

    async def moving(handle: int, number: int, *args: object) -> Any:
        if chance.random() < 0.05:
            grow(tree, chance, 1)
            stays.intersection_update(tree.nodes)
        return await core(handle, number, *args)

    found = at_once(listed(prober.probe(moving)))
    nodes = [each.node for each in found]
    assert len(set(nodes)) == len(nodes) and stays <= set(nodes)


def test_nothing_of_two_devices_is_put_together() -> None:
    """A device is replaced between any two reads of it."""
    reads = 0

    def run(at: int) -> None:
        nonlocal reads
        now, reads = pci.endpoint(0, (1, 1), 0x010101, 1, 100), 0

        async def read(address: int, offset: int, size: int) -> int:
            nonlocal now, reads
            reads += 1
            if reads == at:
                now = pci.endpoint(0, (2, 2), 0x020202, 2, 200)
            return pci.read(now, {}, offset, size)

        function = at_once(prober.look(read, 0))
        assert function is not None
        assert (function.ids[0], function.class_code & 0xFF, function.subsystem[1], function.node) in (
            (1, 1, 1, 100), (2, 2, 2, 200),
        )  # fmt: skip

    run(0)
    for at in range(1, reads + 1):
        run(at)


@pytest.mark.parametrize(
    ("lie", "what"), [(-1, "reads 4 bytes"), (1 << 32, "reads 4 bytes"), ("x", "of the core is none")]
)
async def test_a_host_that_answers_nonsense_is_told_so(tmp_path: Path, lie: object, what: str) -> None:
    with lying(tmp_path, {numbers.CONFIG_READ: lie}) as host:
        async with guestd.attach(host.path) as guest:
            with pytest.raises(IoError, match=what):
                await guest.walk("pci")


async def test_a_host_whose_devices_never_stay_does_not_hold_a_guest_up(tmp_path: Path) -> None:
    handle = 0

    def lie(_: int, address: int, offset: int, size: int) -> int:
        nonlocal handle
        handle += 1
        return pci.read(pci.endpoint(0, (1, 2), 0, 0, handle), {}, offset, size)

    with lying(tmp_path, {numbers.CONFIG_READ: lie}) as host:
        async with guestd.attach(host.path) as guest:
            with pytest.raises(IoError, match=r"00:00\.0 is another device each time"):
                await guest.walk("pci")


def test_the_scan_of_a_thousand_takes_as_long_for_each_as_that_of_thirty() -> None:
    """By the number of calls: the time is in scripts/bench."""

    def calls(count: int) -> float:
        tree, made = Tree(1), 0
        for n in range(count):
            tree.plug(f"n{n}", plugged(Thing()))
        core = core_of(tree)

        async def counting(handle: int, number: int, *args: object) -> Any:
            nonlocal made
            made += 1
            assert number == numbers.CONFIG_READ
            return await core(handle, number, *args)

        assert len(at_once(listed(prober.probe(counting)))) == count
        return made / count

    assert calls(1000) <= 1.1 * calls(30)
