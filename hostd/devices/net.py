"""A network card on a switch of the host: many frames for each call, in guest memory.

A batch is laid out as protocol/formats/frames.py says.  To send never waits: what a receiver's queue has no room for
is dropped there, and counted.  rx_ready is raised when the first frame comes, and by a read that leaves some: one
interrupt, one read, and no call to learn that there is nothing.
"""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hcall.errors import BadArgument, WouldBlock
from hcall.formats import frames
from hostd.backings.parts.switch import Switch
from hostd.backings.tap import Tap
from hostd.device import Config, Data, Device, Irq, Later, Property, Room, Saved, State, Steps, action, call

_QUEUE = 8 << 20  # bytes that wait for a guest to read them
_SMALL, _JOINED = 4096, 64 * 1024  # bytes: what is no more than that is joined with what came before, up to that
_WARM = 16 << 20  # bytes, see `start`
_MIN_MTU = 68  # RFC 791: every internet module must be able to forward a datagram of 68 octets
_LOCAL, _GROUP = 2, 1  # bits of the first byte of an address (IEEE 802, 8.4)


class Mac(bytes):
    """A MAC address; empty: one at random."""

    @classmethod
    def parse(cls, text: str, folder: Path) -> "Mac":
        """Raises ValueError."""
        return cls(frames.parse_mac(text) if text else b"")


class Net(Device):
    """A card on a switch: those of one host that name the same one reach each other."""

    compatible, ids = "hostd,net", (0x1AF4, 0x1041)
    class_code = 0x020000  # an Ethernet controller
    switch = Config(str, "lan", help="the name of the switch")
    mac = Config(Mac, "", help="such as 02:00:5e:10:00:01; a local one at random if not given")
    mtu = Config(int, 1500, bounds=range(_MIN_MTU, 1 << 16))
    tap = Config(Tap, "", help="an interface of the host's that becomes another port of the switch")
    mac_address = Property(str)
    max_frame_size = Property(int)  # bytes: the MTU, a header and a VLAN tag
    link_up = Property(bool)
    rx_ready, link_changed = Irq(), Irq()
    _driven = State(bool)
    _queue = State(deque[bytes])
    _done = State(int)  # bytes of the first one that were read
    _waiting = State(int)  # bytes, of all
    _received, _received_bytes, _dropped = State(int), State(int), State(int)
    _sent, _sent_bytes, _lost = State(int), State(int), State(int)

    def check_isolated(self) -> None:
        raise ValueError("a network card is on a switch with others of its host: isolate = true takes it out of there")

    def start(self) -> None:
        self.mac_address = frames.format_mac(self.mac or _local_address(self.site.random(6)))
        self.max_frame_size = self.mtu + frames.OVERHEAD
        self.link_up = True
        switch: Switch = self.common.setdefault(("switch", self.switch), Switch(self.clock))
        self.tap.start(switch)
        self._port = switch.join(self._deliver)
        # malloc gives freed memory back to the kernel beyond twice the largest block that it has ever mapped and freed
        # (mallopt(3), M_MMAP_THRESHOLD).  To fault a batch in again takes longer than to copy it thrice.
        bytes(_WARM)

    def stop(self) -> None:
        self.tap.stop()
        self._port.leave()

    def ready(self) -> None:
        self._driven = True
        self._port.up = self.link_up

    def reset(self) -> None:
        self._port.up = False

    def save(self) -> Saved:
        return {**super().save(), "mac": self.mac_address, "link_up": self.link_up}

    def load(self, saved: Saved) -> None:
        super().load(saved)
        self.mac_address, self.link_up = saved["mac"], saved["link_up"]
        self._port.up = self.link_up and self._driven

    def write(self, data: Data, at: int) -> int | Later[int]:
        """Send a batch, all of it.  Errors: BadArgument for a wrong length in it, and nothing of it is sent."""
        size = data.nbytes
        if size > frames.MAX_BATCH:
            raise BadArgument(f"a batch has at most {frames.MAX_BATCH} bytes, not {size}")
        batch = data.get()
        try:
            runs = frames.runs(batch, self.max_frame_size)
        except ValueError as error:
            raise BadArgument(str(error)) from None
        return self.in_parts(self._send(batch, runs))

    def _send(self, batch: bytes, runs: Sequence[frames.Run]) -> Steps[int]:
        count = sum(run.frames for run in runs)
        if self.link_up:
            self._sent += count
            self._sent_bytes += len(batch) - count * frames.PREFIX
            yield from self._port.send(batch, runs)
        else:
            self._lost += count
        return len(batch)

    def read(self, into: Room, at: int) -> int:
        """A batch of what has come, as many whole frames as fit.  Errors: WouldBlock; BadArgument if none fits."""
        if not self._queue:
            raise WouldBlock("nothing has come: wait for rx_ready")
        room = into.nbytes
        batches = []
        while self._queue:
            batch = self._queue[0]
            end = len(batch)
            if end - self._done > room:
                end, _ = frames.fitting(batch, self._done, room)
            if end > self._done:
                batches.append(batch[self._done : end])
                room -= end - self._done
                self._done = end
            if end < len(batch):
                break
            self._queue.popleft()
            self._done = 0
        if not batches:
            raise BadArgument(f"the next frame does not fit into {room} bytes: {self.max_frame_size} and 4 are enough")
        taken = into.put(batches[0] if len(batches) == 1 else b"".join(batches))
        self._waiting -= taken
        if self._queue:
            self.rx_ready()
        return taken

    @call(again=True)
    def statistics(self) -> tuple[int, int, int, int, int, int]:
        """Received: frames, bytes, dropped; sent: frames, bytes, dropped.  Since the reset."""
        return self._received, self._received_bytes, self._dropped, self._sent, self._sent_bytes, self._lost

    @action
    def set_link(self, up: bool) -> None:
        """Plug the cable in, or pull it."""
        if up != self.link_up:
            self.link_up = up
            self._port.up = up and self._driven
            self.link_changed()

    def _deliver(self, batch: bytes, count: int) -> None:
        size = len(batch)
        if size > _QUEUE - self._waiting:
            size, fits = frames.fitting(batch, 0, _QUEUE - self._waiting)
            self._dropped += count - fits
            if not fits:
                return
            batch, count = batch[:size], fits
        self._received += count
        self._received_bytes += size - count * frames.PREFIX
        self._keep(batch)
        self._waiting += size
        if self._waiting == size:
            self.rx_ready()

    def _keep(self, batch: bytes) -> None:
        """Few of them are many things: a read of 8 MiB, and a reset, must not take longer because frames are small."""
        if len(batch) > _SMALL:
            self._queue.append(batch)
            return
        last: Any = self._queue[-1] if self._queue else None
        if type(last) is bytearray and len(last) < _JOINED:
            last += batch
        else:
            self._queue.append(cast(bytes, bytearray(batch)))  # a state has one sort of bytes in it


def _local_address(drawn: bytes) -> bytes:
    first, *rest = drawn
    return bytes([(first | _LOCAL) & ~_GROUP, *rest])
