"""Driver of keyboards and mice."""

from hcall.errors import IoError, WouldBlock
from hcall.formats.input import DOWN, EV_KEY, EV_SYN, MAX_PACKET, UP, Event, Packet, Packets, codes_of, press

from guestd.driver import MAX_INLINE, Driver, Op, Signal

assert MAX_INLINE >= MAX_PACKET


class HidDriver(Driver):
    """Events come as packets, each with all that changed at one moment."""

    compatible = ("hostd,hid",)
    devname = Op[[], str]()
    devids = Op[[], tuple[int, int, int, int]]()  # bus, vendor, product, version
    bits = Op[[int], bytes]()
    keys = Op[[], bytes]()
    leds = Op[[], bytes]()
    set_led = Op[[int, bool], None]()  # such as LED_CAPSL, on or off
    rx_ready = Signal()

    async def probe(self) -> None:
        self._packets = Packets()
        self.pressed: set[int] = set()  # the keys that are down after what `events` gave

    async def capabilities(self) -> dict[int, frozenset[int]]:
        """The codes of each type of events that it can send, and its LEDs."""
        types = codes_of(await self.bits(EV_SYN)) - {EV_SYN}
        return {each: codes_of(await self.bits(each)) for each in sorted(types)}

    async def lit(self) -> frozenset[int]:
        """The LEDs that are on."""
        return codes_of(await self.leds())

    async def read_some(self, count: int = MAX_INLINE) -> bytes:
        """Records as they are, whole ones up to *count* bytes, as soon as there are any."""
        while True:
            try:
                return await self.read(min(count, MAX_INLINE))
            except WouldBlock:
                await self.rx_ready.wait()

    async def events(self) -> list[Packet]:
        """One packet or more, as soon as there are any.

        One that is `dropped` tells of packets that were lost; after it comes one with all keys that they changed.
        """
        packets: list[Packet] = []
        while not packets:
            data = await self.read_some()
            if not data:
                raise IoError(f"{self.dev.name} has ended")
            packets = self._packets.feed(data)
        if any(packet.dropped for packet in packets):
            packets += self._caught_up(packets[-1].at, codes_of(await self.keys()))
        for packet in packets:
            for event in packet.events:
                press(self.pressed, event)
        return packets

    def _caught_up(self, at: int, down: frozenset[int]) -> list[Packet]:
        edges = [Event(EV_KEY, code, UP) for code in sorted(self.pressed - down)]
        edges += [Event(EV_KEY, code, DOWN) for code in sorted(down - self.pressed)]
        return [Packet(at, tuple(edges))] if edges else []
