"""Driver of the disk."""

from guestd.driver import Driver, Op, Signal


class BlockDriver(Driver):
    """Reads and writes any byte range; each is done whole, or fails."""

    compatible = ("hostd,block",)
    wants = ("RO", "FLUSH", "DISCARD", "WRITE_ZEROES")
    discard = Op[[int, int], None]()  # at, length: the content no longer matters
    write_zeroes = Op[[int, int], None]()  # at, length
    resized = Signal()

    capacity: int  # bytes, when it was last looked at

    async def probe(self) -> None:
        await self.look()

    async def look(self) -> int:
        """The capacity as it is now, in bytes: after `resized`, too."""
        self.capacity = await self.dev.property("capacity")
        return self.capacity

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""
        return "RO" in self.dev.features

    async def load(self, count: int, at: int = 0) -> bytes:
        """*count* bytes from *at*, through guest memory: as fast as the device goes."""
        with self.dev.ram.alloc(min(count, _CHUNK)) as buffer:
            pieces = []
            for start in range(0, count, _CHUNK):
                size = min(_CHUNK, count - start)
                await self.read_into(buffer.part(size), at + start)
                pieces.append(bytes(buffer.view[:size]))
            return b"".join(pieces)

    async def store(self, data: bytes, at: int = 0) -> None:
        """Write all of *data* from *at*, through guest memory."""
        with self.dev.ram.alloc(min(len(data), _CHUNK)) as buffer:
            for start in range(0, len(data), _CHUNK):
                piece = data[start : start + _CHUNK]
                buffer.view[: len(piece)] = piece
                await self.write_from(buffer.part(len(piece)), at + start)


_CHUNK = 1 << 20  # bytes
