"""A device tree as firmware hands it over: flattened (a dtb, version 17) and as text (dts), no I/O.

After the Devicetree Specification 0.4, chapters 2.2 (names, values), 5 (flattened) and 6 (text).  All numbers are
big-endian.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from struct import Struct
from struct import error as StructError
from typing import Final, TypeAlias

from hcall.errors import BadArgument

_MAGIC: Final = 0xD00DFEED
_VERSION: Final = 17
_COMPATIBLE: Final = 16  # who reads that version can read this one
_HEADER: Final = Struct(">10I")
_WORD: Final = Struct(">I")
_PROPERTY: Final = Struct(">II")  # length, where its name is among the strings
_RESERVED: Final = bytes(16)  # the end of the memory that is reserved: there is none
_BEGIN, _END, _PROP, _NOP, _LAST = 1, 2, 3, 4, 9
_DEEPEST: Final = 64  # nodes in one another that are read
_CELL: Final = 1 << 32
_NAME: Final = re.compile(r"[0-9a-zA-Z,._+*#?@-]+")
_PLAIN: Final = re.compile(r"[ !#-\[\]-~]*")  # what a text may have as it stands

#: What a property is: nothing (it is there), cells of 32 bits, or of 64, texts, or bytes.
Value: TypeAlias = int | str | bytes | tuple[int, ...] | tuple[str, ...] | None


@dataclass
class Node:
    """A node; the root's name is "" and in no path."""

    name: str = ""
    properties: Mapping[str, Value] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)


def value_bytes(value: Value) -> bytes:
    """*value* as a property has it.  Raises BadArgument for a number of more than 64 bits."""
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    values = value if isinstance(value, tuple) else (value,)
    if all(isinstance(each, str) for each in values):
        return b"".join(each.encode(errors="backslashreplace") + b"\0" for each in values if isinstance(each, str))
    try:
        size = _cell_bytes(values)
        return b"".join(int(each).to_bytes(size, "big", signed=each < 0) for each in _numbers(values))
    except OverflowError:
        raise BadArgument("a property of a device tree has numbers of 64 bits at most") from None


def pack(root: Node) -> bytes:
    """*root* and all below it, flattened.  Raises BadArgument for a name that cannot be, and as `value_bytes`."""
    names: dict[str, int] = {}  # of properties, and where each is among the strings
    strings, body = bytearray(), bytearray()
    for step in _steps(root):
        if isinstance(step, Node):
            body += _WORD.pack(_BEGIN) + _padded(step.name.encode() + b"\0")
            for name, value in step.properties.items():
                if name not in names:
                    names[name] = len(strings)
                    strings += _checked(name).encode() + b"\0"
                data = value_bytes(value)
                body += _WORD.pack(_PROP) + _PROPERTY.pack(len(data), names[name]) + _padded(data)
        else:
            body += _WORD.pack(_END)
    body += _WORD.pack(_LAST)
    start = _HEADER.size + len(_RESERVED)
    header = _HEADER.pack(_MAGIC, start + len(body) + len(strings), start, start + len(body), _HEADER.size, _VERSION,
                          _COMPATIBLE, 0, len(strings), len(body))  # fmt: skip
    return header + _RESERVED + body + strings


def parse(data: bytes) -> Node:
    """The tree that *data* is; all values are bytes.  Raises BadArgument, whatever it is instead."""
    try:
        return _parse(data)
    except (StructError, ValueError, IndexError) as error:
        raise BadArgument(f"this is no flattened device tree: {error}") from None


def text(root: Node) -> str:
    """The same as `pack`, as a source that dtc compiles to that.  Raises BadArgument as it does."""
    lines, depth = ["/dts-v1/;", ""], 0
    for step in _steps(root):
        if isinstance(step, Node):
            lines.append("\t" * depth + f"{step.name or '/'} {{")
            depth += 1
            for name, value in step.properties.items():
                shown = _shown(value)
                lines.append("\t" * depth + _checked(name) + (f" = {shown};" if shown else ";"))
        else:
            depth -= 1
            lines.append("\t" * depth + "};")
    return "\n".join(lines) + "\n"


def _parse(data: bytes) -> Node:
    magic, size, structure, strings, _, version, compatible, *_ = _HEADER.unpack_from(data)
    if magic != _MAGIC or size > len(data) or version < _VERSION or compatible > _VERSION:
        raise ValueError(f"magic {magic:#x}, version {version}, {size} of {len(data)} bytes")
    data, at = data[:size], structure
    above: list[Node] = [Node()]  # the nodes that are open, and what holds the root
    while True:
        (tag,) = _WORD.unpack_from(data, at)
        at += _WORD.size
        if tag == _BEGIN and len(above) <= _DEEPEST:
            name = _string(data, at)
            at += -(-(len(name) + 1) // 4) * 4
            node = Node(name, {})
            above[-1].children.append(node)
            above.append(node)
        elif tag == _PROP and len(above) > 1:
            length, place = _PROPERTY.unpack_from(data, at)
            at += _PROPERTY.size
            if at + length > len(data):
                raise ValueError("a property that is longer than the tree")
            above[-1].properties[_string(data, strings + place)] = data[at : at + length]  # type: ignore[index]
            at += -(-length // 4) * 4
        elif tag == _END and len(above) > 1:
            above.pop()
        elif tag == _LAST and len(above) == 1:
            (root,) = above[0].children
            return root
        elif tag != _NOP:
            raise ValueError(f"the tag {tag} does not belong where it is, {at - _WORD.size}")


def _steps(root: Node) -> Iterator[Node | None]:
    """Each node where it begins, and None where one ends."""
    left: list[Node | None] = [root]
    while left:
        node = left.pop()
        if node is not None:
            if node is not root:
                _checked(node.name)
            left.append(None)
            left += reversed(node.children)
        yield node


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadArgument(f"{name!r} is no name in a device tree: letters, digits and ,._+*#?@-")
    return name


def _string(data: bytes, at: int) -> str:
    return data[at : data.index(b"\0", at)].decode()


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _numbers(values: tuple[int, ...] | tuple[str, ...] | tuple[int | str, ...]) -> Iterator[int]:
    for each in values:
        if not isinstance(each, int):
            raise BadArgument("a property of a device tree is numbers or texts, not both")
        yield each


def _cell_bytes(values: tuple[int | str, ...]) -> int:
    """4, or 8 if one of them has more than 32 bits; a negative one has 64."""
    return 4 if all(0 <= each < _CELL for each in _numbers(values)) else 8


def _shown(value: Value) -> str:
    """The value as dtc reads it, "" for none."""
    data = value_bytes(value)
    if value is None or not data:
        return ""
    if isinstance(value, bytes):
        return f"[{data.hex(' ')}]"
    values = value if isinstance(value, tuple) else (value,)
    if all(isinstance(each, str) for each in values):
        return ", ".join(_quoted(each) for each in data[:-1].split(b"\0"))
    size = _cell_bytes(values)
    cells = " ".join(f"0x{int.from_bytes(data[at : at + size], 'big'):x}" for at in range(0, len(data), size))
    return f"<{cells}>" if size == _WORD.size else f"/bits/ 64 <{cells}>"


def _quoted(text: bytes) -> str:
    return '"' + "".join(chr(c) if _PLAIN.fullmatch(chr(c)) else f"\\x{c:02x}" for c in text) + '"'
