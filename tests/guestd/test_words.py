"""The words of a line at the prompt, the values that they stand for, and how values look."""

from __future__ import annotations

import pytest
from at_prompt import undumped

from guestd.shell.words import Word, hexdump, split, value_of, with_hex
from hcall.programs.command import Exit, Failure


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", []),
        ("   ", []),
        ("# don't", []),
        ("  # don't", []),
        ("\\ don't", []),
        ("\\", []),
        ("read 16 \\ don't", ["read", "16"]),
        (" a\tb  c ", ["a", "b", "c"]),
        ("a 'two words' b", ["a", "two words", "b"]),
        ('data:"two words"!', ["data:two words!"]),
        (r"""a\nb "c\td" 'e\nf' g\\h "\"" \'""", ["a\nb", "c\td", r"e\nf", r"g\h", '"', "'"]),
        ("'' \"\"", ["", ""]),
        ("a#b c\\ d", ["a#b", "c d"]),
        ("end\\", ["end\\"]),
    ],
)
def test_a_line_is_split_as_a_shell_does_it(line: str, words: list[str]) -> None:
    assert [word.text for word in split(line)] == words


@pytest.mark.parametrize("line", ['"open', "it's", 'a "b" "c'])
def test_a_quote_that_does_not_end_is_a_mistake(line: str) -> None:
    with pytest.raises(Failure, match="does not end") as caught:
        split(line)
    assert caught.value.code == Exit.USAGE


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("10", 10), ("0x1f", 31), ("-3", -3), ("1.5", 1.5), ("-2.5e3", -2500.0), ("true", True), ("false", False),
        ("hex:0102fF", b"\1\2\xff"), ("hex:", b""), ("text", "text"), ("str:10", "10"), ("str:true", "true"),
        ('"10"', "10"), ("'true'", "true"), ("'hex:01'", "hex:01"), ("1.2.3", "1.2.3"), ("nan", "nan"), ("-", "-"),
    ],
)  # fmt: skip
def test_a_word_is_the_value_that_it_looks_like(word: str, value: object) -> None:
    (only,) = split(word)
    found = value_of(only)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("word", ["hex:0", "hex:xy", "hex:01 0g"])
def test_bytes_that_are_none_are_a_mistake(word: str) -> None:
    with pytest.raises(Failure, match="hex digits"):
        value_of(Word(word))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 32, 256])
def test_a_hex_dump_has_all_bytes_their_addresses_and_their_text(size: int) -> None:
    data = bytes(range(256))[256 - size :]
    assert undumped("\n".join(hexdump(data, 0x1230))) == (0x1230 if size else 0, data)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9, "9"),
        (10, "10 (0xa)"),
        (True, "true"),
        ("disk", "disk"),
        (b"\1\xff", "01 ff"),
        ((10, ("a", False)), "10, a, false"),
    ],
)
def test_a_property_is_shown_as_people_read_it(value: object, text: str) -> None:
    assert with_hex(value) == text
