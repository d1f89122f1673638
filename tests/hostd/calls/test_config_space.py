"""Configuration space as a guest reads and writes it: what is defined, what is its own, what is not there for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from raw import Nobody, RawGuest, attached, plugged, served

import hostd
from hcall import numbers
from hcall.errors import Status
from hcall.formats import pci
from hostd.calls.account import Account
from hostd.calls.dispatch import Dispatcher
from hostd.calls.limits import Limits
from hostd.device import Device
from hostd.machine.file import DeviceSpec
from hostd.tree.tree import Tree

RNG, THING, BELOW = pci.address(0, 0), pci.address(0, 1), pci.address(0, 1, 1)


class Thing(Device):
    """Has no ids."""

    compatible, class_code = "test,config-thing", 0x123456


SPECS = [DeviceSpec(path, "thing", Thing, {}) for path in ("thing", "thing/below")]


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, *SPECS, handles=3) as host:
        yield host


async def read(guest: RawGuest, address: int, offset: int, size: int = 4) -> int:
    value: int = await guest.core(numbers.CONFIG_READ, 0, address, offset, size)
    return value


async def write(guest: RawGuest, address: int, offset: int, size: int, value: int) -> None:
    assert await guest.core(numbers.CONFIG_WRITE, 0, address, offset, size, value) is None


@pytest.mark.spec("P-1", "P-2", "P-10", "P-12")
async def test_each_device_is_there_with_its_ids_its_class_and_its_handle(host: hostd.Host) -> None:
    async with attached(host) as guest:
        assert await read(guest, RNG, pci.ID) == 0x10441AF4 and await read(guest, RNG, pci.CLASS) == 0x10000001
        thing = host.tree.find("thing")
        assert thing.plugged is not None
        sort = thing.plugged.class_id
        assert sort >= 0x8000 and await read(guest, THING, pci.ID) == sort << 16 | 0x1AF4
        assert await read(guest, THING, pci.CLASS) == 0x12345601
        assert await read(guest, THING, pci.SUBSYSTEM) == sort << 16 | 0x1AF4
        node = await read(guest, THING, 0x48) | await read(guest, THING, 0x4C) << 32
        assert node == thing.handle == await guest.core(numbers.FIND, 0, "/thing")
        types = [await read(guest, where, pci.CACHE_LINE + 2, 1) for where in (RNG, THING, BELOW)]
        assert types == [0, 0x80, 0]
        assert [await read(guest, where, pci.LINE + 1, 1) for where in (RNG, THING, BELOW)] == [1, 1, 2]


@pytest.mark.spec("P-6")
async def test_what_is_not_there_is_all_ones_and_takes_no_harm(host: hostd.Host) -> None:
    async with attached(host) as guest:
        for where in (pci.address(0, 2), pci.address(0, 31), pci.address(1, 0), pci.address(0, 0, 1), 0xFFFF):
            for size in pci.SIZES:
                assert await read(guest, where, 0, size) == pci.absent(size)
                await write(guest, where, 0, size, 0)
        for offset in (256, 4092):
            assert await read(guest, RNG, offset) == 0xFFFFFFFF
            await write(guest, RNG, offset, 4, 0)
        assert await read(guest, RNG, 252) == 0


@pytest.mark.spec("P-7")
@pytest.mark.parametrize(
    ("access", "what"),
    [
        ((-1, 0, 4), "an address"), ((1 << 16, 0, 4), "an address"), ((1 << 64) - 1, "an address"),
        ((0, 0, 0), "by 1, 2 or 4"), ((0, 0, 3), "by 1, 2 or 4"), ((0, 0, 8), "by 1, 2 or 4"), ((0, 0, -4), "by 1, 2"),
        ((0, 2, 4), "a multiple of 4"), ((0, 3, 2), "a multiple of 2"), ((0, 1, 2), "a multiple of 2"),
        ((0, -4, 4), "4096 bytes"), ((0, 4096, 1), "4096 bytes"), ((0, 4094, 4), "4096 bytes"),
        ((0, 1 << 40, 4), "4096 bytes"),
    ],
)  # fmt: skip
async def test_an_access_that_cannot_be_is_told_why(host: hostd.Host, access: Any, what: str) -> None:
    access = access if isinstance(access, tuple) else (access, 0, 4)
    async with attached(host) as guest:
        for number, args in ((numbers.CONFIG_READ, access), (numbers.CONFIG_WRITE, (*access, 0))):
            status, text = await guest.call(number, 0, *args)
            assert status == Status.BAD_ARGUMENT and what in text


@pytest.mark.spec("P-7")
@pytest.mark.parametrize(("size", "value"), [(1, 256), (2, 1 << 16), (4, 1 << 32), (4, -1)])
async def test_a_value_has_room_in_what_is_written(host: hostd.Host, size: int, value: int) -> None:
    async with attached(host) as guest:
        assert (await guest.call(numbers.CONFIG_WRITE, 0, RNG, pci.LINE, size, value))[0] == Status.BAD_ARGUMENT
        assert await read(guest, RNG, pci.LINE) == 0x100


@pytest.mark.spec("P-8", "P-11")
async def test_a_bar_is_sized_by_writing_ones_and_then_set(host: hostd.Host) -> None:
    async with attached(host) as guest:
        backs = []
        for n in range(6):
            bar = pci.BARS + 4 * n
            before = await read(guest, RNG, bar)
            await write(guest, RNG, bar, 4, 0xFFFFFFFF)
            backs.append(await read(guest, RNG, bar))
            await write(guest, RNG, bar, 4, before)
            assert await read(guest, RNG, bar) == before
        assert [pci.bar_bytes(back) for back in backs] == [4096, 16, 0, 0, 0, 0] and 0xFFFFFFFF not in backs
        await write(guest, RNG, pci.BARS, 4, 0xFEB01234)
        await write(guest, RNG, pci.BARS + 4, 2, 0xC015)
        await write(guest, RNG, pci.COMMAND, 2, 0xFFFF)
        assert await read(guest, RNG, pci.BARS) == 0xFEB01000 and await read(guest, RNG, pci.BARS + 4) == 0xC011
        assert await read(guest, RNG, pci.COMMAND) == 0x0010_0407
        for offset in (pci.ID, pci.CLASS, pci.SUBSYSTEM, pci.CAPABILITIES, 0x40, 0x48):
            before = await read(guest, RNG, offset)
            await write(guest, RNG, offset, 4, ~before & 0xFFFFFFFF)
            assert await read(guest, RNG, offset) == before


@pytest.mark.spec("P-9")
async def test_what_one_guest_writes_no_other_sees_and_the_next_finds_it_as_at_first(host: hostd.Host) -> None:
    async with attached(host) as other:
        async with attached(host) as guest:
            await write(guest, RNG, pci.LINE, 1, 77)
            assert await read(guest, RNG, pci.LINE, 1) == 77
            assert await read(other, RNG, pci.LINE, 1) == 0
        async with attached(host) as guest:
            assert await read(guest, RNG, pci.LINE, 1) == 0


@pytest.mark.spec("P-1", "P-10")
async def test_a_bridge_leads_to_the_next_bus_and_takes_no_writes(host: hostd.Host) -> None:
    async with attached(host) as guest:
        for n in range(29 + 31 + 1):
            host.plug(DeviceSpec(f"n{n}", "thing", Thing, {}))
        for bus in (0, 1):
            bridge = pci.address(bus, 31)
            assert await read(guest, bridge, pci.CLASS) == 0x06040001 and await read(guest, bridge, pci.COMMAND) == 7
            assert await read(guest, bridge, pci.BUS_NUMBERS) == 2 << 16 | bus + 1 << 8 | bus
            for offset in range(0, 64, 4):
                before = await read(guest, bridge, offset)
                await write(guest, bridge, offset, 4, ~before & 0xFFFFFFFF)
                assert await read(guest, bridge, offset) == before
        assert await read(guest, pci.address(2, 31), pci.ID) == 0xFFFFFFFF


# One account, without a wire.


class Somebody(Nobody):
    """Sees what does not begin with /secret."""

    sees: Any = staticmethod(lambda path: not path.startswith("/secret"))


def at_hand(owner: Nobody, tree: Tree, **limits: int) -> tuple[Account, Any, Any]:
    account = Account(tree, Limits(**limits), owner)
    dispatch = Dispatcher(account).dispatch
    return (
        account, lambda *args: dispatch(numbers.CONFIG_READ, 0, args, ()),
        lambda *args: dispatch(numbers.CONFIG_WRITE, 0, args, ()),
    )  # fmt: skip


@pytest.mark.spec("P-5")
def test_what_is_kept_from_a_guest_is_not_there_nor_told_by_its_neighbours() -> None:
    tree = Tree(1)
    for path in ("open", "secret", "secret/below", "open/secret"):
        tree.plug(path, plugged(Thing()))
    owner = Somebody()
    owner.sees = lambda path: "secret" not in path
    _, read, write = at_hand(owner, tree)
    assert read(RNG, pci.ID, 4)[1] != 0xFFFFFFFF and read(RNG, pci.CACHE_LINE + 2, 1) == (0, 0)
    for where in (THING, BELOW, pci.address(0, 0, 1)):
        assert read(where, pci.ID, 4) == (0, 0xFFFFFFFF)
        assert write(where, pci.LINE, 1, 5) == (0, None)
    owner.sees = None
    assert read(THING, pci.LINE, 1) == (0, 0) and read(RNG, pci.CACHE_LINE + 2, 1) == (0, 0x80)


@pytest.mark.spec("P-9")
def test_a_guest_writes_to_so_many_devices_and_those_that_are_gone_do_not_count() -> None:
    tree = Tree(1)
    nodes = [tree.plug(f"n{n}", plugged(Thing())) for n in range(4)]
    owner = Nobody()
    account, read, write = at_hand(owner, tree, handles=3)
    for n in range(3):
        assert write(pci.address(0, n), pci.LINE, 1, n + 1) == (0, None)
    status, text = write(pci.address(0, 3), pci.LINE, 1, 4)
    assert status == Status.BUSY and "at most 3 configured devices" in text
    assert write(pci.address(0, 3), pci.ID, 4, 4) == (0, None)  # nothing there can be written
    assert [read(pci.address(0, n), pci.LINE, 1)[1] for n in range(4)] == [1, 2, 3, 0]
    tree.remove(nodes[1])
    assert write(pci.address(0, 3), pci.LINE, 1, 4) == (0, None)
    assert owner.purse.used["configured devices"] == 3
    heir = Nobody()
    other, reads, _ = at_hand(heir, tree)
    other.restore(account.save())
    assert [reads(pci.address(0, n), pci.LINE, 1)[1] for n in range(4)] == [1, 255, 3, 4]
    assert heir.purse.used["configured devices"] == 3
