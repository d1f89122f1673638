"""Driver of the entropy device."""

from guestd.driver import Driver


class RngDriver(Driver):
    """Reads may be short, which `read_exactly` makes up for."""

    compatible = ("hostd,rng",)

    async def getrandom(self, count: int) -> bytes:
        """*count* fresh bytes."""
        return await self.read_exactly(count)
