"""Words for people: what they may have meant, how much it is, and nothing that does more than to be read."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

MAX_TEXT: Final = 256  # bytes of one string of the wire
_LONGEST: Final = 64  # characters of a word that somebody mistyped
_KNOWN: Final = 512  # words that are looked at
_COMPARED: Final = 8  # in each of two ways


def suggest(word: str, words: Iterable[str]) -> str:
    """` (did you mean 'x'?)` if one of *words* is near *word*, else nothing."""
    near = nearest(word, words)
    return f" (did you mean {near!r}?)" if near else ""


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The one of *words* that somebody may have meant who wrote *word*.

    Few are compared, which takes 60 us each: those that begin, and those that end, as *word* does, as far as can be.
    """
    import difflib

    if len(word) > _LONGEST:
        return None
    known = list(itertools.islice(words, _KNOWN))
    likely = _narrowed(known, [word[:end] for end in range(1, len(word))], str.startswith)
    likely += _narrowed(known, [word[start:] for start in range(len(word) - 1, 0, -1)], str.endswith)
    return next(iter(difflib.get_close_matches(word, likely, 1)), None)


def _narrowed(words: list[str], pieces: list[str], fits: Callable[[str, str], bool]) -> list[str]:
    """A few of *words*: those that fit as many of *pieces* as leaves any, and no more of them than are compared."""
    for piece in pieces:
        if len(words) <= _COMPARED:
            break
        words = [word for word in words if fits(word, piece)] or words[:_COMPARED]
    return words[:_COMPARED]


def counted(number: int, noun: str) -> str:
    """`1 device`, `2 devices`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def sized(count: int) -> str:
    """So many bytes, for people: `64 MiB`."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(max(count.bit_length() - 1, 0) // 10, len(units) - 1)
    return f"{count / 1024**power:.4g} {units[power]}"


def shown(value: Any) -> str:
    """A property's value for people, as they would write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return value.hex(" ")
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    return harmless(str(value), "")  # which may have come from the peer


def json_of(value: Any) -> Iterator[str]:
    """*value* as JSON, in pieces that take no time: bytes in hex, null for a number that is none (NaN, an infinity).

    Raises TypeError for what JSON has not, RecursionError for what is too deep.
    """
    if isinstance(value, dict):
        before = "{"
        for key, each in list(value.items()):  # it may be a model's own, which goes on
            yield f"{before}{json.dumps({key: 0})[1:-4]}: "
            yield from json_of(each)
            before = ", "
        yield "}" if before == ", " else "{}"
    elif isinstance(value, list | tuple):
        before = "["
        for each in list(value):
            yield before
            yield from json_of(each)
            before = ", "
        yield "]" if before == ", " else "[]"
    elif isinstance(value, float) and not math.isfinite(value):
        yield "null"
    else:
        yield json.dumps(value.hex() if isinstance(value, bytes) else value)


def harmless(text: str, keep: str = "\n\t") -> str:
    """*text* so that it does nothing to a terminal, but for the control characters in *keep*."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def cut(text: str) -> str:
    """*text*, as much as one string of the wire holds, with "?" for what UTF-8 has not: half of a surrogate pair."""
    if text.isascii():
        return text[:MAX_TEXT]
    return text.encode(errors="replace")[:MAX_TEXT].decode(errors="ignore")


def sentence(error: BaseException) -> str:
    """`str()` of *error*; nothing if its class, which may be an author's own, cannot say it."""
    try:
        return str(error)
    except BaseException:  # it may do anything: sys.exit(), too
        return ""


def reason(error: OSError) -> str:
    """Its `strerror`, without a file; nothing if it has none, or its class cannot say it."""
    try:
        text: object = error.strerror
    except BaseException:
        return ""
    return text if isinstance(text, str) else ""


def named(error: BaseException) -> str:
    """`ValueError: what it says`."""
    return f"{type(error).__name__}: {sentence(error)}".removesuffix(": ")
