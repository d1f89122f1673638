"""The configuration space of PCI functions: where they are, what is in it, and its text as `lspci -x` writes it.

PCI Local Bus 3.0, 6.1 and 6.2; PCI-to-PCI Bridge 1.2, 3.2; the offsets are in linux/pci_regs.h.  Little-endian.  What
is absent reads as all ones.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

BUSES, SLOTS, FUNCTIONS = 256, 32, 8  # of a machine, a bus, a slot: a bus has 8 bits, a slot 5, a function 3
FUNCTIONS_OF_ALL: Final = BUSES * SLOTS * FUNCTIONS
SIZES: Final = (1, 2, 4)  # bytes of an access
SPACE: Final = 256  # bytes of a function; a PCI Express one has EXTENDED
EXTENDED: Final = 4096

# Where things are; what is not listed reads as 0.
ID, COMMAND, CLASS, CACHE_LINE, BARS, SUBSYSTEM, CAPABILITIES, LINE = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x2C, 0x34, 0x3C
BUS_NUMBERS: Final = 0x18  # of a bridge: primary, secondary, subordinate
ENDPOINT, BRIDGE, CARDBUS = 0, 1, 2  # header types; the last one is a bridge, too
TYPE_BITS, SEVERAL = 0x7F, 0x80  # of the header type; SEVERAL: the slot has functions beside 0
HAS_CAPABILITIES: Final = 0x10  # of the status
IO_SPACE, MEMORY_SPACE, MASTER, NO_INTERRUPT = 1, 2, 4, 0x400  # of the command
BRIDGE_CLASS: Final = 0x060400
ENDS: Final = (0, 0xFF)  # a pointer to a capability that is none

# The functions of a hostd.
VENDOR: Final = 0x1AF4  # of the bridges, and of every subsystem; the subsystem's device is the class of its hypercalls
BRIDGE_ID: Final = 0x10FF
REVISION: Final = 1
WINDOW_BYTES: Final = 4096  # BAR 0, in memory
PORTS_BYTES: Final = 16  # BAR 1, in I/O space
#: What a guest may write: bits, by the offset of the four bytes that they are in.  All else is as it is.
WRITABLE: Final[Mapping[int, int]] = {
    COMMAND: IO_SPACE | MEMORY_SPACE | MASTER | NO_INTERRUPT,
    CACHE_LINE: 0xFF,
    BARS: (1 << 32) - WINDOW_BYTES,
    BARS + 4: (1 << 32) - PORTS_BYTES,
    LINE: 0xFF,  # what it likes: nobody else reads it
}

# A vendor-specific capability (virtio 1.2, 4.1.4.8): who it is of, "hc", and the handle of the node.
_CAPABILITY: Final = struct.Struct("<BBBBH2sQ")
_VENDOR_SPECIFIC, _OWN = 0x09, 9
_MAGIC: Final = b"hc"
_AT: Final = 0x40
NODE: Final = 8  # bytes from its start to the handle
_FIRST: Final = struct.Struct("<BBBB")
_SECOND: Final = struct.Struct("<H2s")

_ENDPOINT: Final = struct.Struct("<HHHHB3sBBBB6IIHHIB7xBBBB")
_BRIDGE: Final = struct.Struct("<HHHHB3sBBBB2IBBBBBBHHHHHIIHHB3xIBBH")

#: `00:1f.0 what it is`, `0001:00:1f.0 ...`; and `30: 00 ff ...`
_FUNCTION: Final = re.compile(r"(?:([0-9a-f]{4,}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7]) ", re.IGNORECASE)
_BYTES: Final = re.compile(r"([0-9a-f]{2,3}): ((?:[0-9a-f]{2} )*[0-9a-f]{2}) *", re.IGNORECASE)
_ROW: Final = 16
_DOMAINS: Final = 1 << 32


def address(bus: int, slot: int, function: int = 0, domain: int = 0) -> int:
    """One number for a place: `domain << 16 | bus << 8 | slot << 3 | function`; a hostd has domain 0 only."""
    return domain << 16 | bus << 8 | slot << 3 | function


def place(where: int) -> tuple[int, int, int]:
    """The bus, the slot and the function of an address."""
    return where >> 8 & 0xFF, where >> 3 & 0x1F, where & 7


def name(where: int, *, domain: bool = False) -> str:
    """`00:1f.0`, or `0000:00:1f.0` with its *domain*, which one that is not 0 always has."""
    bus, slot, function = place(where)
    wide = f"{where >> 16:04x}:" if domain or where >> 16 else ""
    return f"{wide}{bus:02x}:{slot:02x}.{function}"


def named(text: str) -> int:
    """The address of such a name.  Raises ValueError."""
    found = _FUNCTION.fullmatch(f"{text} ")
    if found is None:
        raise ValueError(f"{text!r} is no place on a PCI bus: those are like 00:1f.0")
    return _address(found)


def absent(size: int) -> int:
    """What *size* bytes are where nothing is."""
    return (1 << 8 * size) - 1


def mistake(offset: int, size: int) -> str | None:
    """What is wrong with an access, if anything: a register is not cut, and none goes over the end of four bytes."""
    if size not in SIZES:
        return "configuration space is read and written by 1, 2 or 4 bytes"
    if not 0 <= offset <= EXTENDED - size:
        return f"the configuration space of a function has {EXTENDED} bytes"
    return f"{size} bytes begin at a multiple of {size}" if offset % size else None


def swizzle(pin: int, slot: int) -> int:
    """The pin of the bridge, 1 to 4, that the *pin* of a *slot* behind it is wired to (PCI-to-PCI Bridge 1.2, 9.1)."""
    return (pin - 1 + slot) % 4 + 1


def endpoint(
    where: int, ids: tuple[int, int], class_code: int, hcall_class: int, node: int, *, several: bool = False
) -> bytes:
    """The space of a device as it is before anybody wrote there; *several*: its slot has others beside it."""
    header = _ENDPOINT.pack(
        *ids, 0, HAS_CAPABILITIES, REVISION, class_code.to_bytes(3, "little"),
        0, 0, several and SEVERAL, 0,
        0, 1, 0, 0, 0, 0, 0, VENDOR, hcall_class, 0, _AT, 0, where % 4 + 1, 0, 0,
    )  # fmt: skip
    own = _CAPABILITY.pack(_VENDOR_SPECIFIC, 0, _CAPABILITY.size, _OWN, VENDOR, _MAGIC, node)
    return (header + own).ljust(SPACE, b"\0")


def bridge(primary: int, secondary: int, subordinate: int) -> bytes:
    """The space of a bridge between two buses; it lets through all there is, and nothing of it can be written."""
    return _BRIDGE.pack(
        VENDOR, BRIDGE_ID, IO_SPACE | MEMORY_SPACE | MASTER, 0, REVISION, BRIDGE_CLASS.to_bytes(3, "little"),
        0, 0, BRIDGE, 0, 0, 0, primary, secondary, subordinate, 0, 0x00, 0xF0, 0, 0, 0xFFF0, 0xFFF0, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0,
    ).ljust(SPACE, b"\0")  # fmt: skip


def is_own(first: int, second: int) -> bool:
    """Whether a capability whose first eight bytes are these is the one with a handle of a node."""
    sort, _, size, kind = _FIRST.unpack(first.to_bytes(4, "little"))
    return (sort, size, kind) == (_VENDOR_SPECIFIC, _CAPABILITY.size, _OWN) and (
        _SECOND.unpack(second.to_bytes(4, "little")) == (VENDOR, _MAGIC)
    )


def read(space: bytes, written: Mapping[int, int], offset: int, size: int) -> int:
    """What is at *offset* of a device's *space*, of which somebody has *written* so much; beyond it all ones.

    The access is none that is a `mistake`.
    """
    start = offset & ~3
    if start >= len(space):
        return absent(size)
    mask = WRITABLE[start] if start in written else 0
    value = int.from_bytes(space[start : start + 4], "little") & ~mask | written.get(start, 0) & mask
    return value >> 8 * (offset - start) & absent(size)


def write(written: Mapping[int, int], offset: int, size: int, value: int) -> tuple[int, int] | None:
    """(offset, value) of four bytes to note as *written*; None if nothing there can be."""
    start, shift = offset & ~3, 8 * (offset & 3)
    mask, bits = WRITABLE.get(start, 0), absent(size) << shift
    if not mask & bits:
        return None
    return start, written.get(start, 0) & ~bits | value << shift


def bar_bytes(read_back: int) -> int:
    """The size of what a BAR decodes, of what it reads after all ones were written; 0: there is none (6.2.5.1)."""
    bits = read_back & (~3 if read_back & 1 else ~15)
    return bits & -bits


def dumped(where: int, space: bytes, about: str) -> Iterator[str]:
    """The lines of a function in a dump: its name and what it is *about*, and its bytes."""
    yield f"{name(where)} {about}"
    for start in range(0, len(space), _ROW):
        yield f"{start:02x}: {space[start : start + _ROW].hex(' ')}"
    yield ""


def parse(lines: Iterable[str]) -> dict[int, bytes]:
    """The functions of a dump, `lspci -x` to `-xxxx`, as many bytes of each as it has, in its order.

    As lspci reads it: lines that are neither a function nor bytes are passed over.  Raises ValueError.
    """
    found: dict[int, bytearray] = {}
    now: bytearray | None = None
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        if start := _FUNCTION.match(text):
            try:
                now = found.setdefault(_address(start), bytearray())
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
        elif now is not None and (row := _BYTES.fullmatch(text)):
            offset, data = int(row[1], 16), bytes.fromhex(row[2])
            if offset + len(data) > EXTENDED:
                raise ValueError(f"line {number}: beyond the {EXTENDED} bytes of a function")
            now.extend(b"\xff" * (offset - len(now)))
            now[offset : offset + len(data)] = data
        elif not text:
            now = None
    return {where: bytes(space) for where, space in found.items()}


def _address(found: re.Match[str]) -> int:
    domain, bus, slot, function = (int(part or "0", 16) for part in found.groups())
    if slot >= SLOTS or domain >= _DOMAINS:
        raise ValueError(f"no function is at {found[0].strip()}")
    return address(bus, slot, function, domain)
