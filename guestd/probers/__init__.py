"""Ways to find devices.  Each yields `Found`s, and knows nothing of how they are driven."""

from __future__ import annotations

from typing import Final

from hcall.programs.mistakes import BadRequest
from hcall.text import suggest

from . import ccw, claim, msg, pci, tree
from .found import Core, Datagrams, Found, Probe, Reach, absolute

__all__ = ["PROBERS", "Core", "Datagrams", "Found", "Probe", "Reach", "absolute", "named"]

#: By name, as `attach(prober=...)` and `guestd probe --prober` take it.
PROBERS: Final[dict[str, Probe]] = {
    "tree": tree.probe,
    "claim": claim.probe,
    "pci": pci.probe,
    "ccw": ccw.probe,
    "msg": msg.probe,
}  # fmt: skip


def named(name: str) -> Probe:
    """The prober *name*.  Raises BadRequest."""
    if name not in PROBERS:
        raise BadRequest(f"no prober {name!r}{suggest(name, PROBERS) or ': there is ' + ', '.join(PROBERS)}")
    return PROBERS[name]
