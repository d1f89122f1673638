"""Driver of the disk."""

from guestd.driver import Driver, Op, Signal


class BlockDriver(Driver):
    """Reads and writes any byte range; each is done whole, or fails."""

    compatible = ("hostd,block",)
    ids = ((0x1AF4, 0x1042),)
    wants = ("RO", "FLUSH", "DISCARD", "WRITE_ZEROES")
    properties = ("capacity",)
    discard = Op[[int, int], None]()  # at, length: the content no longer matters
    write_zeroes = Op[[int, int], None]()  # at, length; it may become a hole
    allocate_zeroes = Op[[int, int], None]()  # at, length; it takes its place
    resized = Signal()

    capacity: int  # bytes, when it was last looked at

    async def probe(self) -> None:
        await self.look()

    async def look(self) -> int:
        """The capacity as it is now, in bytes: after `resized`, too."""
        self.capacity = await self.dev.property("capacity", int)
        return self.capacity

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""
        return "RO" in self.dev.features
