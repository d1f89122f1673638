"""What a guest knows of the places where it has bound a driver before: it need not ask for that again."""

from __future__ import annotations

from typing import Final

from ..probers import Found

_MANY: Final = 256  # that are remembered


class Places:
    """The nodes of paths, and what their devices offered: what was so the last time, and may be no more."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[str, tuple[Found, int | None]] = {}  # by path: the node, and the feature bits

    def at(self, path: str) -> Found | None:
        """The node that was at *path*."""
        known = self._known.get(path)
        return None if known is None else known[0]

    def offered(self, found: Found) -> int | None:
        """The feature bits that the device of *found* has offered; None, if that is not known."""
        known = self._known.get(found.path)
        return None if known is None or known[0].node != found.node else known[1]

    def note(self, found: Found, offered: int | None) -> None:
        """The device of *found* offers these feature bits, None if it was not asked."""
        if found.path not in self._known and len(self._known) == _MANY:
            del self._known[next(iter(self._known))]
        self._known[found.path] = found, offered
