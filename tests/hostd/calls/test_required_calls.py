"""What docs/protocol.md requires of a host's calls: which error wins, what begins when, and the tree."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from clumsy import device
from raw import ADDRESS, PAGE, RawGuest, attached, served, settled
from slow import SPECS, node, opened, slow

import hostd
from hcall import numbers
from hcall.errors import Status
from hcall.messages import ACK
from hcall.wire import encode


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, *SPECS, handles=4, memory=4 * PAGE) as host:
        yield host


# Which error wins.


@pytest.mark.spec("O-1", "O-3", "C-8")
async def test_of_all_that_is_wrong_with_a_call_of_the_core_the_first_in_the_list_is_answered(host: hostd.Host) -> None:
    async with attached(host) as guest, attached(host) as other:
        bare, slow_node = await guest.core(numbers.FIRST), await node(guest, "/slow")
        mine, _ = await opened(guest, "/clumsy")
        theirs, _ = await opened(other, "/slow")
        never, areas = 1 << 62, (4,)
        expected: list[tuple[int, int, tuple[Any, ...], tuple[Any, ...], Status]] = [
            (4095, never, (1,), areas, Status.NO_SUCH_CALL),
            (numbers.SET_MASK, never, ("no mask",), areas, Status.BAD_AREA),
            (numbers.SET_MASK, never, ("no mask",), (), Status.BAD_ARGUMENT),
            (numbers.SET_MASK, never, (1, 2), (), Status.BAD_ARGUMENT),
            *((number, never, (-1,), (), Status.BAD_HANDLE)
              for number in (numbers.SET_MASK, numbers.SET_STATUS, numbers.SET_FEATURES, numbers.OPEN)),
            *((number, slow_node, (-1,), (), Status.NOT_OPEN)
              for number in (numbers.SET_MASK, numbers.SET_STATUS, numbers.SET_FEATURES)),
            (numbers.SET_MASK, theirs, (-1,), (), Status.STALE_HANDLE),
            (numbers.SET_MASK, mine, (-1,), (), Status.BAD_ARGUMENT),
            (numbers.INFO, mine, (), (), Status.BAD_HANDLE),
            (numbers.OPEN, bare, (-1,), (), Status.NOT_ALLOWED),
            (numbers.OPEN, slow_node, (-1,), (), Status.BUSY),
            (numbers.ADD_MEMORY, 0, (1, 1, 77), (), Status.BAD_ARGUMENT),
        ]  # fmt: skip
        for number, handle, args, wrong, status in expected:
            assert (await guest.call(number, handle, *args, areas=wrong))[0] == status, (number, handle, args, wrong)


@pytest.mark.spec("C-8")
@pytest.mark.parametrize("cookie", [-1, -(1 << 63)])
async def test_a_cookie_is_unsigned(host: hostd.Host, cookie: int) -> None:
    async with attached(host) as guest:
        assert (await guest.call(numbers.OPEN, await node(guest, "/slow"), cookie))[0] == Status.BAD_ARGUMENT
        handle, _ = await opened(guest, "/slow", (1 << 64) - 1)
        for _ in range(3):
            await opened(guest, "/rng")
        status, _ = await guest.call(numbers.OPEN, await node(guest, "/rng"), cookie)
        assert status == Status.BUSY  # a limit is looked at before the cookie
        await guest.core(numbers.CLOSE, handle)


@pytest.mark.spec("O-2", "O-3", "W-2")
async def test_of_all_that_is_wrong_with_a_call_of_a_device_the_first_in_the_list_is_answered(host: hostd.Host) -> None:
    async with attached(host) as guest, attached(host) as other:
        mine, calls = await opened(guest, "/slow")
        theirs, _ = await opened(other, "/clumsy")
        late, extra, early = calls["late"], calls["extra"], calls["early"]
        unknown, bad = early | 0xFFF, ("x", "y")
        expected: list[tuple[int, int, tuple[Any, ...], Status]] = [
            (late, await node(guest, "/slow"), bad, Status.NOT_OPEN),
            (late, 1 << 62, bad, Status.BAD_HANDLE),
            (1 << 16, 1 << 62, bad, Status.BAD_HANDLE),
            (-1, 1 << 62, bad, Status.BAD_HANDLE),
            (late, theirs, bad, Status.STALE_HANDLE),
            (unknown, mine, bad, Status.NO_SUCH_CALL),
            (late, mine, bad, Status.NOT_ALLOWED),
            (extra, mine, bad, Status.NOT_ALLOWED),
            (early, mine, bad, Status.BAD_ARGUMENT),
            (early, mine, (1,), Status.BAD_AREA),
        ]
        for number, handle, args, status in expected:
            assert (await guest.call(number, handle, *args, areas=(4,)))[0] == status, (number, handle)
        await guest.core(numbers.SET_STATUS, mine, 15)
        for number, args, status in [
            (unknown, bad, Status.NO_SUCH_CALL), (extra, bad, Status.NO_SUCH_CALL), (late, bad, Status.BAD_ARGUMENT),
            (late, (1,), Status.BAD_AREA),
        ]:  # fmt: skip
            assert (await guest.call(number, mine, *args, areas=(4,)))[0] == status
        assert slow(host).log == []
        failing, clumsy_calls = await other.core(numbers.GET_STATUS, theirs), (await opened(other, "/rng"))[1]
        device(host).wrong["ready"] = ZeroDivisionError()
        assert failing == 0 and (await other.call(numbers.SET_STATUS, theirs, 15))[0] == Status.INTERNAL
        assert (await other.call(clumsy_calls["read"], theirs, "x", areas=(4,)))[0] == Status.IO_ERROR


@pytest.mark.spec("E-3")
async def test_an_int_will_do_for_a_float_and_a_bool_will_not(host: hostd.Host) -> None:
    async with attached(host) as guest:
        handle, calls = await guest.open("/slow")
        assert await guest.call(calls["half"], handle, 3) == (0, 1.5)
        assert await guest.call(calls["half"], handle, 3.0) == (0, 1.5)
        assert (await guest.call(calls["half"], handle, True))[0] == Status.BAD_ARGUMENT


# What begins when.


@pytest.mark.spec("S-6", "S-4", "S-8")
async def test_calls_begin_in_the_order_of_seq_and_end_in_any(host: hostd.Host) -> None:
    async with attached(host) as guest, attached(host) as other:
        handle, calls = await guest.open("/slow")
        first = guest.seq + 1
        posted = [guest.next_call(calls["late" if n % 2 else "now"], handle, (n,), slot=n) for n in range(8)]
        guest.send(b"".join(posted))
        await settled(other)
        assert slow(host).log == list(range(8))
        for n in (5, 1, 7, 3):
            slow(host).waiting[n].done(n)
        replies = [await guest.receive() for _ in range(8)]
        assert [(reply[1], reply[2] - first, reply[4]) for reply in replies if reply] == [
            (n, n, n) for n in (0, 2, 4, 6, 5, 1, 7, 3)
        ]


@pytest.mark.spec("A-7", "STR-1")
async def test_room_for_none_gets_none(host: hostd.Host) -> None:
    async with attached(host, regions=1) as guest:
        handle, calls = await guest.open("/slow")
        assert await guest.call(calls["read"], handle, 0, areas=(0,)) == (0, b"")
        assert await guest.call(calls["read"], handle, 0, areas=((ADDRESS + PAGE, 0, 1),)) == (0, 0)
        assert await guest.call(calls["read"], handle, 0, areas=()) == (0, 0)
        assert await guest.call(calls["write"], handle, 0, areas=()) == (0, 0)


@pytest.mark.spec("U-1")
async def test_a_device_cannot_say_that_the_link_is_lost(host: hostd.Host) -> None:
    async with attached(host) as guest:
        handle, calls = await guest.open("/slow")
        assert (await guest.call(calls["lost"], handle))[0] == Status.INTERNAL


# The tree.


async def names(guest: RawGuest, handle: int) -> list[str]:
    """Of all properties, in their order."""
    found = [""]
    while name := await guest.core(numbers.NEXTPROP, handle, found[-1]):
        found.append(name)
    return found[1:]


@pytest.mark.spec("C-4", "V-3")
async def test_every_node_has_its_standard_properties(host: hostd.Host) -> None:
    host.plug_table("bus/below", {"model": "rng"})
    async with attached(host) as guest:
        device_node, bus = await node(guest, "/slow"), await node(guest, "/bus")
        standard = ["name", "compatible", "vendor-id", "device-id", "hcall-class"]
        assert await names(guest, device_node) == [*standard, "text", "level", "parts"]
        values = [await guest.core(numbers.GETPROP, device_node, name) for name in standard]
        assert values == ["slow", ("test,slow", "test,generic"), 0x1234, 0x8, 0x8]
        assert await guest.core(numbers.INFO, device_node) == ("slow", ("test,slow", "test,generic"), (0x1234, 0x8))
        assert await names(guest, bus) == ["name"] and await guest.core(numbers.INFO, bus) == ("bus", (), (0, 0))
        root = await guest.core(numbers.FIRST)
        assert await names(guest, root) == ["name"] and await node(guest, "/") == root
        assert await guest.core(numbers.PARENT, root) == 0


@pytest.mark.spec("C-5")
@pytest.mark.parametrize(
    ("text", "shown"), [("x" * 257, "x" * 256), ("é" * 200, "é" * 128), ("x" + "é" * 128, "x" + "é" * 127)]
)
async def test_a_long_text_is_cut_to_256_bytes_at_the_end_of_a_character(
    host: hostd.Host, text: str, shown: str
) -> None:
    async with attached(host) as guest:
        found = await node(guest, "/slow")
        slow(host).text = text
        assert await guest.core(numbers.GETPROP, found, "text") == shown
        slow(host).parts = (text,)  # a part of an array is not
        assert (await guest.call(numbers.GETPROP, found, "parts"))[0] == Status.INTERNAL


@pytest.mark.spec("C-5")
async def test_a_property_is_of_any_type_that_is_listed(host: hostd.Host) -> None:
    async with attached(host) as guest:
        found = await node(guest, "/slow")
        assert await guest.core(numbers.GETPROP, found, "level") == 1.5
        assert await guest.core(numbers.GETPROP, found, "parts") == (1, "two", b"3", True, 0.5)


@pytest.mark.spec("C-7", "I-10")
async def test_hotplug_is_vector_0_of_the_parent_and_children_go_first(host: hostd.Host) -> None:
    async with attached(host) as guest:
        now, changes = await guest.core(numbers.CHANGES, 0, 0)
        assert changes is None
        root = await guest.core(numbers.FIRST)
        host.plug_table("bus/below", {"model": "rng"})
        await settled(guest)
        bus, below = await node(guest, "/bus"), await node(guest, "/bus/below")
        assert guest.interrupts == [(2, root, 0, 1), (2, bus, 0, 1)]
        now, changes = await guest.core(numbers.CHANGES, 0, now)
        assert changes == ((numbers.ADDED, bus, root), (numbers.ADDED, below, bus))
        guest.send(encode((ACK, root, 0, 1)) + encode((ACK, bus, 0, 1)))
        await settled(guest)
        guest.interrupts.clear()
        await host.unplug("/bus", surprise=True)
        await settled(guest)
        assert guest.interrupts == [(2, root, 0, 2)]  # and none of a parent that went as well
        async with attached(host):
            account, other = [each.account for each in host.guests.by_token.values()]
            assert account.watched.keys() == {root}  # what is gone is not kept
            assert not other.watched
        _, changes = await guest.core(numbers.CHANGES, 0, now)
        assert changes == ((numbers.REMOVED, below, bus), (numbers.REMOVED, bus, root))
