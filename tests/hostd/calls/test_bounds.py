"""docs/protocol/bounds.md: the largest that a host may have is within what the page says, and the page is no looser."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import pytest
from raw import attached, served

from hcall import numbers
from hcall.errors import BadArgument
from hostd.device import Device, Feature, Irq, Property, call
from hostd.machine.file import DeviceSpec

PAGE = (Path(__file__).parents[3] / "docs" / "protocol" / "bounds.md").read_text()
ROWS = {
    name: (int(shortest.replace(",", "")), int(widest.replace(",", "")))
    for name, shortest, widest in re.findall(r"^\| ([^|]*) \| (?:18 \+ \*n\* \| 46|([\d,]+) \| ([\d,]+))", PAGE, re.M)
    if shortest
}
HIGH = (1 << 64) - 1


def shortest(value: object) -> int:
    """Bytes of *value* in the shortest form of msgpack's specification."""
    if isinstance(value, bool) or value is None:
        return 1
    if isinstance(value, int):
        return 1 + (0 if value < 128 else next(size for size in (1, 2, 4, 8) if value < 1 << 8 * size))
    if isinstance(value, bytes):
        return len(value) + 2
    if isinstance(value, str):
        return len(value) + (1 if len(value) < 32 else 2 if len(value) < 256 else 3)
    if isinstance(value, dict):
        return (1 if len(value) < 16 else 3) + sum(map(shortest, value)) + sum(map(shortest, value.values()))
    assert isinstance(value, tuple)
    return (1 if len(value) < 16 else 3) + sum(map(shortest, value))


def widest(value: object) -> int:
    """The same in the longest form: numbers of 64 bits, lengths of 32."""
    if isinstance(value, bool) or value is None:
        return 1
    if isinstance(value, int):
        return struct.calcsize(">BQ")
    head = struct.calcsize(">BI")
    if isinstance(value, str | bytes):
        return head + len(value)
    if isinstance(value, dict):
        return head + sum(map(widest, value)) + sum(map(widest, value.values()))
    assert isinstance(value, tuple)
    return head + sum(map(widest, value))


def reply(value: object, status: int = 0) -> tuple[Any, ...]:
    return (1, 4095, HIGH, status, value)


def names(count: int, number: int) -> dict[str, int]:
    return {f"{n:063}": number for n in range(count)}


LARGEST: dict[str, tuple[Any, ...]] = {
    "WELCOME": (5, 1, 1, 0x7FFF, 4096, True),
    "IRQ": (2, HIGH, 31, HIGH),
    "END": (6, 16, "x" * 256, 1, 1),
    "REPLY with an error": reply("x" * 256, 16),
    "FIRST": reply(HIGH),
    "NOP": reply(None),
    "SSCH": reply(3),
    "TSCH": reply((3, bytes(12))),
    "STSCH": reply((3, bytes(52))),
    "NEXTPROP": reply("x" * 63),
    "CHANGES": reply((HIGH, ((3, HIGH, HIGH),) * 32)),
    "INFO": reply(("x" * 256, ("x" * 255,) * 16, (0xFFFF, 0xFFFF))),
    "POLL": reply(((HIGH, (HIGH,) * 32),) * 32),
    "OPEN": reply((HIGH, names(60, 0xFFFFFFFF), names(32, 31), names(64, 63))),
    "CLAIM": reply((HIGH, HIGH, names(60, 0xFFFFFFFF), names(32, 31), names(64, 63))),
}


@pytest.mark.spec("B-1")
@pytest.mark.parametrize("what", LARGEST)
def test_the_page_has_the_size_of_the_largest_message(what: str) -> None:
    (row,) = (sizes for name, sizes in ROWS.items() if what in re.split(r"REPLY of |, ", name) or what == name)
    assert row == (shortest(LARGEST[what]), widest(LARGEST[what]))


def depth(value: object) -> int:
    """Levels of arrays and maps."""
    if isinstance(value, dict):
        value = tuple(value.values())
    return 1 + max(map(depth, value), default=0) if isinstance(value, tuple) else 0


@pytest.mark.spec("B-2")
def test_no_message_of_the_core_is_deeper_than_the_page_says() -> None:
    assert {what for what, message in LARGEST.items() if depth(message) == 4} == {"CHANGES", "POLL"}
    assert max(map(depth, LARGEST.values())) == 4  # see test_listing.py for LIST


LONG = "n" * 60


def large(calls: int = 60, vectors: int = 32) -> type[Device]:
    """A device of the largest sort that a model may be: all names as long as they may be."""
    members: dict[str, Any] = {"compatible": tuple(f"{n:0255}" for n in range(16)), "ids": (0xFFFF, 0xFFFF)}

    def answer(self: Device) -> int:
        return 1

    for n in range(calls):
        members[f"{LONG}c{n:02}"] = call(type(answer)(answer.__code__, {}, f"{LONG}c{n:02}"))
        members[f"{LONG}c{n:02}"].__annotations__ = {"return": int}
    members |= {f"{LONG}i{n:02}": Irq() for n in range(vectors)}
    members |= {f"{LONG}f{bit:02}": Feature(bit) for bit in (*range(24), *range(50, 64))}
    members[f"{LONG}p00"] = Property(str)
    return type("Large", (Device,), members)


@pytest.mark.spec("B-1", "B-3", "C-10")
async def test_the_largest_device_can_be_opened_and_keeps_to_the_page(tmp_path: Path) -> None:
    async with (
        served(tmp_path, DeviceSpec("x" * 31, "large", large(), {})) as host,
        attached(host) as guest,
    ):
        node = await guest.core(numbers.FIND, 0, "/" + "x" * 31)
        info = await guest.core(numbers.INFO, node)
        assert len(info[1]) == 16 and shortest(reply(info)) <= ROWS["REPLY of INFO"][0]
        opened = await guest.core(numbers.OPEN, node, 0)
        assert [len(part) for part in opened[1:]] == [60, 32, 38]
        assert shortest(reply(opened)) <= ROWS["REPLY of OPEN"][0]
        assert await guest.core(numbers.NEXTPROP, node, "hcall-class") == ""  # it has no value yet
        await guest.core(numbers.CLOSE, opened[0])
        claimed = await guest.core(numbers.CLAIM, 0, f"{15:0255}", 0, 0)
        assert claimed[0] == node and shortest(reply(claimed)) <= ROWS["REPLY of CLAIM"][0]
        await guest.core(numbers.CLOSE, claimed[1])


@pytest.mark.spec("B-3", "C-3")
@pytest.mark.parametrize("beyond", [{"calls": 61}, {"vectors": 33}])
def test_a_larger_device_is_refused(beyond: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        large(**beyond)


@pytest.mark.spec("N-5")
@pytest.mark.parametrize("bit", range(65))
def test_the_bits_of_transports_are_no_devices(bit: int) -> None:
    members: dict[str, Any] = {"compatible": "test,bit", "BIT": Feature(bit)}
    if 0 <= bit < 24 or 50 <= bit < 64:
        assert type("Bit", (Device,), members)
    else:
        with pytest.raises(TypeError):
            type("Bit", (Device,), members)


@pytest.mark.spec("B-3")
@pytest.mark.parametrize("name", ["x" * 32, "", "é", "-x"])
async def test_a_longer_name_is_refused(tmp_path: Path, name: str) -> None:
    async with served(tmp_path) as host:
        with pytest.raises((ValueError, BadArgument)):
            host.tree.plug(name, host.tree.find("/rng").device)  # type: ignore[arg-type]  # there is one
