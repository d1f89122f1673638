"""The notation of protocol/vectors: bytes, values and patterns.  Knows msgpack from its specification alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[2] / "protocol" / "vectors"
_TOKEN: Final = re.compile(r"<([^>]+)>|([0-9a-f]{2})(?:\*(\d+))?(?= |$)| +")
_FIXED: Final = {0xC0: 0, 0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8, 0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8, 0xD0: 1, 0xD1: 2,
                 0xD2: 4, 0xD3: 8}  # fmt: skip
_SIZED: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bytes of the length
_NESTED: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # of the count; values for each


class Unfinished(Exception):
    """The bytes end within a value."""


def load(file: str) -> list[dict[str, Any]]:
    """The vectors of a file."""
    return list(json.loads((FOLDER / file).read_text())["vectors"])


def tokens(text: str) -> list[bytes | str]:
    """Bytes, and the names between `<` and `>`."""
    found: list[bytes | str] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None, f"no notation: {text[at : at + 20]!r}"
        at = match.end()
        if match[1]:
            found.append(match[1])
        elif match[2]:
            found.append(bytes.fromhex(match[2]) * int(match[3] or 1))
    return found


def data(text: str, names: dict[str, bytes] | None = None) -> bytes:
    """The bytes of *text*; what *names* has stands for names."""
    return b"".join(token if isinstance(token, bytes) else (names or {})[token] for token in tokens(text))


def value(noted: Any) -> Any:
    """A value, as it comes out of a decoder: tuples for arrays."""
    if isinstance(noted, list):
        return tuple(map(value, noted))
    if not isinstance(noted, dict):
        return noted
    ((kind, inner),) = noted.items()
    match kind:
        case "int":
            return int(inner)
        case "float":
            return float(inner)
        case "bytes":
            return data(inner)
        case "str":
            return data(inner).decode()
        case "map":
            return {value(key): value(item) for key, item in inner}
    raise AssertionError(f"no value: {noted}")


def end(message: bytes, at: int = 0) -> int:
    """Where the value ends that begins at *at*.  Raises Unfinished."""
    waiting = 1
    while waiting:
        if at >= len(message):
            raise Unfinished
        waiting -= 1
        kind = message[at]
        at += 1
        if 0x80 <= kind <= 0x9F:
            waiting += (kind & 15) * (2 if kind < 0x90 else 1)
        elif 0xA0 <= kind <= 0xBF:
            at += kind & 31
        elif kind in _FIXED:
            at += _FIXED[kind]
        elif kind in _SIZED:
            size = _SIZED[kind]
            at += size + int.from_bytes(message[at : at + size])
        elif kind in _NESTED:
            size, each = _NESTED[kind]
            waiting += int.from_bytes(message[at : at + size]) * each
            at += size
        else:
            assert kind <= 0x7F or kind >= 0xE0, f"{kind:#x} is no value of this protocol"
    if at > len(message):
        raise Unfinished
    return at


def matches(pattern: str, message: bytes, names: dict[str, bytes]) -> bool:
    """Whether *message* is what *pattern* says; if so, *names* has what stood in the place of new names."""
    at, new = 0, dict(names)
    for token in tokens(pattern):
        if isinstance(token, bytes):
            following = at + len(token)
            if message[at:following] != token:
                return False
        else:
            following = end(message, at)
            if token != "any" and new.setdefault(token, message[at:following]) != message[at:following]:
                return False
        at = following
    if at != len(message):
        return False
    names.update(new)
    return True
