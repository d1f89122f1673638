"""Driver of keyboards and mice."""

from guestd.driver import MAX_INLINE, Driver, Op, Reading, Signal
from hcall.errors import IoError, WouldBlock
from hcall.formats.input import DOWN, EV_KEY, EV_SYN, MAX_PACKET, RECORD, UP, Event, Packet, Packets, codes_of, press

assert MAX_INLINE >= MAX_PACKET


class HidDriver(Driver):
    """Events come as packets, each with all that changed at one moment."""

    compatible = ("hostd,hid",)
    ids = ((0x1AF4, 0x1052),)
    devname = Op[[], str]()
    devids = Op[[], tuple[int, int, int, int]]()  # bus, vendor, product, version
    bits = Op[[int], bytes]()
    keys = Op[[], bytes]()
    leds = Op[[], bytes]()
    set_led = Op[[int, bool], None]()  # such as LED_CAPSL, on or off
    rx_ready = Signal()

    async def probe(self) -> None:
        self._reading = Reading(self.dev, RECORD.size)
        self._one_reader = self.dev.lock()
        self._packets = Packets()
        self._whole: list[Packet] = []  # that came, and were not given to anybody yet
        self.pressed: set[int] = set()  # the keys that are down after what `events` gave

    async def capabilities(self) -> dict[int, frozenset[int]]:
        """The codes of each type of events that it can send, and its LEDs."""
        types = codes_of(await self.bits(EV_SYN)) - {EV_SYN}
        return {each: codes_of(await self.bits(each)) for each in sorted(types)}

    async def lit(self) -> frozenset[int]:
        """The LEDs that are on."""
        return codes_of(await self.leds())

    async def read(self, count: int, at: int = 0) -> bytes:
        """Records as they are, those that there are now: whole ones up to *count* bytes.  Errors: WouldBlock."""
        return await self._reading.read(count)

    async def read_some(self, count: int = MAX_INLINE) -> bytes:
        """The same, as soon as there are any."""
        while True:
            try:
                return await self.read(min(count, MAX_INLINE))
            except WouldBlock:
                await self.rx_ready.wait()

    async def events(self) -> list[Packet]:
        """One packet or more, as soon as there are any.

        One that is `dropped` tells of packets that were lost; after it comes one with all keys that they changed.
        """
        async with self._one_reader:  # who is told what, with what it has missed
            while not self._whole:
                data = await self.read_some()
                if not data:
                    raise IoError(f"{self.dev.name} has ended")
                self._whole = self._packets.feed(data)
            if any(packet.dropped for packet in self._whole):
                down = codes_of(await self.keys())
                self._whole += self._caught_up(self._whole[-1].at, down)
            packets, self._whole = self._whole, []
        for packet in packets:
            for event in packet.events:
                press(self.pressed, event)
        return packets

    def _caught_up(self, at: int, down: frozenset[int]) -> list[Packet]:
        edges = [Event(EV_KEY, code, UP) for code in sorted(self.pressed - down)]
        edges += [Event(EV_KEY, code, DOWN) for code in sorted(down - self.pressed)]
        return [Packet(at, tuple(edges))] if edges else []
