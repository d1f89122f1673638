"""What the messages of one peer do: the bus with its devices, the device status, features and configuration.

A device that the peer does not see is not there.  What is of no use, or for a device that is not there, has no answer.
The configuration space of a device is its properties, as a map of msgpack: to be read, not to be written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

from hcall.errors import HcallError
from hcall.features import DeviceStatus
from hcall.formats import virtio_msg as msg
from hcall.formats.virtio_msg import BLOCK, HEADER, MOST, Body, Message
from hcall.wire import encode, fits

from ...calls.account import Account
from ...calls.hold import Hold
from ...model.later import Later
from ...tree.faces.msg import Numbers
from ...tree.node import Node

LEAVING: Final = 0x8000  # state of a device: its driver is asked to let go of it.  Ours, as all from there on are
_VENDOR: Final = 0x1AF4  # of a model that has no ids: its class id is the device's then
_FEATURE_BITS: Final = 64
_WORD: Final = (1 << BLOCK) - 1
_AGREED: Final = int(DeviceStatus.FEATURES_OK | DeviceStatus.DRIVER_OK)
_BLOCKS: Final = (MOST - HEADER - 8) // 4  # of features in an answer
_CONFIG: Final = MOST - HEADER - 12  # bytes of configuration in an answer
_WINDOW: Final = (MOST - HEADER - 6) * 8  # device numbers in an answer
_SEEN: Final = 512  # if each has to be looked at, which takes 0.5 us
_NAMES: Final = MOST - HEADER - 12  # bytes of `compatible` in an answer

Answer: TypeAlias = Body | Later[Body] | None


class Peer(Protocol):
    """Who sent them."""

    account: Account

    def send(self, body: Body, device: int = 0, token: int = 0) -> None:
        """Send it a message."""

    def soon(self, does: Callable[[], object]) -> None:
        """Do that in the next turn of the loop."""


class _Held:
    """A device that the peer has open."""

    __slots__ = ("beyond", "closes", "hold", "selected")

    def __init__(self, hold: Hold) -> None:
        self.hold = hold
        self.selected = 0  # features
        self.beyond = False  # it selected one that no device has, behind the 64 that there are
        self.closes = False

    @property
    def status(self) -> int:
        return self.hold.negotiation.status


class Answers:
    """Of one peer."""

    __slots__ = ("_changed", "_holds", "_numbers", "_peer")

    def __init__(self, numbers: Numbers, peer: Peer) -> None:
        self._numbers, self._peer = numbers, peer
        self._holds: dict[int, _Held] = {}  # by device number
        self._changed: set[int] = set()  # device numbers of which it is to be told

    def take(self, message: Message) -> None:
        """Do what *message* says, and answer it."""
        device, token, body = message
        kind = type(body)
        if kind in _OF_BUS:
            self._peer.send(_OF_BUS[kind](self, body), 0, token)
        elif kind in _OF_DEVICES:
            node = self._node(device)
            answer = _OF_DEVICES[kind](self, device, node, body) if node is not None else _absent(body)
            if isinstance(answer, Later):
                answer.then(partial(self._answer, device, token))
            elif answer is not None:
                self._peer.send(answer, device, token)

    def gone(self, device: int) -> None:
        """*device* is not open any more."""
        held = self._holds.pop(device, None)
        if held is not None:
            held.hold.plugged.watchers.pop(self, None)

    def close(self) -> None:
        """Nobody wants to know anything any more."""
        for device in list(self._holds):
            self.gone(device)

    def _change(self, device: int) -> None:
        """*device*, which is open, has another status or other properties."""
        if not self._changed:
            self._peer.soon(self._tell)
        self._changed.add(device)

    def _tell(self) -> None:
        devices, self._changed = sorted(self._changed), set()
        for device in devices:
            node, held = self._node(device), self._held(device)
            if node is not None and held is not None and not held.closes:
                self._peer.send(msg.ConfigChanged(held.status, _generation(node), 0, b""), device)

    def _answer(self, device: int, token: int, body: Any) -> None:
        if not isinstance(body, Exception):
            self._peer.send(body, device, token)

    def _node(self, device: int) -> Node | None:
        node = self._numbers.node(device)
        return node if node is not None and self._peer.account.sees(node) else None

    def _held(self, device: int) -> _Held | None:
        held = self._holds.get(device)
        if held is not None and not held.closes and held.hold.handle not in self._peer.account.holds:
            self.gone(device)  # the policy, say, has it no longer open
            return None
        return held

    # The bus.

    def _devices(self, asked: msg.GetDevices) -> Body:
        sees = self._peer.account.owner.sees
        length = min(asked.number, _WINDOW if sees is None else _SEEN, msg.DEVICES - asked.offset)
        following = self._numbers.after(asked.offset + length)
        return msg.Devices(asked.offset, following, self._numbers.window(asked.offset, length, sees))

    def _bus(self, asked: msg.GetBus) -> Body:
        return msg.Bus(msg.REVISION, MOST)

    def _pong(self, asked: msg.Ping) -> Body:
        return msg.Pong(asked.data)

    def _which(self, asked: msg.GetNode) -> Body:
        node = self._node(asked.device)
        if node is None:
            return msg.Node(asked.device, 0, b"")
        names = b""
        for name in node.compatible:
            more = name.encode() + b"\0"
            if len(names) + len(more) > _NAMES:
                break
            names += more
        return msg.Node(asked.device, node.handle, names)

    # A device.

    def _info(self, device: int, node: Node, asked: msg.GetDeviceInfo) -> Answer:
        vendor, number = node.ids
        if node.ids == (0, 0) and node.plugged is not None:
            vendor, number = _VENDOR, node.plugged.class_id
        return msg.DeviceInfo(number, vendor, _FEATURE_BITS, len(_config(node)))

    def _features(self, device: int, node: Node, asked: msg.GetFeatures) -> Answer:
        if asked.number > _BLOCKS or node.plugged is None:
            return None
        offered, blocks = node.plugged.device.offered, range(asked.block, asked.block + asked.number)
        return msg.Features(asked.block, tuple(_block(offered, block) for block in blocks))

    def _set_features(self, device: int, node: Node, asked: msg.SetFeatures) -> Answer:
        held = self._held(device)
        if held is not None and not held.closes:
            selected, beyond = held.selected, held.beyond
            for block, bits in enumerate(asked.blocks, asked.block):
                shift = BLOCK * block
                if shift < _FEATURE_BITS:
                    selected = selected & ~(_WORD << shift) | bits << shift
                else:
                    beyond = beyond or bool(bits)
            try:
                held.hold.negotiation.accept(selected)
            except HcallError:  # out of turn: nothing is changed
                return msg.FeaturesSet()
            held.selected, held.beyond = selected, beyond
        return msg.FeaturesSet()

    def _read(self, device: int, node: Node, asked: msg.GetConfig) -> Answer:
        config = _config(node)
        if asked.length > _CONFIG or asked.offset + asked.length > len(config):
            return None
        data = config[asked.offset : asked.offset + asked.length]
        return msg.Config(_generation(node), asked.offset, data)

    def _write(self, device: int, node: Node, asked: msg.SetConfig) -> Answer:
        return msg.ConfigSet(_generation(node), asked.offset, b"")

    def _status(self, device: int, node: Node, asked: msg.GetStatus) -> Answer:
        held = self._held(device)
        return msg.StatusIs(held.status if held is not None else 0)

    def _set_status(self, device: int, node: Node, asked: msg.SetStatus) -> Answer:
        held, status = self._held(device), asked.status
        if held is None:
            held = self._opened(device, node) if status else None
            if held is None:
                return msg.StatusSet(0)
        if held.closes:
            return msg.StatusSet(held.status)
        if status:
            if held.beyond:
                status &= ~_AGREED
            with contextlib.suppress(HcallError, OSError):  # out of turn, say: the status tells
                held.hold.write_status(status)
            if held.status:
                return msg.StatusSet(held.status)
        return self._reset(device, held)

    def _opened(self, device: int, node: Node) -> _Held | None:
        try:
            hold = self._peer.account.open(node, 0)
        except HcallError:
            return None
        held = self._holds[device] = _Held(hold)
        hold.plugged.watchers[self] = partial(self._change, device)
        return held

    def _reset(self, device: int, held: _Held) -> Answer:
        """It is given back, too: a device that nobody has set up is for everybody."""
        later: Later[Body] = Later()
        held.closes = True

        def closed() -> None:
            if self._holds.get(device) is held:
                self.gone(device)
            later.done(msg.StatusSet(0))

        held.hold.close(closed)
        return later

    def _queue(self, device: int, node: Node, asked: msg.GetQueue) -> Answer:
        return msg.Queue(asked.queue, 0, 0, 0, 0, 0)

    def _set_queue(self, device: int, node: Node, asked: msg.SetQueue) -> Answer:
        return msg.QueueSet()

    def _reset_queue(self, device: int, node: Node, asked: msg.ResetQueue) -> Answer:
        return msg.QueueReset()

    def _shm(self, device: int, node: Node, asked: msg.GetShm) -> Answer:
        return msg.Shm(asked.region, 0, 0)


def _absent(asked: Body) -> Answer:
    """Of a device that is not there."""
    return msg.DeviceInfo(0, 0, 0, 0) if isinstance(asked, msg.GetDeviceInfo) else None


def _config(node: Node) -> bytes:
    """Its configuration space; what no message carries is left out."""
    return encode({name: value for name, value in node.properties().items() if fits(value)})


def _generation(node: Node) -> int:
    return node.plugged.generation & _WORD if node.plugged is not None else 0


def _block(features: int, block: int) -> int:
    return features >> BLOCK * block & _WORD if block * BLOCK < _FEATURE_BITS else 0


_OF_BUS: Final[Mapping[type, Callable[[Answers, Any], Body]]] = {
    msg.GetDevices: Answers._devices, msg.Ping: Answers._pong, msg.GetBus: Answers._bus, msg.GetNode: Answers._which,
}  # fmt: skip
_OF_DEVICES: Final[Mapping[type, Callable[[Answers, int, Node, Any], Answer]]] = {
    msg.GetDeviceInfo: Answers._info, msg.GetFeatures: Answers._features, msg.SetFeatures: Answers._set_features,
    msg.GetConfig: Answers._read, msg.SetConfig: Answers._write,
    msg.GetStatus: Answers._status, msg.SetStatus: Answers._set_status,
    msg.GetQueue: Answers._queue, msg.SetQueue: Answers._set_queue, msg.ResetQueue: Answers._reset_queue,
    msg.GetShm: Answers._shm,
}  # fmt: skip
