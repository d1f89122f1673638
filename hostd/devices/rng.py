"""Entropy."""

import hashlib
import os

from hostd.device import Config, Device, Property, Room, State

_AT_ONCE = 16 * 1024  # bytes: 40 us; other guests wait meanwhile
_PIECES = 8  # of a room that is scattered: a page that is not there takes up to 80 us
_BLOCK = 64  # bytes of SHA-512


class Rng(Device):
    """The host kernel's CSPRNG.  A read may be short; it never gives nothing."""

    compatible, ids, shared = "hostd,rng", (0x1AF4, 0x1044), True
    class_code = 0x100000  # encryption
    seed = Config(str, "", help="for replay only: the same bytes again after each reset; empty: real entropy")
    seeded = Property(bool)
    _given = State(int)  # bytes of the seeded sequence

    def start(self) -> None:
        self.seeded = bool(self.seed)

    def read(self, into: Room, at: int) -> int:
        wanted = into.nbytes if len(into) <= _PIECES else sum(map(len, into[:_PIECES])) or into.nbytes
        count = wanted if wanted <= _AT_ONCE else _AT_ONCE
        return into.put(self._replayed(count) if self.seed else os.urandom(count))

    def _replayed(self, count: int) -> bytes:
        """The next *count* bytes of SHA-512(seed, n) for n = 0, 1, ...; n has 64 bits, the lowest first."""
        first, skip = divmod(self._given, _BLOCK)
        self._given += count
        last = -(-self._given // _BLOCK)
        blocks = (hashlib.sha512(self.seed.encode() + n.to_bytes(8, "little")).digest() for n in range(first, last))
        return b"".join(blocks)[skip : skip + count]
