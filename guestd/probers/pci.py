"""Probing as on a PCI bus: look at each slot of each bus, and go on behind the bridges (Linux's drivers/pci/probe.c).

`scan` knows nothing but how configuration space is read, so it takes real machines, too: `dumped` reads one of the text
that `lspci -xxxx` wrote.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, NamedTuple, TypeAlias

from hcall import numbers
from hcall.errors import IoError
from hcall.formats import pci

from .found import Core, Found

#: Reads configuration space: the address, the offset and the size, 1, 2 or 4 bytes, that the offset is a multiple of.
Read: TypeAlias = Callable[[int, int, int], Awaitable[int]]

_FREE: Final = (0xFFFFFFFF, 0x00000000, 0x0000FFFF, 0xFFFF0000)  # ids that boards give where nothing is
_NO_PIN: Final = (0, 0)
_CAPABILITIES: Final = 48  # that fit behind the header: a list that is longer goes round
_TIMES: Final = 64  # a slot has another device each time it is looked at: for so long


class Function(NamedTuple):
    """A function as it was found."""

    address: int
    ids: tuple[int, int]  # vendor and device
    class_code: int  # base class, subclass, interface: 24 bits
    revision: int
    header: int  # 0 is a device, 1 a bridge, 2 one to CardBus
    several: bool  # its slot has functions beside function 0
    subsystem: tuple[int, int]  # vendor and device; of a bridge 0, 0
    behind: int  # the bus behind a bridge, else 0
    route: tuple[int, int]  # the slot of the first bus, and the pin there, 1 to 4, of its interrupt; 0, 0: it has none
    node: int  # the handle that the host has for it; 0: it is none of a hostd


class _Bus(NamedTuple):
    number: int  # with the domain above its 8 bits
    slots: tuple[int, ...]  # of the bridges on the way, the nearest first


async def probe(core: Core) -> AsyncIterator[Found]:
    """All devices, in the order of the scan.  A name is the bus's own, and so is the path."""

    async def read(address: int, offset: int, size: int) -> int:
        value: int = await core(0, numbers.CONFIG_READ, address, offset, size)
        if not 0 <= value <= pci.absent(size):
            raise IoError(f"the host reads {size} bytes of configuration space as {value:#x}")
        return value

    async for function in scan(read):
        if function.node:
            name = pci.name(function.address)
            yield Found(function.node, f"/{name}", name, (), function.ids)


async def scan(read: Read, buses: tuple[int, ...] = (0,)) -> AsyncIterator[Function]:
    """All functions on *buses* and behind the bridges there: of each bus all slots first, then what is behind it.

    A bus is its number, with the domain above the 8 bits.  No bus is looked at twice, whatever bridges say; of *buses*
    those that were found behind a bridge before.
    """
    seen: set[int] = set()
    for first in buses:
        left = [_Bus(first, ())]
        while left:
            bus = left.pop()
            if bus.number in seen:
                continue
            seen.add(bus.number)
            bridges = []
            async for function in _slots(read, bus):
                yield function
                if function.behind:
                    slot = pci.place(function.address)[1]
                    bridges.append(_Bus(bus.number & ~0xFF | function.behind, (slot, *bus.slots)))
            left += reversed(bridges)


async def _slots(read: Read, bus: _Bus) -> AsyncIterator[Function]:
    for slot in range(pci.SLOTS):
        first = bus.number << 8 | slot << 3
        function = await look(read, first, bus.slots)
        if function is None:  # whatever else the slot has: function 0 is what says so
            continue
        yield function
        if function.several:
            for address in range(first + 1, first + pci.FUNCTIONS):
                function = await look(read, address, bus.slots)
                if function is not None:
                    yield function


async def look(read: Read, address: int, bridges: tuple[int, ...] = (), *, is_there: bool = False) -> Function | None:
    """What is at *address*, if anything; *bridges* are the slots of those on the way there, the nearest first.

    *is_there*: something is, whatever its ids are.

    One that is replaced meanwhile is looked at again: nothing of two devices is put together.  Raises IoError if that
    does not end.
    """
    for _ in range(_TIMES):
        if await read(address, pci.ID, 4) in _FREE and not is_there:
            return None
        at = await _node_at(read, address)
        node = await _node(read, address, at)
        ids = await read(address, pci.ID, 4)
        code = await read(address, pci.CLASS, 4)
        several, header = divmod(await read(address, pci.CACHE_LINE, 4) >> 16 & 0xFF, pci.SEVERAL)
        subsystem = await read(address, pci.SUBSYSTEM, 4) if header == pci.ENDPOINT else 0
        behind = await read(address, pci.BUS_NUMBERS, 4) >> 8 & 0xFF if header in (pci.BRIDGE, pci.CARDBUS) else 0
        pin = await read(address, pci.LINE, 4) >> 8 & 0xFF
        if await _node(read, address, at) == node:
            return Function(
                address, (ids & 0xFFFF, ids >> 16), code >> 8, code & 0xFF, header, bool(several),
                (subsystem & 0xFFFF, subsystem >> 16), behind, _route(pin, address, bridges), node,
            )  # fmt: skip
    raise IoError(f"{pci.name(address)} is another device each time it is looked at")


async def _node_at(read: Read, address: int) -> int:
    """Where a function has the handle of its node; 0: nowhere."""
    if not await read(address, pci.COMMAND, 4) >> 16 & pci.HAS_CAPABILITIES:
        return 0
    at = await read(address, pci.CAPABILITIES, 1) & ~3
    for _ in range(_CAPABILITIES):
        if not 0x40 <= at <= pci.SPACE - 8:
            return 0
        first = await read(address, at, 4)
        if pci.is_own(first, await read(address, at + 4, 4)):
            return at + pci.NODE
        at = first >> 8 & 0xFC
    return 0


async def _node(read: Read, address: int, at: int) -> int:
    if not at:
        return 0
    low = await read(address, at, 4)
    return await read(address, at + 4, 4) << 32 | low


def _route(pin: int, address: int, bridges: tuple[int, ...]) -> tuple[int, int]:
    """Through the bridges, to the slot that is on the first bus."""
    if not 1 <= pin <= 4:
        return _NO_PIN
    slot = pci.place(address)[1]
    for above in bridges:
        pin, slot = pci.swizzle(pin, slot), above
    return slot, pin


async def dumped(functions: Mapping[int, bytes]) -> tuple[list[Function], list[Function]]:
    """The machine that a dump shows: what a scan finds, and what it does not, such as a function without function 0.

    Each in the order of addresses.  What the dump does not have of a function reads as all ones.
    """

    async def read(address: int, offset: int, size: int) -> int:
        return int.from_bytes(functions.get(address, b"")[offset : offset + size].ljust(size, b"\xff"), "little")

    buses = tuple(sorted({address >> 8 for address in functions}))
    found = [function async for function in scan(read, buses)]
    rest = sorted(functions.keys() - {function.address for function in found})
    lost = [await look(read, address, is_there=True) for address in rest]
    return sorted(found), [function for function in lost if function is not None]
