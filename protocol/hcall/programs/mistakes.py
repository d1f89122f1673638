"""What a person got wrong, as errors that a library may raise: no exit codes; `command.explain` knows which each is."""

from __future__ import annotations

from collections.abc import Iterable


class BadConfiguration(ValueError):
    """A machine file, a model or what was handed over cannot be used: *lines*, one for each mistake."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


class BadRequest(ValueError):
    """What is asked for does not exist, or not in this way."""


class InUse(OSError):
    """What is asked for is somebody else's, for now."""
