"""docs/protocol.md and the pages that belong to it: every requirement has a number, and a test that names it."""

from __future__ import annotations

import ast
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "docs" / "protocol.md",
    *sorted(ROOT.glob("docs/protocol/*.md")),
    *sorted(ROOT.glob("docs/devices/*.md")),
]
NUMBER = re.compile(r"\[([A-Z]+-\d+)\]")
REQUIREMENT = re.compile(r"^- \*\*\[([A-Z]+-\d+)\]\*\* \S", re.M)


def requirements() -> list[str]:
    """The numbers of all requirements, where they stand."""
    return [number for page in PAGES for number in REQUIREMENT.findall(page.read_text())]


def named_by_tests() -> Iterator[tuple[str, str]]:
    """(number, test) of each `@pytest.mark.spec(...)` on a test."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for mark in (mark for decorator in node.decorator_list for mark in ast.walk(decorator)):
                if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Attribute) and mark.func.attr == "spec":
                    assert node.name.startswith("test_"), f"{path.name}: {node.name} is no test"
                    for number in mark.args:
                        assert isinstance(number, ast.Constant) and isinstance(number.value, str)
                        yield number.value, f"{path.relative_to(ROOT)}: {node.name}"


def named_by_vectors() -> Iterator[tuple[str, str]]:
    """(number, vector) of all vectors, which test_vectors.py runs."""
    for path in sorted((ROOT / "protocol" / "vectors").glob("*.json")):
        for vector in json.loads(path.read_text())["vectors"]:
            for number in vector["requirements"]:
                yield number, f"{path.name}: {vector['name']}"


def test_every_requirement_has_a_test_and_every_number_that_is_named_exists() -> None:
    named = defaultdict(list)
    for number, where in [*named_by_tests(), *named_by_vectors()]:
        named[number].append(where)
    there = requirements()
    assert not (untested := [number for number in there if number not in named]), f"no test names {untested}"
    unknown = {number: where for number, where in named.items() if number not in there}
    assert not unknown, f"there is no such requirement: {unknown}"


def test_numbers_are_given_once_and_in_their_order() -> None:
    there = requirements()
    assert [number for number, count in Counter(there).items() if count > 1] == []
    by_section = defaultdict(list)
    for number in there:
        section, _, of_it = number.partition("-")
        by_section[section].append(int(of_it))
    assert {section: numbers for section, numbers in by_section.items() if numbers != sorted(numbers)} == {}
    assert {section: numbers for section, numbers in by_section.items() if numbers[-1] != len(numbers)} == {}


def test_what_a_page_refers_to_exists() -> None:
    there = set(requirements())
    for page in PAGES:
        assert set(NUMBER.findall(page.read_text())) <= there, page.name


def test_what_must_be_has_a_number() -> None:
    """MUST, SHOULD and MAY stand in numbered requirements only."""
    for page in PAGES:
        for block in re.split(r"\n(?=- )|\n\s*\n", page.read_text()):
            if re.search(r"\b(MUST|SHOULD|MAY|SHALL|REQUIRED)\b", block) and "RFC 2119" not in block:
                assert REQUIREMENT.match(block), f"{page.name}: {block}"


def test_links_lead_somewhere() -> None:
    for page in [*PAGES, ROOT / "protocol" / "vectors" / "README.md"]:
        for target in re.findall(r"\]\(([^)#\s]*)(?:#[\w-]*)?\)", page.read_text()):
            if target and "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_anchors_are_headings() -> None:
    def anchors(page: Path) -> set[str]:
        headings = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
        return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    for page in PAGES:
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#([\w-]+)\)", page.read_text()):
            if "://" not in target:
                assert anchor in anchors((page.parent / target) if target else page), f"{page.name}: {target}#{anchor}"
