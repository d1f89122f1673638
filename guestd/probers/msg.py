"""Probing by messages, as a driver of virtio-msg does it: a bitmap of devices, and what each of them is.

Their numbers ascend, and one stands for the same device as long as that is there: so a walk shows no device twice, and
misses none that is there throughout.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from typing import Final, TypeAlias

from hcall.errors import IoError
from hcall.formats import virtio_msg as msg
from hcall.formats.virtio_msg import Body, decode, encode
from hcall.rendezvous import MSG_SOCKET

from .found import Datagrams, Found, Reach

_WINDOW: Final = 2000  # device numbers that a message has room for
_AT_ONCE: Final = 32  # devices that are asked for together
_STRAY: Final = 1 << 17  # messages that are no answers, before the host is not believed any more
_SIXTEEN: Final = 1 << 16

_Asked: TypeAlias = tuple[Body, int]  # and for which device


async def probe(reach: Reach) -> AsyncIterator[Found]:
    """All devices that the bus has.  Errors: IoError if it does not keep to the draft; OSError if there is none."""
    with closing(reach.datagrams(MSG_SOCKET)) as socket:
        bus, offset = _Bus(socket), 0
        while True:
            (window,) = await bus.ask([(msg.GetDevices(offset, min(_WINDOW, msg.DEVICES - offset)), 0)])
            if not isinstance(window, msg.Devices) or window.offset != offset:
                raise IoError(f"the bus answers {window} when asked for its devices from {offset} on")
            present = [offset + 8 * at + bit for at, byte in enumerate(window.bitmap)
                       for bit in range(8) if byte >> bit & 1]  # fmt: skip
            for some in (present[at : at + _AT_ONCE] for at in range(0, len(present), _AT_ONCE)):
                answers = await bus.ask([each for number in some for each in
                                         ((msg.GetDeviceInfo(), number), (msg.GetNode(number), 0))])  # fmt: skip
                for number, info, node in zip(some, answers[::2], answers[1::2], strict=True):
                    if not isinstance(info, msg.DeviceInfo) or not isinstance(node, msg.Node):
                        raise IoError(f"the bus answers {info} and {node} when asked what device {number} is")
                    if node.handle:  # else it has gone meanwhile
                        yield _found(number, info, node)
            if not window.following:
                return
            if window.following < offset + 8 * max(len(window.bitmap), 1):
                raise IoError("the bus goes round in circles: the same devices again")
            offset = window.following


def _found(number: int, info: msg.DeviceInfo, node: msg.Node) -> Found:
    name = f"msg:{number:04x}"
    compatible = tuple(each.decode(errors="replace") for each in node.compatible.split(b"\0") if each)
    ids = (info.vendor, info.id) if max(info.vendor, info.id) < _SIXTEEN else (0, 0)
    return Found(node.handle, f"/{name}", name, compatible, ids)


class _Bus:
    """A connection, whose answers find their requests by token."""

    def __init__(self, socket: Datagrams) -> None:
        self._socket = socket
        self._tokens = itertools.cycle(range(1, _SIXTEEN))
        self._stray = 0

    async def ask(self, asked: Sequence[_Asked]) -> list[Body]:
        """The answers to all that is *asked*, in its order.  Raises IoError, or OSError."""
        waiting: dict[tuple[int, int], int] = {}
        for place, (body, device) in enumerate(asked):
            token = next(self._tokens)
            waiting[device, token] = place
            await self._socket.send(encode(body, device, token))
        answers: dict[int, Body] = {}
        while waiting:
            data = await self._socket.receive()
            try:
                device, token, body = decode(data)
            except ValueError as error:
                raise IoError(f"the bus sends what is no message: {error}") from None
            if msg.is_answer(body) and (device, token) in waiting:
                answers[waiting.pop((device, token))] = body
            else:  # an event: the walk sees what it sees
                self._stray += 1
                if self._stray > _STRAY:
                    raise IoError("the bus sends messages without end, and no answers")
        return [answers[place] for place in range(len(asked))]
