"""What a line at the prompt is made of, and how values look there."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from hcall.programs.command import Exit, Failure
from hcall.text import harmless, shown

_PIECE: Final = re.compile(r""" "((?:[^"\\]|\\.)*)" | '([^']*)' | ((?:[^\s"'\\]|\\.?)+) """, re.VERBOSE)
_FLOAT: Final = re.compile(r"[+-]?\d+(\.\d+([eE][+-]?\d+)?|[eE][+-]?\d+)")
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}  # \ and another character is that character


class Word(NamedTuple):
    """A word of a line."""

    text: str
    quoted: bool = False  # it begins with a quote: a string, whatever it looks like


def split(line: str) -> list[Word]:
    r"""The words of *line*: quotes as in a shell, \n \r \t but in single ones; `\ ` or a # in front is a comment."""
    words: list[Word] = []
    line = line.strip()
    end = 0 if line.startswith("#") else len(line)
    at = 0
    while at < end:
        start, text = at, ""
        if line[at] == "\\" and line[at + 1 : at + 2].strip() == "":
            break
        while piece := _PIECE.match(line, at):
            double, single, bare = piece.groups()
            text += single if single is not None else re.sub(r"\\(.)", _unescape, double if bare is None else bare)
            at = piece.end()
        if at < end and not line[at].isspace():
            raise Failure(f"the quote {line[at:]} does not end", Exit.USAGE)
        words.append(Word(text, line[start] in "\"'"))
        while at < end and line[at].isspace():
            at += 1
    return words


def _unescape(found: re.Match[str]) -> str:
    return _ESCAPES.get(found[1], found[1])


def value_of(word: Word) -> object:
    """What *word* is as an argument: a number, true or false, `hex:` bytes, else, or after `str:`, a string."""
    text = word.text
    if word.quoted:
        return text
    if text in ("true", "false"):
        return text == "true"
    if text.startswith("hex:"):
        return bytes_of(word)
    if _FLOAT.fullmatch(text):
        return float(text)
    with contextlib.suppress(ValueError):
        return int(text, 0)
    return text.removeprefix("str:")


def bytes_of(word: Word) -> bytes:
    """What *word* is as data: `hex:` bytes, else the text."""
    if word.quoted or not word.text.startswith("hex:"):
        return word.text.encode()
    try:
        return bytes.fromhex(word.text[4:])
    except ValueError:
        raise Failure(f"{word.text}: two hex digits for each byte", Exit.USAGE) from None


def count_of(text: str) -> int:
    """*text* as a whole number, 0 or more."""
    with contextlib.suppress(ValueError):
        if (number := int(text, 0)) >= 0:
            return number
    raise Failure(f"{text!r} is no whole number, 0 or more", Exit.USAGE)


def seconds_of(text: str) -> float:
    """*text* as a time, 0 or more."""
    with contextlib.suppress(ValueError):
        if (number := float(text)) >= 0:
            return number
    raise Failure(f"{text!r} is no number of seconds", Exit.USAGE)


def hexdump(data: bytes, at: int = 0) -> Iterator[str]:
    """Lines as xxd has them; *at* is the address of the first byte."""
    for start in range(0, len(data), 16):
        row = data[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{at + start:08x}: {row.hex(' ', -2):39}  {text}"


def printable(data: bytes) -> str:
    """*data* as text that does nothing to a terminal."""
    return harmless(data.decode(errors="backslashreplace").replace("\r\n", "\n"))


def with_hex(value: object) -> str:
    """A property's value: a number is shown both ways."""
    return f"{value} ({value:#x})" if type(value) is int and value > 9 else shown(value)
