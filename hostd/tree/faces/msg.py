"""The devices of a tree by number, as a bus of virtio-msg has them: 16 bits, and a bitmap of those that are there."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from hcall.formats.virtio_msg import DEVICES

from ..node import Node
from ..tree import Sees

_FIRST: Final = 1  # 0 is what messages of the bus have, and a mistake would not show


class Numbers:
    """Device numbers: the next one that was never used, then the one that has been free for the longest time.

    So 65,535 devices come, and most of them go again, before a number stands for another: whoever is that far behind
    with the events of the bus is not its guest any more.
    """

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}  # by number
        self._numbers: dict[int, int] = {}  # by node handle
        self._bitmap = bytearray(DEVICES // 8)
        self._free: deque[int] = deque()
        self._next = _FIRST

    def add(self, node: Node) -> int | None:
        """The number of *node*, which has a device; None if all are in use."""
        number = self._numbers.get(node.handle)
        if number is None:
            if self._next < DEVICES:
                number, self._next = self._next, self._next + 1
            elif self._free:
                number = self._free.popleft()
            else:
                return None
            self.nodes[number], self._numbers[node.handle] = node, number
            self._bitmap[number // 8] |= 1 << number % 8
        return number

    def number(self, node: Node) -> int | None:
        """That of *node*, if it has one."""
        return self._numbers.get(node.handle)

    def node(self, number: int) -> Node | None:
        """What is there."""
        node = self.nodes.get(number)
        return None if node is None or node.gone else node

    def remove(self, node: Node) -> None:
        """*node* has gone, and everybody was told."""
        number = self._numbers.pop(node.handle, None)
        if number is not None:
            del self.nodes[number]
            self._bitmap[number // 8] &= ~(1 << number % 8)
            self._free.append(number)

    def window(self, offset: int, length: int, sees: Sees | None) -> bytes:
        """A bit for each of *length* numbers from *offset* on, both multiples of 8: those that somebody *sees*."""
        bitmap = self._bitmap[offset // 8 : (offset + length) // 8]
        for number in self._within(bitmap, offset) if any(bitmap) else ():
            node = self.nodes[number]
            if node.gone or (sees is not None and not sees(node.path)):
                bitmap[(number - offset) // 8] &= ~(1 << number % 8)
        return bytes(bitmap)

    def after(self, offset: int) -> int:
        """The first multiple of 8 from *offset* on at or behind which there is a device; 0: there is none."""
        rest = self._bitmap[offset // 8 :].lstrip(b"\0")
        return DEVICES - 8 * len(rest) if rest else 0

    @staticmethod
    def _within(bitmap: bytearray, offset: int) -> Iterator[int]:
        for at, byte in enumerate(bytes(bitmap)):
            for bit in range(8) if byte else ():
                if byte >> bit & 1:
                    yield offset + 8 * at + bit
