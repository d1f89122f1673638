"""Driver of the watchdog."""

from guestd.driver import Driver, Op, Signal


class WatchdogDriver(Driver):
    """Binding it starts the countdown: `ping` again and again, or this guest's session ends."""

    compatible = ("hostd,watchdog",)
    ids = ((0x1AF4, 0x10F4),)
    keepalive = Op[[], None]()
    set_timeout = Op[[int], int]()  # seconds; what was set
    get_timeout = Op[[], int]()
    set_pretimeout = Op[[int], int]()  # seconds before the reset, 0 = no interrupt
    get_pretimeout = Op[[], int]()
    time_left = Op[[], float]()  # seconds
    boot_status = Op[[], int]()  # 0x20: it has fired
    pretimeout = Signal()

    async def attend(self) -> None:
        """Ping, twice in each timeout."""
        while True:
            await self.ping()
            await self.clock.sleep(await self.get_timeout() / 2)

    async def ping(self) -> None:
        """This guest is alive.  It takes back `disarm`."""
        await self.write(b"\0")

    async def disarm(self) -> None:
        """Let the next close stop the countdown, unless the device has no way out; it is a ping, too."""
        await self.write(b"V")
