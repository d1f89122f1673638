"""The Point-to-Point Protocol without I/O: one end of a link that carries IPv4 (RFC 1661, 1662, 1332).

Both ends are the same `Peer`.  One that knows addresses gives the other its own; one that knows none asks for it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final

from ..saved import Saved, check
from . import hdlc
from .ppp_control import MAX_REJECTED, Code, Control, Options, Packet, State

LCP, IPCP, IP = 0xC021, 0x8021, 0x0021  # protocol numbers
DEFAULT_MRU: Final = 1500
MIN_MRU, MAX_MRU = 128, 16 * 1024  # what this implementation agrees to
NO_ADDRESS: Final = IPv4Address(0)  # "which one is mine?"

_MRU, _ACCM, _MAGIC = 1, 2, 5  # options of LCP (RFC 1661, 6)
_ADDRESS = 3  # option of IPCP (RFC 1332, 3.3)
_START: Final = b"\xff\x03"  # all stations, unnumbered information
_PROTOCOL: Final = struct.Struct(">H")
_OVERHEAD: Final = len(_START) + _PROTOCOL.size


class Lcp(Control):
    """The link: how large its packets are, and which bytes are escaped.

    Authentication, quality reports and compressed headers are rejected: between two processes they gain nothing.
    """

    protocol = LCP
    codes = frozenset(Code)

    def __init__(self, peer: Peer, mru: int) -> None:
        super().__init__(peer.send_control, peer.time)
        self._peer = peer
        self.mru = mru  # what this end asks for
        self.magic = peer.new_magic()
        self.refused: set[int] = set()  # options that the peer does not take

    def save(self) -> Saved:
        return {**super().save(), "mru": self.mru, "magic": self.magic, "refused": sorted(self.refused)}

    def restore(self, saved: Saved) -> None:
        super().restore(saved)
        self.mru, self.magic, self.refused = saved["mru"], saved["magic"], set(saved["refused"])

    def wanted(self) -> Options:
        options = {_MRU: self.mru.to_bytes(2), _ACCM: bytes(4), _MAGIC: self.magic}  # the stream passes every byte
        return {kind: value for kind, value in options.items() if kind not in self.refused}

    def judge(self, kind: int, value: bytes) -> bytes | None:
        if kind == _MRU:
            small = len(value) != 2 or int.from_bytes(value) < MIN_MRU
            return MIN_MRU.to_bytes(2) if small else value
        if kind == _ACCM:
            return value if len(value) == 4 else bytes(4)
        if kind == _MAGIC:
            wrong = len(value) != 4 or value in (bytes(4), self.magic)  # its own: the line is a loop (RFC 1661, 6.4)
            return self._peer.new_magic() if wrong else value
        return None

    def accept(self, options: Options) -> None:
        self._peer.send_mru = min(int.from_bytes(options.get(_MRU, DEFAULT_MRU.to_bytes(2))), MAX_MRU)
        self._peer.send_accm = int.from_bytes(options[_ACCM]) if _ACCM in options else hdlc.EVERY_CONTROL

    def nak(self, kind: int, value: bytes) -> None:
        if kind == _MRU and len(value) == 2 and int.from_bytes(value) >= MIN_MRU:
            self.mru = min(self.mru, int.from_bytes(value))
        elif kind == _ACCM:
            self.refused.add(_ACCM)  # the default will do
        elif kind == _MAGIC:
            self.magic = self._peer.new_magic()

    def reject(self, kind: int) -> None:
        self.refused.add(kind)
        if kind == _MAGIC:
            self.magic = bytes(4)  # RFC 1661, 6.4: what goes into echoes without one

    def layer_up(self) -> None:
        self._peer.decoder.accm = hdlc.EVERY_CONTROL if _ACCM in self.refused else 0
        self._peer.ipcp.event("Up")

    def layer_down(self) -> None:
        self._peer.decoder.accm = hdlc.EVERY_CONTROL
        self._peer.ipcp.event("Down")

    def received_more(self, packet: Packet) -> None:
        if packet.code == Code.PROTOCOL_REJECT:
            self._peer.protocol_rejected(packet.data)
        else:
            self.event("RXR")

    def send_echo_reply(self) -> None:
        request = self._received
        if request.code == Code.ECHO_REQUEST and len(request.data) >= 4:
            self._send(LCP, Packet(Code.ECHO_REPLY, request.ident, self.magic + request.data[4:]).encode())


class Ipcp(Control):
    """The addresses of both ends."""

    protocol = IPCP

    def __init__(self, peer: Peer, local: IPv4Address, remote: IPv4Address) -> None:
        super().__init__(peer.send_control, peer.time)
        self._peer = peer
        self.local, self.remote = local, remote
        self._own, self._given = local, remote  # NO_ADDRESS: the peer says it
        self._asks = True

    def save(self) -> Saved:
        return {**super().save(), "local": self.local.packed, "remote": self.remote.packed, "asks": self._asks}

    def restore(self, saved: Saved) -> None:
        super().restore(saved)
        self.local, self.remote = IPv4Address(saved["local"]), IPv4Address(saved["remote"])
        self._asks = saved["asks"]

    def wanted(self) -> Options:
        return {_ADDRESS: self.local.packed} if self._asks else {}

    def judge(self, kind: int, value: bytes) -> bytes | None:
        if kind != _ADDRESS:
            return None
        if self._given != NO_ADDRESS:
            return self._given.packed
        return value if len(value) == 4 and value != NO_ADDRESS.packed else None

    def missing(self) -> Options:
        return {_ADDRESS: self._given.packed} if self._given != NO_ADDRESS else {}

    def accept(self, options: Options) -> None:
        if _ADDRESS in options:
            self.remote = IPv4Address(options[_ADDRESS])

    def nak(self, kind: int, value: bytes) -> None:
        if kind == _ADDRESS and len(value) == 4 and self._own == NO_ADDRESS:
            self.local = IPv4Address(value)

    def reject(self, kind: int) -> None:
        self._asks = False

    def layer_finished(self) -> None:
        """A link without a network is closed: the peer may believe that all is well."""
        if self._peer.lcp.state is State.OPENED:
            self._peer.lcp.event("RXJ-")


class Peer:
    """One end of a link: bytes of the line and packets in, frames and packets out.

    The owner takes what is in `out` after every call, and calls `tick` at `deadline`.
    """

    def __init__(
        self,
        time: Callable[[], float],
        *,
        local: IPv4Address = NO_ADDRESS,
        remote: IPv4Address = NO_ADDRESS,
        mru: int = DEFAULT_MRU,
        entropy: Callable[[int], bytes],
    ) -> None:
        """*time*() gives seconds, *entropy*(count) random bytes; *mru* is the largest packet that this end takes.

        *local* is this end's address, which the peer is asked for if there is none; *remote* is the one it is given.
        """
        self.time, self._entropy = time, entropy
        self.out: list[bytes] = []  # whole frames
        self.packets: list[bytes] = []  # IP packets that came
        self.send_mru, self.send_accm = DEFAULT_MRU, hdlc.EVERY_CONTROL  # as the peer asked
        self.decoder = hdlc.Decoder(_OVERHEAD + max(mru, DEFAULT_MRU))  # RFC 1661, 6.1: 1500 is always taken
        self.lcp = Lcp(self, mru)
        self.ipcp = Ipcp(self, local, remote)
        self.ipcp.event("Open")

    def save(self) -> Saved:
        """What `restore` needs, when `out` was taken."""
        return {
            "version": 1, "lcp": self.lcp.save(), "ipcp": self.ipcp.save(), "decoder": self.decoder.save(),
            "send_mru": self.send_mru, "send_accm": self.send_accm,
        }  # fmt: skip

    def restore(self, saved: Saved) -> None:
        """Go on where *saved* was taken, by another clock, too.  Raises ValueError for what another version saved."""
        check(saved, 1)
        self.lcp.restore(saved["lcp"])
        self.ipcp.restore(saved["ipcp"])
        self.decoder.restore(saved["decoder"])
        self.send_mru, self.send_accm = saved["send_mru"], saved["send_accm"]

    @property
    def is_open(self) -> bool:
        """Whether IP goes through."""
        return self.lcp.state is State.OPENED and self.ipcp.state is State.OPENED

    @property
    def phase(self) -> str:
        """dead, establish, network, open or terminate (RFC 1661, 3.2)."""
        if self.is_open:
            return "open"
        return _PHASES[self.lcp.state]

    @property
    def failed(self) -> bool:
        """Whether it is not open, and this end has ceased to try."""
        return self.lcp.state in (State.INITIAL, State.CLOSED, State.STOPPED)

    @property
    def deadline(self) -> float | None:
        """When `tick` is to be called."""
        return min((due for due in (self.lcp.deadline, self.ipcp.deadline) if due is not None), default=None)

    def tick(self) -> None:
        """Time has passed."""
        self.lcp.expire()
        self.ipcp.expire()

    def open(self) -> None:
        """The line is there: negotiate, from the beginning if that has failed or the link is being closed."""
        if self.lcp.state in (State.STOPPED, State.CLOSING, State.STOPPING):  # the restart option (RFC 1661, 4.3)
            self.lcp.event("Down")
        if self.lcp.state in (State.INITIAL, State.STARTING):
            self.lcp.event("Up")
        self.lcp.event("Open")

    def close(self) -> None:
        """Tell the peer that this end goes."""
        self.lcp.event("Close")

    def send(self, packet: bytes) -> bool:
        """Send an IP packet, if the link is open and the peer takes one of that size; whether it was."""
        if not self.is_open or len(packet) > self.send_mru:
            return False
        self._emit(IP, packet, self.send_accm)
        return True

    def receive(self, data: bytes) -> list[bytes]:
        """Bytes from the line: the IP packets in them."""
        for frame in self.decoder.feed(data):
            self._received(frame)
        packets, self.packets = self.packets, []
        return packets

    def _received(self, frame: bytes) -> None:
        if not frame.startswith(_START) or len(frame) < _OVERHEAD:
            return
        (protocol,) = _PROTOCOL.unpack_from(frame, len(_START))
        information = frame[_OVERHEAD:]
        if protocol == LCP:
            self.lcp.receive(information)
        elif self.lcp.state is not State.OPENED:
            return  # RFC 1661, 3.4: nothing else counts yet
        elif protocol == IPCP:
            self.ipcp.receive(information)
        elif protocol == IP:
            if self.ipcp.state is State.OPENED:
                self.packets.append(information)
        else:
            rejected = frame[len(_START) :][:MAX_REJECTED]
            self.send_control(LCP, self.lcp.packet(Code.PROTOCOL_REJECT, rejected).encode())

    def protocol_rejected(self, data: bytes) -> None:
        """The peer does not know the protocol that *data* begins with."""
        if self.lcp.state is not State.OPENED or len(data) < _PROTOCOL.size:
            return
        (protocol,) = _PROTOCOL.unpack_from(data)
        if protocol == IPCP:
            self.ipcp.event("RXJ-")
        self.lcp.event("RXJ-" if protocol == LCP else "RXJ+")

    def new_magic(self) -> bytes:
        """Four bytes, not all 0 (RFC 1661, 6.4)."""
        while not any(magic := self._entropy(4)):
            pass
        return magic

    def send_control(self, protocol: int, packet: bytes) -> None:
        """LCP is always sent as if nothing had been agreed yet (RFC 1662, 7)."""
        self._emit(protocol, packet, hdlc.EVERY_CONTROL if protocol == LCP else self.send_accm)

    def _emit(self, protocol: int, information: bytes, accm: int) -> None:
        self.out.append(hdlc.encode(_START + _PROTOCOL.pack(protocol) + information, accm))


_PHASES: Final = {
    State.INITIAL: "dead", State.STARTING: "dead", State.CLOSED: "dead", State.STOPPED: "dead",
    State.CLOSING: "terminate", State.STOPPING: "terminate",
    State.REQ_SENT: "establish", State.ACK_RCVD: "establish", State.ACK_SENT: "establish", State.OPENED: "network",
}  # fmt: skip
