"""docs/devices, "On the wire": what a page says of numbers, types, areas, vectors, features and properties is so."""

from __future__ import annotations

import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from guestd.bus.known import known_drivers, match
from guestd.probers import Found
from hostd.device import Data, Device, Feature, Property, Room
from hostd.machine import models
from hostd.model.handlers import Handler

PAGES = Path(__file__).parents[1] / "docs" / "devices"
CORE = (PAGES.parent / "protocol.md").read_text()
STREAMS = (PAGES.parent / "protocol" / "streams.md").read_text()
MODELS = models.names()
WORDS = {int: "int", str: "str", bytes: "bytes", bool: "bool", float: "float", types.NoneType: "nil"}


def tables(text: str) -> list[list[list[str]]]:
    """The rows of each table, cells without quotes, without the two lines of its head."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    return [
        [[cell.strip().strip("`") for cell in row[1:-1].split("|")] for row in table.splitlines()[2:]]
        for table in found
    ]


def section(name: str) -> str:
    """What stands below the heading, up to the requirements."""
    text = (PAGES / f"{name}.md").read_text()
    return text[text.index("## On the wire\n") :].split("\n- **[")[0]


def load(name: str) -> type[Device]:
    return models.load(name, Path())


def value(handler: Handler) -> str:
    """An answer as a page writes it, without the names of its parts."""
    if Room in handler.areas:
        return "count, or the bytes"
    if Data in handler.areas:
        return "count"
    if typing.get_origin(handler.answer) is tuple:
        parts = typing.get_args(handler.answer)
        return "[int, ...]" if ... in parts else f"[{', '.join(WORDS[part] for part in parts)}]"
    return WORDS[handler.answer]


def plain(said: str) -> str:
    """The same of what the page says."""
    return re.sub(r"\w+: ", "", said)


def call_row(handler: Handler) -> list[str]:
    scalars = handler.arguments[len(handler.areas) :]
    arguments = ", ".join(f"{name}: {WORDS[kind]}" for name, kind in zip(scalars, handler.kinds, strict=True))
    areas = "filled" if Room in handler.areas else "read" if Data in handler.areas else "none"
    return [handler.name, str(handler.number), arguments, areas, value(handler)]


@pytest.mark.spec("V-2", "V-3", "N-7")
@pytest.mark.parametrize("name", MODELS)
def test_calls_are_what_the_table_says(name: str) -> None:
    model = load(name)
    bits = {member.mask: feature for feature, member in vars(model).items() if isinstance(member, Feature)}
    rows = {row[0]: row for row in tables(section(name))[0]}
    assert list(rows) == [handler.name for handler in sorted(model.declares.handlers, key=lambda each: each.number)]
    for handler in model.declares.handlers:
        said = rows[handler.name]
        expected = call_row(handler)
        if expected[4] == "[int, ...]":
            assert set(plain(said[4]).strip("[]").split(", ")) == {"int"}
        else:
            assert plain(said[4]) == expected[4]
        assert said[:4] == expected[:4]
        remarks = [bits[handler.needs]] if handler.needs else ["early"] if handler.early else []
        assert [cell for cell in said[5:] if cell] == remarks


@pytest.mark.parametrize("name", MODELS)
def test_vectors_features_and_properties_are_what_the_table_says(name: str) -> None:
    model = load(name)
    text = section(name)
    head = next((line for line in text.splitlines() if re.match(r"\| (vector|feature|property) \|", line)), None)
    assert head is not None, "a table of vectors, features and properties"
    kinds = [cell.strip() for cell in head[1:-1].split("|")][::2]
    rows = tables(text[text.index(head) :])[0]
    said: dict[str, dict[str, str]] = {
        kind: {row[2 * n]: row[2 * n + 1] for row in rows if row[2 * n]} for n, kind in enumerate(kinds)
    }
    assert said.get("vector", {}) == {irq: str(number) for number, irq in enumerate(model.declares.irqs)}
    assert said.get("feature", {}) == {feature: str(bit) for feature, bit in model.declares.features.items()}
    expected = {name.replace("_", "-"): declared(model, name).kind for name in model.declares.properties}
    assert list(said.get("property", {})) == list(expected)
    for each, kind in expected.items():
        written = said["property"][each]
        assert written.startswith("[") if kind is tuple else written == WORDS[kind]


def declared(model: type[Device], name: str) -> Property[Any]:
    found = next(vars(base)[name] for base in model.__mro__ if name in vars(base))
    assert isinstance(found, Property)
    return found


@pytest.mark.spec("V-1", "V-2")
@pytest.mark.parametrize("name", MODELS)
def test_how_it_is_found_is_what_the_page_and_the_document_say(name: str) -> None:
    model = load(name)
    text = " ".join(section(name).split())
    vendor, number = model.ids
    row = next(row for row in tables(CORE) for row in row if row[0].startswith(f"[{name}]"))
    assert f"`compatible` is `{model.compatible}`" in text and row[1] == model.compatible
    assert f"the ids are 0x{vendor:X}:0x{number:X}, the class is 0x{number:X}" in text
    assert row[2:4] == [f"0x{vendor:X}:0x{number:X}", f"0x{number:X}"]
    by_ids = match(Found(1, "/it", "it", (), model.ids), known_drivers())  # a bus may have no other way to tell
    assert by_ids is not None and model.compatible in by_ids.compatible
    assert ("It is shared" in text) == model.shared == (row[4] == "any number of guests")
    assert ("One guest has it at a time" in text) == (not model.shared)


@pytest.mark.spec("STR-5")
@pytest.mark.parametrize("name", ["console", "tty", "ppp", "printer", "sysman"])
def test_what_streams_have_in_common_each_of_them_has(name: str) -> None:
    model = load(name)
    rows = {row[0]: row for row in tables(STREAMS)[0]}
    for handler in model.declares.handlers:
        if handler.name in rows:
            assert rows.pop(handler.name)[:4] == call_row(handler)[:4]
    assert not rows
    waiting = {row[0]: row for row in tables(STREAMS)[3]}
    offered = [handler for handler in model.declares.handlers if handler.waits]
    assert [handler.name for handler in offered] == list(waiting)[: 1 if name == "printer" else 2]
    for handler in offered:
        assert waiting[handler.name] == call_row(handler)
    vectors = [row[0].replace("`", "") for row in tables(STREAMS)[1]]
    assert vectors == [f"{number} {irq}" for number, irq in enumerate(model.declares.irqs[:3])]
