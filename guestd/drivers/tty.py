"""Driver of the serial port."""

from guestd.stream import Op, Signal, StreamDriver


class TtyDriver(StreamDriver):
    """Read, write, flow control and masking are StreamDriver's."""

    compatible = ("hostd,tty",)
    ids = ((0x1AF4, 0x10F0),)
    properties = ("label",)
    set_baud = Op[[int], None]()  # bits a second
    send_break = Op[[], None]()
    break_received = Signal()

    label: str  # what the port is for

    async def probe(self) -> None:
        await super().probe()
        self.label = await self.dev.property("label", str)

    async def baud(self) -> int:
        """The speed as it is now, in bits a second."""
        speed: int = await self.dev.property("current-speed", int)
        return speed
