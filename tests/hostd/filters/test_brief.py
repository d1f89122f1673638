"""What a trace shows of a value: short, of what JSON has, whatever the value is."""

from __future__ import annotations

import enum
import sys
from typing import NamedTuple

import msgspec
import pytest

from hostd.filters.brief import BYTES, ITEMS, TEXT, brief


class Bits(enum.IntFlag):
    ONE = 1


class Pair(NamedTuple):
    a: int
    b: str


class Word(str):
    """Of a model's own."""

    def __getattribute__(self, name: str) -> object:
        raise RuntimeError

    def __len__(self) -> int:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None), (True, True), (1.5, 1.5), (0, 0), ((1 << 64) - 1, (1 << 64) - 1), (Bits.ONE, 1),
        (1 << 64, "(65 bits)"), (1 << 13000, "(13001 bits)"),
        ("text", "text"), ("x" * TEXT, "x" * TEXT), ("x" * (TEXT + 1), "x" * TEXT + "..."), ("\udc80", "?"),
        (b"ab", {"bytes": 2, "hex": "6162"}), (bytearray(b"ab"), {"bytes": 2, "hex": "6162"}),
        (bytes(4096), {"bytes": 4096, "hex": "00" * BYTES}),
        (Pair(1, "b"), [1, "b"]), ([], []), (tuple(range(ITEMS + 1)), [*range(ITEMS), "..."]),
        ((((((1,),),),),), [[[["..."]]]]), ({"k": {"k": {"k": {"k": {}}}}}, {"k": {"k": {"k": {"k": "..."}}}}),
        ({b"k": 1}, {"(bytes)": 1}), ({str(n): n for n in range(20)}, {str(n): n for n in range(8)} | {"...": "..."}),
        (object(), "(object)"), (memoryview(b"x"), "(memoryview)"),
    ],
)  # fmt: skip
def test_a_value_is_shown_so(value: object, shown: object) -> None:
    assert brief(value) == shown
    assert msgspec.json.decode(msgspec.json.encode(brief(value))) == shown


def test_a_value_is_never_kept() -> None:
    for value in (bytes(100), bytearray(100), [bytes(100)], {"k": bytes(100)}):
        before = sys.getrefcount(value)
        kept = brief(value)
        assert sys.getrefcount(value) == before and kept is not value


def test_what_a_model_has_made_up_cannot_do_anything() -> None:
    assert brief(Word("x" * 100)) == "x" * TEXT + "..."
