"""Whoever reads a trace, at his own pace: what he has no room for is counted, and nobody waits for him."""

from __future__ import annotations

import asyncio
from typing import Final

EVENTS: Final = 16_384  # that wait for one reader
SIZE: Final = 4 << 20  # bytes of them: a terminal that stands still costs no more


class Reader:
    """Lines that wait to be read."""

    def __init__(self, device: str | None = None, events: int = EVENTS, size: int = SIZE) -> None:
        """Of the device at that path, and below it; None is all.  At most *events* lines of *size* bytes wait."""
        self.device, self._events, self._most = device, events, size
        self._lines: list[bytes] = []
        self._size = 0
        self.lost = 0  # events since the last line; then none fits until all is taken
        self.ready = asyncio.Event()  # there is something to take, or `end`

    def wants(self, device: str | None) -> bool:
        """Whether what happens at the path *device* is for this reader."""
        own = self.device
        return own is None or (device is not None and (device == own or device.startswith(f"{own.rstrip('/')}/")))

    def put(self, line: bytes) -> None:
        """One more line, if there is room."""
        size = self._size + len(line)
        if self.lost or len(self._lines) >= self._events or size > self._most:
            self.lost += 1
        else:
            self._lines.append(line)
            self._size = size
        if not self.ready.is_set():
            self.ready.set()

    def take(self) -> bytes:
        """All that waits; after it, how many lines there were that it had no room for."""
        if self.lost:
            self._lines.append(b'{"event":"lost","count":%d}' % self.lost)
        taken = b"\n".join(self._lines) + b"\n" if self._lines else b""
        self._lines, self._size, self.lost = [], 0, 0
        self.ready.clear()
        return taken
