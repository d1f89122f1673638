"""docs/trace.md against what a trace writes: every event and every field, and the bounds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hcall.text import sized
from hostd.filters import brief, events, reader
from hostd.guests.guests import Came
from hostd.service import following

PAGE = (Path(__file__).parents[3] / "docs" / "trace.md").read_text()
SECTIONS = dict(re.findall(r"^### ([^\n]*)\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S))


def fields(kind: type[msgspec.Struct]) -> list[str]:
    return [name for name in kind.__struct_fields__ if name not in ("event", "time")]


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("`call`", events.Call),
        ("`answer`", events.Answer),
        ("`interrupt`", events.Interrupt),
        ("`plug`, `leaving`, `unplug`", events.Device),
        (", ".join(f"`{what.value}`" for what in Came), events.Guest),
    ],
)
def test_the_page_lists_the_fields_in_their_order(heading: str, kind: Any) -> None:
    assert re.findall(r"^\| `(\w+)` \|", SECTIONS[heading], re.M) == fields(kind)


def test_the_page_has_no_other_events() -> None:
    assert len(SECTIONS) == 6 and re.findall(r"^\| `(\w+)` \|", SECTIONS["`lost`"], re.M) == ["count"]


def test_the_page_has_the_bounds() -> None:
    text = " ".join(PAGE.split())
    assert f"{reader.EVENTS} events or {sized(reader.SIZE)} wait" in text
    assert f"for a file {following.EVENTS} or {sized(following.SIZE)}." in text
    assert f"the first {brief.BYTES} of them in hex" in text and f"at most {brief.TEXT} characters" in text
    assert f"{brief.ITEMS} items, {brief.LEVELS} levels deep" in text
