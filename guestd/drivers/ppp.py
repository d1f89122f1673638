"""Driver of the slow network: the guest's end of PPP."""

import secrets
from collections import deque
from collections.abc import Callable

from guestd.stream import Signal, StreamDriver
from hcall.errors import BadArgument, IoError, NotAllowed
from hcall.formats.ppp import Peer

_PAUSE = 0.05  # seconds between two looks whether there is room
_WAITING = 64  # frames of other callers, while one is being written


class PppDriver(StreamDriver):
    """IP packets both ways, between `up` and `down`."""

    compatible = ("hostd,ppp",)
    ids = ((0x1AF4, 0x10F1),)
    properties = ("max-packet-size",)
    link_up, link_down = Signal(), Signal()

    max_packet_size: int  # bytes, of one that comes

    async def probe(self) -> None:
        await super().probe()
        self.max_packet_size = await self.dev.property("max-packet-size", int)
        self._peer = Peer(self.clock.time, mru=self.max_packet_size, entropy=secrets.token_bytes)
        self._packets: deque[bytes] = deque()
        self._writing = False
        self._turn = self.dev.lock()

    @property
    def mtu(self) -> int:
        """Bytes of the largest packet that the host takes."""
        return self._peer.send_mru

    async def up(self) -> tuple[str, str]:
        """Negotiate: this end's address, and the host's.  Errors: IoError if nothing comes of it."""
        self._peer.open()
        await self._flush()
        while not self._peer.is_open:
            if self._peer.failed:
                raise IoError(f"{self.dev.name}: no link: the other end does not answer, or agrees to nothing")
            await self._step(lambda: self._peer.is_open or self._peer.failed)
        return str(self._peer.ipcp.local), str(self._peer.ipcp.remote)

    async def down(self) -> None:
        """Say good-bye; packets that were not received are gone."""
        if self._peer.phase != "dead":
            self._peer.close()
            await self._flush()
            while self._peer.phase == "terminate":
                await self._step(lambda: self._peer.phase != "terminate")
        self._packets.clear()

    async def send(self, packet: bytes) -> None:
        """Send an IP packet.  Errors: NotAllowed while the link is down; BadArgument if it is larger than `mtu`."""
        self._check()
        if len(packet) > self.mtu:
            raise BadArgument(f"a packet has at most {self.mtu} bytes here, not {len(packet)}")
        self._peer.send(packet)
        await self._flush()

    async def receive(self) -> bytes:
        """The next IP packet, waited for.  Errors: NotAllowed while the link is down, or when it goes down."""
        while not self._packets:
            self._check()
            await self._step(lambda: bool(self._packets))
        return self._packets.popleft()

    def _check(self) -> None:
        if not self._peer.is_open and (self._peer.failed or self._peer.phase == "terminate"):
            raise NotAllowed(f"{self.dev.name}: the link is down: up comes first")

    async def _step(self, done: Callable[[], bool]) -> None:
        """Wait for what comes, and answer it; one caller for all, who are *done* perhaps when it is their turn."""
        async with self._turn:
            if done():
                return
            due = self._peer.deadline
            try:
                async with self.clock.timeout(None if due is None else max(0.0, due - self.clock.time())):
                    data = await self.read_some()
            except TimeoutError:
                self._peer.tick()
            else:
                if not data:
                    raise IoError(f"{self.dev.name}: what stands behind the link is gone")
                self._packets += self._peer.receive(data)
        await self._flush()

    async def _flush(self) -> None:
        """Write the frames that are to go out, one caller for all."""
        while self._writing and len(self._peer.out) > _WAITING:
            await self.clock.sleep(_PAUSE)
        if self._writing:
            return
        self._writing = True
        try:
            while True:
                frames, self._peer.out = self._peer.out, []
                await self.write_message(b"".join(frames), wait=False)  # and what somebody who gave up has left
                if not self._peer.out:
                    break
        finally:
            self._writing = False
