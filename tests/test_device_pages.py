"""docs/devices against the models: each has a page, whose tables list what there is, all of it and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hostd.machine import models
from hostd.machine.description import describe

PAGES = Path(__file__).parents[1] / "docs" / "devices"
MODELS = models.names()
ROW = re.compile(r"^\| `([^`]+)` \|.*\S.* \|$", re.M)


def section(name: str, heading: str) -> str | None:
    """What stands below a heading of the page of a model."""
    text = (PAGES / f"{name}.md").read_text()
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    return found[1] if found else None


def rows(name: str, heading: str) -> list[str]:
    """The first column of a table; a section is left out if there is nothing to list."""
    text = section(name, heading)
    if text is None:
        return []
    found = ROW.findall(text)
    assert found and len(found) == len(re.findall(r"^\|", text, re.M)) - 2, f"{name}: a row of {heading} is none"
    return found


def test_there_is_a_page_for_each_model_and_no_other() -> None:
    assert sorted(path.stem for path in PAGES.glob("*.md")) == MODELS


@pytest.mark.parametrize("name", MODELS)
def test_a_page_lists_what_the_model_has(name: str) -> None:
    about = describe(models.load(name, Path()))
    assert rows(name, "Keys") == list(about["keys"])
    assert rows(name, "Properties") == list(about["properties"])
    assert rows(name, "Calls") == [handler["signature"] for handler in about["verbs"] + about["calls"]]
    assert rows(name, "Interrupts") == list(about["interrupts"])
    assert rows(name, "Features") == list(about["features"])
    assert rows(name, "Actions") == [action["signature"] for action in about["actions"]]


@pytest.mark.parametrize("name", MODELS)
def test_a_page_says_what_it_is_and_how_it_fails_and_shows_it(name: str) -> None:
    text = (PAGES / f"{name}.md").read_text()
    assert re.match(r"# \S.*\n\n[^#\n]", text), "a title, and a paragraph"
    assert f'model = "{name}"' in (section(name, "Machine file") or "")
    assert re.search(r"^\| \S", section(name, "Errors") or "", re.M)
    assert "```" in (section(name, "Example") or "")
