"""The calls of class 0, the core: a function each, in files by what they are about.

A function takes the guest's `Account`, the handle of the body, and arguments of the types that it is annotated with; it
answers, raises an HcallError, or returns a `Later`, as a model does.
"""

from __future__ import annotations

from . import ccw, claim, holds, lending, listing, nodes, pci, rings
from .registry import CORE

__all__ = ["CORE", "ccw", "claim", "holds", "lending", "listing", "nodes", "pci", "rings"]
