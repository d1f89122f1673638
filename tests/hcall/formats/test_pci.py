"""Configuration space: what a header has, what can be written, and the text that lspci reads and writes."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.formats import pci

needs_lspci = pytest.mark.skipif(not shutil.which("lspci"), reason="there is no lspci here")
DEVICE = pci.endpoint(0, (0x1AF4, 0x1044), 0x100000, 0x1044, 0x0001_0000_0000_0002)


def text_of(functions: dict[int, bytes]) -> str:
    return "\n".join(line for where, space in functions.items() for line in pci.dumped(where, space, "/it"))


def lspci(path: Path, *options: str) -> str:
    return subprocess.run(["lspci", "-F", path, *options], check=True, capture_output=True, text=True).stdout


@pytest.mark.spec("P-10", "P-12")
def test_a_device_is_these_bytes() -> None:
    assert DEVICE.hex(" ").rstrip("0 ") == (
        "f4 1a 44 10 00 00 10 00 01 00 00 10 00 00 00 00 "
        "00 00 00 00 01 00 00 00 00 00 00 00 00 00 00 00 "
        "00 00 00 00 00 00 00 00 00 00 00 00 f4 1a 44 10 "
        "00 00 00 00 40 00 00 00 00 00 00 00 00 01 00 00 "
        "09 00 10 09 f4 1a 68 63 02 00 00 00 00 00 01"
    )
    assert len(DEVICE) == 256


@needs_lspci
@pytest.mark.spec("P-10", "P-12", "P-13")
def test_the_real_lspci_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    bridge = pci.bridge(0, 1, 3)
    inner = pci.endpoint(pci.address(1, 30, 5), (0x1234, 0x5678), 0x020000, 0x8000, 9, several=True)
    path.write_text(text_of({pci.address(0, 0): DEVICE, pci.address(0, 31): bridge, pci.address(1, 30, 5): inner}))
    assert lspci(path, "-n").splitlines() == [
        "00:00.0 1000: 1af4:1044 (rev 01)",
        "00:1f.0 0604: 1af4:10ff (rev 01)",
        "01:1e.5 0200: 1234:5678 (rev 01)",
    ]
    told = lspci(path, "-vvv", "-n")
    assert "Subsystem: 1af4:8000" in told and "Interrupt: pin B routed to IRQ 0" in told
    assert "Capabilities: [40] Vendor Specific Information" in told
    assert "Bus: primary=00, secondary=01, subordinate=03" in told
    assert "I/O behind bridge: 0000-ffff" in told and "Memory behind bridge: 00000000-ffffffff" in told
    assert "unknown" not in told.lower().replace("virtio: <unknown>", "") and "!!!" not in told
    assert "+-00.0\n" in (tree := lspci(path, "-t")) and "-1f.0-[01-03]----1e.5" in tree


@needs_lspci
@pytest.mark.parametrize("options", [["-x"], ["-xxx"], ["-xxxx", "-vvv"], ["-xxx", "-D"]])
def test_what_the_real_lspci_writes_is_read(tmp_path: Path, options: list[str]) -> None:
    functions = {pci.address(0, 0): DEVICE, pci.address(0, 31): pci.bridge(0, 1, 1), pci.address(1, 4, 2): DEVICE}
    path = tmp_path / "dump"
    path.write_text(text_of(functions))
    length = 64 if options == ["-x"] else 256
    expected = {where: space[:length] for where, space in functions.items()}
    assert pci.parse(lspci(path, *options).splitlines()) == expected


def test_of_a_dump_what_is_not_understood_is_passed_over_and_what_is_missing_is_all_ones() -> None:
    text = ["# lspci", "00: 11 22", "0002:ff:1f.7 Thing", "\tSubsystem: x", "04: aa bb  ", "100: 01", "", "00: 99"]
    space = pci.parse(text)[2 << 16 | 0xFFFF]
    assert space == b"\xff" * 4 + b"\xaa\xbb" + b"\xff" * 250 + b"\x01"


def test_a_name_is_an_address_and_back() -> None:
    for where in (0, 0xFF, 0xFFFF, 0xABCD << 16 | 0x1234, 0x12345 << 16):
        assert pci.named(pci.name(where)) == where == pci.named(pci.name(where, domain=True))
    for wrong in ("", "00:00.0 ", "00:20.0", "0:1.0", "00:00.8", "x00:00.0"):
        with pytest.raises(ValueError, match=r"00:1f\.0|no function is at"):
            pci.named(wrong)


@pytest.mark.parametrize(
    ("line", "what"),
    [("00:20.0 x", "line 1: no function is at 00:20.0"), ("100000000:00:00.0 x", "line 1: no function is at")],
)
def test_a_place_that_cannot_be_is_refused(line: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        pci.parse([line])


def test_a_function_has_4096_bytes() -> None:
    assert len(pci.parse(["00:00.0 x", "fff: 01"])[0]) == 4096
    with pytest.raises(ValueError, match="line 2: beyond the 4096 bytes"):
        pci.parse(["00:00.0 x", "fff: 01 02"])


@given(st.lists(st.text("0123456789abcdef:. \tx-\n", max_size=40), max_size=20))
def test_any_text_is_read_or_refused_with_its_line(lines: list[str]) -> None:
    try:
        found = pci.parse(lines)
    except ValueError as error:
        assert str(error).startswith("line ")
    else:
        assert all(len(space) <= 4096 for space in found.values())


@pytest.mark.spec("P-8", "P-10", "P-11")
def test_only_the_bits_that_can_be_written_change_whatever_is_written_in_whatever_order() -> None:
    chance = random.Random(5)
    written: dict[int, int] = {}
    expected = bytearray(DEVICE)
    free = {0x04: 0x07, 0x05: 0x04, 0x0C: 0xFF, 0x11: 0xF0, 0x12: 0xFF, 0x13: 0xFF, 0x14: 0xF0, 0x3C: 0xFF}
    free |= dict.fromkeys((0x15, 0x16, 0x17), 0xFF)
    for _ in range(3000):
        size = chance.choice(pci.SIZES)
        offset, data = chance.randrange(0, 80, size), chance.randbytes(size)
        if (noted := pci.write(written, offset, size, int.from_bytes(data, "little"))) is not None:
            written[noted[0]] = noted[1]
        for at, byte in enumerate(data, offset):
            mask = free.get(at, 0)
            expected[at] = expected[at] & ~mask | byte & mask
        where = chance.randrange(0, 256, size)
        assert pci.read(DEVICE, written, where, size) == int.from_bytes(expected[where : where + size], "little")
    assert len(written) == 5


@pytest.mark.parametrize(("back", "size"), [(0xFFFFF000, 4096), (0xFFFFFFF1, 16), (0xFFF00008, 1 << 20), (0, 0)])
def test_the_size_of_a_bar_is_the_lowest_bit_that_can_be_set(back: int, size: int) -> None:
    assert pci.bar_bytes(back) == size


@pytest.mark.spec("P-13")
def test_pins_turn_with_the_slot() -> None:
    assert [[pci.swizzle(pin, slot) for pin in (1, 2, 3, 4)] for slot in (0, 1, 2, 31)] == [
        [1, 2, 3, 4], [2, 3, 4, 1], [3, 4, 1, 2], [4, 1, 2, 3],
    ]  # fmt: skip
