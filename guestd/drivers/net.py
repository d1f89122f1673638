"""Driver of the fast network."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from guestd.driver import Buffer, Driver, Op, Signal, Taking
from hcall.errors import HcallError, IoError, WouldBlock
from hcall.formats.frames import MAX_BATCH, OVERHEAD, AnyBatch, Bytes, copies, pack_into, parse_mac, split


class Statistics(NamedTuple):
    """Since the device was reset."""

    rx_frames: int
    rx_bytes: int
    rx_dropped: int  # there was no room for them: they were not read in time
    tx_frames: int
    tx_bytes: int
    tx_dropped: int  # the link was down


class NetDriver(Driver):
    """Sends and receives whole Ethernet frames, without FCS, many at a time.

    Like any network it may lose some: those that the receiver does not read in time.
    """

    compatible = ("hostd,net",)
    ids = ((0x1AF4, 0x1041),)
    properties = ("mac-address", "max-frame-size")
    statistics = Op[[], Statistics]()
    rx_ready, link_changed = Signal(), Signal()

    mac: bytes
    mtu: int
    max_frame: int  # bytes: the MTU, a header and a VLAN tag

    async def probe(self) -> None:
        self._free: list[Buffer] = []  # guest memory between two calls
        self._polling: Taking[Buffer] = Taking(self.dev)  # each with what it fills
        self._told = False  # that there are frames, which nobody has read yet: perhaps there was no memory
        self.mac = parse_mac(await self.dev.property("mac-address", str))
        self.max_frame = await self.dev.property("max-frame-size", int)
        self.mtu = self.max_frame - OVERHEAD

    async def remove(self) -> None:
        for buffer in (*self._free, *(buffer for _, buffer in self._polling.left)):
            buffer.free()
        self._free.clear()

    async def link_up(self) -> bool:
        """Whether the cable is plugged in."""
        up: bool = await self.dev.property("link-up", bool)
        return up

    async def send(self, frames: Sequence[Bytes]) -> None:
        """Send *frames*, in as many calls as it takes; it waits for nobody.

        Errors: ValueError for what is no frame, BadArgument for one that is too long for the MTU.
        """
        done = 0
        while done < len(frames):
            buffer = self._take()
            try:
                size, done = pack_into(buffer.view, frames, done)
                await self.write_from(buffer.part(0, size))
            except BaseException:
                buffer.free()  # the host may have its hands on it still: not to be used again before it has not
                raise
            self._free.append(buffer)

    async def receive(self) -> list[bytes]:
        """One frame or more, as soon as there are any."""
        lent = await self.borrow()
        try:
            return _read(copies, lent.batch)
        finally:
            lent.give_back()

    async def borrow(self) -> "Borrowed":
        """The same without a copy: `with await net.borrow() as frames`, and at its end they are gone."""
        while True:
            if not self._told and not self._polling.left:
                try:
                    await self.rx_ready.wait()  # a read that leaves some raises it again
                finally:
                    self._told = True  # perhaps: to look once more costs little
            try:
                return await self.poll()
            except WouldBlock:  # somebody has polled since
                self._told = False

    async def poll(self) -> "Borrowed":
        """As `borrow`, if there are any now.  Errors: WouldBlock if not."""
        while self._polling.left:  # by somebody who gave up
            size, buffer = await self._polling.take_up()
            if not isinstance(size, HcallError):
                return self._borrowed(buffer, size)
            buffer.free()
        buffer = self._take()
        try:
            size = await self._polling.call(buffer, self.read_into, buffer)
        except BaseException:
            if all(each is not buffer for _, each in self._polling.left):  # else a call is under way that fills it
                buffer.free()
            raise
        return self._borrowed(buffer, size)

    def _borrowed(self, buffer: Buffer, size: int) -> "Borrowed":
        self._told = False
        return Borrowed(buffer, size, self._free)

    def _take(self) -> Buffer:
        return self._free.pop() if self._free else self.dev.ram.alloc(MAX_BATCH)


class Borrowed:
    """Frames where the device has put them, in guest memory, until the end of a `with`."""

    def __init__(self, buffer: Buffer, size: int, free: list[Buffer]) -> None:
        self._buffer, self._free = buffer, free
        self.batch = buffer.view[:size]  # with the lengths
        self._frames: list[memoryview] = []

    def give_back(self) -> None:
        """For who does without a `with`."""
        for frame in self._frames:
            frame.release()  # who looks at one later gets ValueError, and never somebody else's frame
        self.batch.release()
        self._free.append(self._buffer)

    def __enter__(self) -> list[memoryview]:
        try:
            self._frames = _read(split, self.batch)
        except IoError:
            self.give_back()
            raise
        return self._frames

    def __exit__(self, *_: object) -> None:
        self.give_back()


def _read(frames: Callable[[memoryview], list[AnyBatch]], batch: memoryview) -> list[AnyBatch]:
    try:
        return frames(batch)
    except ValueError as error:
        raise IoError(f"what came is no batch of frames: {error}") from None
