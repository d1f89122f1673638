"""Words for people: what fits the wire, what does nothing to a terminal, and sizes and counts as they are said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.text import MAX_TEXT, counted, cut, harmless, nearest, shown, sized, suggest

SIZES = {0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 64 << 20: "64 MiB", 5 << 50: "5120 TiB"}


@pytest.mark.parametrize(("count", "text"), SIZES.items())
def test_bytes_for_people(count: int, text: str) -> None:
    assert sized(count) == text


def test_one_is_no_plural() -> None:
    assert [counted(n, "device") for n in (0, 1, 2)] == ["0 devices", "1 device", "2 devices"]


def test_a_truth_is_shown_as_a_machine_file_has_it() -> None:
    assert shown([True, False, 1, "True"]) == "true, false, 1, True"


def test_bytes_are_shown_in_hex_and_text_on_one_line() -> None:
    assert shown((b"\x00\xff", "two\nlines")) == "00 ff, two\\nlines"


def test_a_near_word_is_suggested_and_no_other() -> None:
    words = ("serial", "disk")
    assert nearest("seral", words) == "serial" and suggest("seral", words) == " (did you mean 'serial'?)"
    assert nearest("device-nunber-17", map("device-number-{}".format, range(100))) == "device-number-17"
    assert nearest("evice-number-17", map("device-number-{}".format, range(100))) == "device-number-17"
    assert nearest("x" * 65, ["x" * 64]) is None  # nobody mistypes that
    assert nearest("mouse", words) is None and suggest("mouse", words) == ""


@given(st.text())
def test_what_is_harmless_has_no_control_character_but_those_that_are_kept(text: str) -> None:
    said = harmless(text)
    assert all(c.isprintable() or c in "\n\t" for c in said) and harmless(said) == said
    assert said == text or not all(c.isprintable() or c in "\n\t" for c in text)


@given(st.text(max_size=300))
def test_what_is_cut_is_a_head_that_fits_the_wire(text: str) -> None:
    said = cut(text)
    assert text.startswith(said) and len(said.encode()) <= MAX_TEXT
    assert said == text or len((said + text[len(said)]).encode()) > MAX_TEXT


def test_a_surrogate_is_cut_too_or_said_otherwise() -> None:
    assert cut("x" * MAX_TEXT + "\udc80") == "x" * MAX_TEXT
    assert cut("half \udc80") == "half ?"  # it is short, but no UTF-8
