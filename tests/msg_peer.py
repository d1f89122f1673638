"""A peer of a bus of virtio-msg: it sends whatever it likes, and reads one message at a time."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from pathlib import Path
from typing import Final, TypeVar

from hcall.formats import virtio_msg as msg
from hcall.formats.virtio_msg import Body, Message, decode, encode

T = TypeVar("T")
PATIENCE: Final = 3.0  # seconds of real time for what must come; no test uses them up


class MsgPeer:
    """One connection."""

    def __init__(self, path: Path, sock: socket.socket | None = None) -> None:
        """*sock* is connected already, by somebody else."""
        self.sock = sock or socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if sock is None:
            self.sock.connect(str(path))
        self.sock.setblocking(False)
        self.events: deque[Message] = deque()  # that came while an answer was waited for
        self.raw = b""  # the datagram of the last message
        self._token = 0

    def send(self, body: Body, device: int = 0, token: int | None = None) -> int:
        """Send a message; its token: the next one, if none is given."""
        if token is None:
            self._token = token = 0 if msg.is_event(body) else self._token % 0xFFFF + 1
        self.sock.send(encode(body, device, token))
        return token

    async def receive(self) -> Message | None:
        """What comes next; None: the bus has hung up."""
        async with asyncio.timeout(PATIENCE):
            try:
                self.raw = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
            except ConnectionResetError:
                self.raw = b""
        return decode(self.raw, most=0xFFFF) if self.raw else None

    async def answer(self) -> Message:
        """The next message that is no event."""
        while True:
            message = await self.receive()
            assert message is not None, "the bus has hung up"
            if not msg.is_event(message.body):
                return message
            self.events.append(message)

    async def ask(self, body: Body, expected: type[T], device: int = 0) -> T:
        """The answer, of its type, to a request."""
        token = self.send(body, device)
        came = await self.answer()
        assert (came.device, came.token) == (device, token), f"{came} is no answer to {body} with token {token}"
        assert isinstance(came.body, expected)
        return came.body

    async def fence(self) -> None:
        """All that was sent before was looked at, and nothing of it has an answer."""
        assert await self.ask(msg.Ping(0xF00D), msg.Pong) == msg.Pong(0xF00D)

    async def event(self, kind: type[T]) -> T:
        """The next event, of this type."""
        while not self.events:
            message = await self.receive()
            assert message is not None, "the bus has hung up"
            self.events.append(message)
        body = self.events.popleft().body
        assert isinstance(body, kind), body
        return body

    async def devices(self) -> list[int]:
        """The numbers of all devices, window by window."""
        found, offset = [], 0
        while True:
            window = await self.ask(msg.GetDevices(offset, 256), msg.Devices)
            assert window.offset == offset
            for at, byte in enumerate(window.bitmap):
                found += [offset + 8 * at + bit for bit in range(8) if byte >> bit & 1]
            if not window.following:
                return found
            assert window.following >= offset + 8 * len(window.bitmap)
            offset = window.following

    async def status(self, device: int) -> int:
        """Of *device*."""
        return (await self.ask(msg.GetStatus(), msg.StatusIs, device)).status

    async def set_status(self, device: int, status: int) -> int:
        """What it is then."""
        return (await self.ask(msg.SetStatus(status), msg.StatusSet, device)).status

    async def config(self, device: int) -> bytes:
        """All of the configuration space of *device*, in small pieces."""
        size = (await self.ask(msg.GetDeviceInfo(), msg.DeviceInfo, device)).config_size
        data = b""
        while len(data) < size:
            length = min(32, size - len(data))
            data += (await self.ask(msg.GetConfig(len(data), length), msg.Config, device)).data
        return data

    def close(self) -> None:
        self.sock.close()
