"""A slow network: IP over a serial line, with PPP at both ends of it (RFC 1661, 1662, 1332).

LCP and IPCP are protocol/formats/ppp.py's, buffers and interrupts Stream's.  What a guest has no room for is dropped,
as on any line: one that does not read holds up nobody, not even itself.
"""

from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

from hcall.formats import ppp
from hostd.backings.ip import Network
from hostd.device import Config, Irq, Property, Saved, State, action
from hostd.stream import Stream

_WORST = 2  # bytes of a frame for one of a packet: all are escaped
_FRAME = 16  # what is added to that


class Address(IPv4Address):
    """An IPv4 address."""

    @classmethod
    def parse(cls, text: str, folder: Path) -> "Address":
        """Such as 10.0.0.1.  Raises ValueError."""
        address = cls(text)
        if address.is_multicast or address.is_unspecified or address.is_loopback or address.is_reserved:
            raise ValueError(f"{text} is no address of a host")
        return address


class Ppp(Stream):
    """A serial line with PPP at its other end, which gives the guest an address and takes its IP packets."""

    compatible, ids = "hostd,ppp", (0x1AF4, 0x10F1)
    class_code = 0x070300  # a modem
    part = 512  # 1 ms if they are frames of the worst sort
    local = Config(Address, "10.0.0.1", help="the address of the host's end")
    remote = Config(Address, "10.0.0.2", help="the address that the guest gets")
    mtu = Config(int, 1500, help="bytes of the largest packet", bounds=range(ppp.MIN_MRU, ppp.MAX_MRU + 1))
    backing = Config(Network, "echo:", help="echo:, router:NAME, tun:NAME")
    endpoint = Property(str)
    max_packet_size = Property(int)
    state = Property(str)
    addresses = Property(tuple)  # the host's and the guest's, while the link is open
    dropped = Property(int)
    link_up, link_down = Irq(), Irq()
    _plugged = State(bool, True, kept=True)
    _was_open = State(bool)

    def check_keys(self) -> None:
        if self.local == self.remote:
            raise ValueError(f"both ends have the address {self.local}")

    def check_isolated(self) -> None:
        if self.backing.joins:
            raise ValueError(f"{self.backing.endpoint} joins links of one host, which a process of its own has not")

    def start(self) -> None:
        super().start()
        self.endpoint, self.max_packet_size = self.backing.endpoint, self.mtu
        self._cancel: Callable[[], None] = lambda: None  # the peer's timer
        self._begin()
        self.backing.start(self)

    def stop(self) -> None:
        self._cancel()
        self.backing.stop()

    def ready(self) -> None:
        super().ready()
        if self._plugged:
            self._peer.open()
            self._go_on()

    def reset(self) -> None:
        self._cancel()
        self._begin()
        self.backing.reset()

    def save(self) -> Saved:
        return {**super().save(), "peer": self._peer.save(), "dropped": self.dropped}

    def load(self, saved: Saved) -> None:
        super().load(saved)
        self._peer.restore(saved["peer"])
        self.dropped = saved["dropped"]
        self._show_addresses()
        self._go_on()

    def _begin(self) -> None:
        self._peer = self._new_peer()
        self._due: float | None = None
        self.state, self.addresses, self.dropped = "dead", (), 0

    def _new_peer(self) -> ppp.Peer:
        return ppp.Peer(self.clock.time, local=self.local, remote=self.remote, mru=self.mtu, entropy=self.site.random)

    # From the guest, and to it.

    def written(self, data: bytes) -> int:
        for packet in self._peer.receive(data):
            self.backing.write(packet)
        self._go_on()
        return len(data)

    def drained(self) -> None:
        self.backing.resume()

    @property
    def has_room(self) -> bool:
        """Whether the next packet would be taken; while the link is down, to be dropped."""
        return self.space >= _WORST * self.mtu + _FRAME or not self._peer.is_open

    def deliver(self, packet: bytes) -> None:
        """A packet of what stands behind the link."""
        if not self._peer.send(packet):
            self.dropped += 1
        self._go_on()

    def hang_up(self) -> None:
        """What stands behind the link is gone, and the link with it; the next guest has both anew."""
        self._peer = self._new_peer()
        self._go_on()
        super().hang_up()
        self.site.used = True  # a reset makes all this anew, though nobody was there

    @action
    def set_link(self, up: bool) -> None:
        """Plug the line in, or say good-bye and pull it."""
        self._plugged = up
        if up and self.in_use and not self.hung_up:
            self._peer.open()
        elif not up:
            self._peer.close()
        self._go_on()

    def _go_on(self) -> None:
        """The peer may have frames to send, another state, and another deadline."""
        frames, self._peer.out = self._peer.out, []
        for frame in frames:
            if len(frame) <= self.space:
                self.send(frame)
            else:
                self.dropped += 1
        self.state = self._peer.phase
        if self._peer.is_open != self._was_open:
            self._was_open = self._peer.is_open
            self._show_addresses()
            (self.link_up if self._was_open else self.link_down)()
        if self._peer.deadline != self._due:
            self._cancel()
            self._due = self._peer.deadline
            if self._due is not None:
                self._cancel = self.clock.call_later(self._due - self.clock.time(), self._expired).cancel

    def _show_addresses(self) -> None:
        self.addresses = (str(self.local), str(self.remote)) if self._was_open else ()

    def _expired(self) -> None:
        self._due = None
        self._peer.tick()
        self._go_on()
