"""Driver of the entropy device."""

from collections.abc import Awaitable

from guestd.driver import Driver


class RngDriver(Driver):
    """Reads may be short, which `read_exactly` makes up for."""

    compatible = ("hostd,rng",)
    ids = ((0x1AF4, 0x1044),)

    def getrandom(self, count: int) -> Awaitable[bytes]:
        """*count* fresh bytes."""
        return self.read_exactly(count)
