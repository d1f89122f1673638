"""What makes one life of a host different from all others: the one place where chance comes in.

Two hosts of one identity have the same epoch, and their devices draw the same: MAC addresses, magic numbers.
A host that goes on in another process has the handles of its tree, too.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable
from typing import Final

from hcall.saved import Saved

EPOCHS: Final = 0x7FFF  # 1 to so many: the upper bits of a handle


class Identity:
    """The epoch of a host, and what is random in it."""

    def __init__(self, seed: bytes | None = None, epoch: int | None = None, tree: Saved | None = None) -> None:
        """Chance decides what is not given; *tree* is what `Tree.save` gave.

        Raises ValueError for an epoch beyond 1 to 32767.
        """
        self.tree = tree
        self.seed = os.urandom(32) if seed is None else seed
        drawn = int.from_bytes(self.source("epoch")(8), "big") % EPOCHS + 1
        self.epoch = drawn if epoch is None else epoch
        if not 0 < self.epoch <= EPOCHS:
            raise ValueError(f"an epoch is 1 to {EPOCHS}, not {epoch}")

    @classmethod
    def heir(cls, saved: Saved) -> Identity:
        """Of a host that goes on where *saved* was taken, see `Host.save`: another life, with the handles of before."""
        return cls(saved["seed"], saved["epoch"] % EPOCHS + 1, saved["tree"])

    def source(self, place: str) -> Callable[[int], bytes]:
        """`source(count)` is so many bytes, never the same again, that nobody guesses who does not know the seed.

        *place* is who draws, such as the path of a device: what others draw changes nothing for it.
        """
        numbers = itertools.count()

        def draw(count: int) -> bytes:
            return hashlib.shake_256(b"\0".join((self.seed, place.encode(), b"%d" % next(numbers)))).digest(count)

        return draw
