"""The names that base classes of models have for themselves: documented, few, and told to who takes one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from hostd.backings.stream import BackedStream
from hostd.device import Device
from hostd.model.names import LEFT, own_names
from hostd.stream import Stream

PAGE = Path(__file__).parents[3] / "docs/write-a-device.md"
BASES = {"Device": Device, "Stream": Stream, "BackedStream": BackedStream}


def rows() -> dict[str, list[set[str]]]:
    """Of the page: a base's names by column."""
    lines = PAGE.read_text().partition("## Names that are taken")[2].partition("## ")[0].splitlines()
    found = {}
    for line in lines:
        if line.startswith("| `"):
            base, *cells = line.split("|")[1:-1]
            (name,) = re.findall(r"`(?:\S+\.)?(\w+)`", base)
            found[name] = [set(re.findall(r"`(\w+)`", cell)) for cell in cells]
    return found


def test_the_page_lists_what_is_taken_and_nothing_else() -> None:
    documented = rows()
    assert documented.keys() == BASES.keys()
    above: set[str] = set()
    for name, base in BASES.items():
        left, used, hosts = documented[name]
        assert used | hosts == {each for each in own_names(base) if not each.startswith(f"_{name}__")}
        assert not left & own_names(base) and all(hasattr(base, each) or each == "compatible" for each in left)
        above |= left
    assert {*LEFT} <= above


@pytest.mark.parametrize("base", BASES.values())
def test_what_a_base_has_in_private_nobody_hits_by_accident(base: type) -> None:
    assert all(name.startswith(f"_{base.__name__}__") for name in own_names(base) if name.startswith("_"))


@pytest.mark.parametrize("name", ["_closed", "_rx", "_tx", "_workers", "_update", "_came"])
def test_a_name_with_a_bar_before_it_is_an_authors(name: str) -> None:
    class Gate(Stream):
        def start(self) -> None:
            super().start()
            setattr(self, name, 7)

    setattr(Gate, name, 7)
    gate = Gate()
    gate.start()
    assert gate.send(b"hi") == 2 and getattr(gate, name) == 7


def test_a_model_called_like_its_base_does_not_get_at_its_state() -> None:
    def start(self: Any) -> None:
        self._Stream__closed = True  # what `self.__closed` is in a class Stream

    with pytest.raises(TypeError, match=r"Stream\._Stream__closed: Stream has this name for itself"):
        type("Stream", (Stream,), {"start": start})


def test_what_a_class_mixes_in_is_looked_at_too() -> None:
    class Counting:
        def start(self) -> None:
            self.site = 0

        def offload(self) -> None: ...

    with pytest.raises(TypeError, match=r"Door\.offload: Device has(.|\n)*Door\.site: Device has"):

        class Door(Counting, Device):  # type: ignore[misc]  # the mistake itself
            pass


def test_a_base_of_an_authors_keeps_its_names_too_and_leaves_some() -> None:
    class Sensor(Device, leaves=("measure",)):
        def start(self) -> None:
            self.last = 0

        def measure(self) -> int: ...  # type: ignore[empty-body]
        def calibrate(self) -> None: ...

    class Good(Sensor):
        def start(self) -> None:
            super().start()
            self.limit = self.last

        def measure(self) -> int:
            return 1

    for members in ({"calibrate": 1}, {"last": 1}):
        with pytest.raises(TypeError, match="Sensor has this name for itself"):
            type("Bad", (Good,), members)
