"""The caps on what guests can make the host hold: `[limits]` of the machine file."""

from __future__ import annotations

import msgspec
from hcall.messages import SLOTS


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All are per guest, but for *guests*."""

    guests: int = 2048
    slots: int = SLOTS  # calls at once
    handles: int = 1024  # devices open at once
    regions: int = 16  # of memory
    memory: int = 4 << 30  # bytes
    queued: int = 1 << 20  # bytes to a guest that does not read
