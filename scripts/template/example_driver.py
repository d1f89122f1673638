"""The guest's side: what programs call.  It awaits its device, signals and self.clock, and nothing else."""

from guestd.driver import Driver, Op, Signal


class ExampleDriver(Driver):
    """Finds its device by what that is compatible with, on whatever bus."""

    compatible = ("example,example",)
    count = Op[[int], int]()  # await driver.count(3)
    round_full = Signal()  # await driver.round_full.wait()

    async def probe(self) -> None:
        self.round_size: int = await self.dev.property("round-size")

    async def finish_round(self) -> int:
        """Count to the end of the round, and wait for the interrupt; where the counter stands then."""
        value = await self.count(0)
        value = await self.count(self.round_size - value % self.round_size)
        await self.round_full.wait()
        return value
