"""Configuration space, as a PCI bus has it: of each device, and of the bridges (`tree.faces.pci`)."""

from __future__ import annotations

from hcall import numbers
from hcall.errors import BadArgument
from hcall.formats import pci

from ...tree.node import Node
from ..account import Account
from .registry import call


@call(numbers.CONFIG_READ)
def _read(guest: Account, handle: int, address: int, offset: int, size: int) -> int:
    node = _at(guest, address, offset, size)
    if node is not None:
        return pci.read(_space(guest, node, address), guest.configuration.of(node.handle), offset, size)
    if guest.tree.pci.bridge(address):
        bus = address >> 8
        return pci.read(pci.bridge(bus, bus + 1, guest.tree.pci.last_bus), {}, offset, size)
    return pci.absent(size)


@call(numbers.CONFIG_WRITE)
def _write(guest: Account, handle: int, address: int, offset: int, size: int, value: int) -> None:
    node = _at(guest, address, offset, size)
    if not 0 <= value <= pci.absent(size):
        raise BadArgument(f"{value:#x} is more than {size} bytes")
    if node is not None:
        noted = pci.write(guest.configuration.of(node.handle), offset, size, value)
        if noted is not None:
            guest.configuration.write(node.handle, *noted)


def _at(guest: Account, address: int, offset: int, size: int) -> Node | None:
    """What the guest finds there, but for a bridge.  Raises BadArgument."""
    if mistake := pci.mistake(offset, size):
        raise BadArgument(mistake)
    if not 0 <= address < pci.FUNCTIONS_OF_ALL:
        raise BadArgument("an address is bus << 8 | slot << 3 | function: 16 bits")
    return _seen(guest, address)


def _seen(guest: Account, address: int) -> Node | None:
    node = guest.tree.pci.at(address)
    return node if node is not None and guest.sees(node) else None


def _space(guest: Account, node: Node, address: int) -> bytes:
    assert node.plugged is not None
    others = range(address + 1, address + pci.FUNCTIONS) if address & 7 == 0 else ()
    return pci.endpoint(
        address, node.bus_ids, node.plugged.device.class_code, node.plugged.class_id, node.handle,
        several=any(_seen(guest, each) for each in others),
    )  # fmt: skip
