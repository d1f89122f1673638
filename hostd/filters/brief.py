"""Values of calls as a trace shows them: short, of what JSON has, and nothing of them is the guest's or the model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from hcall.text import cut

TEXT: Final = 64  # characters of a text
BYTES: Final = 16  # of bytes, the first ones
ITEMS: Final = 8  # of an array or a map
LEVELS: Final = 4  # of them in one another
_LOWEST, _HIGHEST = -(1 << 63), (1 << 64) - 1  # what the wire carries


def brief(value: Any, levels: int = LEVELS) -> object:
    """*value*, cut where it is long.  Never raises, whatever it is.

    Bytes are `{"bytes": how many, "hex": the first BYTES}`; "..." stands where text, items or levels were left out.
    """
    kind: Any = type(value)  # which cannot lie, as isinstance() lets a model's object
    if value is None or kind is bool or kind is float:
        return value
    if issubclass(kind, int):  # flags, too
        number = int.__index__(value)
        return number if _LOWEST <= number <= _HIGHEST else f"({number.bit_length()} bits)"
    if kind is bytes or kind is bytearray:
        return {"bytes": len(value), "hex": value[:BYTES].hex()}
    if issubclass(kind, str):
        return _text(str.__getitem__(value, slice(TEXT + 1)))
    if issubclass(kind, tuple) or kind is list:
        items = value[: ITEMS + 1] if kind is list else tuple.__getitem__(value, slice(ITEMS + 1))
        return _array(items, levels)
    if kind is dict:
        return _map(value, levels)
    return f"({kind.__name__})"


def _array(items: Sequence[object], levels: int) -> object:
    if not levels:
        return "..."
    short = [brief(item, levels - 1) for item in items[:ITEMS]]
    return [*short, "..."] if len(items) > ITEMS else short


def _text(text: str) -> str:
    return cut(text) if len(text) <= TEXT else f"{cut(text[:TEXT])}..."


def _map(value: dict[object, object], levels: int) -> object:
    if not levels:
        return "..."
    short: dict[str, object] = {}
    for key, item in value.items():
        if len(short) == ITEMS:
            short["..."] = "..."
            break
        short[_text(key) if type(key) is str else f"({type(key).__name__})"] = brief(item, levels - 1)
    return short
