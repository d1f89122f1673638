"""What took longer than a turn: the others waited meanwhile, and whoever looks at `hostd status` sees what for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

TURN_SECONDS: Final = 0.005  # a turn, and some time for what else goes on in the machine
_KNOWN: Final = 64  # names that are told apart; all others are one
_OTHERS: Final = "others"


@dataclass(slots=True)
class LongCalls:
    """Of one device, or of the core: calls, hooks and callbacks, by their names."""

    by_name: dict[str, tuple[int, float]] = field(default_factory=dict)  # how many, and the longest, in seconds

    def note(self, name: str, seconds: float) -> None:
        """*name* took so many *seconds*: it counts if that is longer than a turn."""
        if seconds > TURN_SECONDS:
            if name not in self.by_name and len(self.by_name) >= _KNOWN:
                name = _OTHERS
            count, longest = self.by_name.get(name, (0, 0.0))
            self.by_name[name] = count + 1, max(longest, seconds)
