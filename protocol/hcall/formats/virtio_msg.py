"""Messages of virtio-msg: virtio's requests and events as datagrams, instead of registers.

After the draft of the chapter "Virtio Over Messages" of the virtio specification (2025-10, transport revision 1), which
has no final form yet: the text of 2026 has a UUID in DEVICE_INFO, and flags in SET_VQUEUE.  Numbers are little-endian.
A request has an answer of the same number, device and token; an event has none, and the token 0.  Messages of the bus
from 0x80 on are a bus's own: GET_BUS and GET_NODE are ours, and their layout is no part of the draft.

Bytes behind a message, and behind what it needs, are padding, as are reserved fields: nobody looks at them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeAlias

_HEADER: Final = struct.Struct("<BBHHH")  # type, message id, device, token, size of all
_WORD: Final = 4  # bytes of a block of features
_ANSWER: Final = 1  # bits of the type; the others are reserved
_BUS: Final = 2
_EVENTS: Final = 0x40  # bit of the id, below 0x80
_OWN: Final = 0x80  # ids of the bus's own from here on
_OWN_EVENTS: Final = 0xC0  # and of its events

REVISION: Final = 1
HEADER: Final = _HEADER.size
LEAST: Final = 52  # bytes that the longest message of a fixed size has: the draft's least maximum of a bus, of 2026
MOST: Final = 264  # bytes of a message, as the draft recommends: 256, and the header
DEVICES: Final = 1 << 16  # numbers that a bus has
BLOCK: Final = 32  # bits of a block of features

READY: Final = 1  # states of DeviceEvent
REMOVED: Final = 2


class GetDeviceInfo(NamedTuple):
    """What device is this?  The only request that one that is not there answers: with zeroes."""


class DeviceInfo(NamedTuple):
    """What it is."""

    id: int
    vendor: int
    feature_bits: int  # a multiple of 32
    config_size: int  # bytes
    queues: int = 0  # at most
    admin_start: int = 0
    admin_count: int = 0


class GetFeatures(NamedTuple):
    """Which features does the device offer?"""

    block: int  # the first
    number: int


class Features(NamedTuple):
    """Those that it offers, 32 in a block, the lowest bit first."""

    block: int
    blocks: tuple[int, ...]


class SetFeatures(NamedTuple):
    """The driver takes these; FEATURES_OK of the status tells what the device says to that."""

    block: int
    blocks: tuple[int, ...]


class FeaturesSet(NamedTuple):
    """They were noted."""


class GetConfig(NamedTuple):
    """Read the configuration space."""

    offset: int
    length: int


class Config(NamedTuple):
    """What stands there."""

    generation: int
    offset: int
    data: bytes


class SetConfig(NamedTuple):
    """Write to the configuration space."""

    generation: int  # of what the driver has read
    offset: int
    data: bytes


class ConfigSet(NamedTuple):
    """What stands there now; without data: it was rejected."""

    generation: int
    offset: int
    data: bytes


class GetStatus(NamedTuple):
    """Read the device status."""


class StatusIs(NamedTuple):
    """See `hcall.features`."""

    status: int


class SetStatus(NamedTuple):
    """Write the device status; 0 resets."""

    status: int


class StatusSet(NamedTuple):
    """As it is then."""

    status: int


class GetQueue(NamedTuple):
    """How is a virtqueue set up?"""

    queue: int


class Queue(NamedTuple):
    """So; if it can have no entries, there is none."""

    queue: int
    most: int
    size: int
    descriptors: int  # address
    driver: int  # address of the area that the driver writes
    device: int  # address of the area that the device writes


class SetQueue(NamedTuple):
    """Set up a virtqueue."""

    queue: int
    size: int
    descriptors: int
    driver: int
    device: int


class QueueSet(NamedTuple):
    """GET_VQUEUE tells whether it was."""


class ResetQueue(NamedTuple):
    """Set a virtqueue back."""

    queue: int


class QueueReset(NamedTuple):
    """It was."""


class GetShm(NamedTuple):
    """Where is a region of shared memory?"""

    region: int


class Shm(NamedTuple):
    """There; without a length there is none."""

    region: int
    length: int
    address: int


class ConfigChanged(NamedTuple):
    """Event of the device: its status or its configuration is another."""

    status: int
    generation: int
    offset: int
    data: bytes


class Available(NamedTuple):
    """Event of the driver: there is something in a virtqueue."""

    queue: int
    next: int  # entry and wrap, with NOTIFICATION_DATA; else 0


class Used(NamedTuple):
    """Event of the device: it is through with something in a virtqueue."""

    queue: int


class GetDevices(NamedTuple):
    """Which devices are there, in a window of numbers?  Both are multiples of 8."""

    offset: int
    number: int


class Devices(NamedTuple):
    """A bit for each number from *offset* on, the lowest first; *following*: where to go on, 0 is nowhere."""

    offset: int
    following: int
    bitmap: bytes


class Ping(NamedTuple):
    """Are you there?  Either side asks."""

    data: int


class Pong(NamedTuple):
    """Yes, with the same data."""

    data: int


class DeviceEvent(NamedTuple):
    """Event of the bus: a device came or went."""

    device: int
    state: int  # READY or REMOVED


class GetBus(NamedTuple):
    """Ours: what is this bus like?"""


class Bus(NamedTuple):
    """What every bus must make known before a device is talked to."""

    revision: int
    most: int  # bytes of a message
    features: int = 0  # of the transport


class GetNode(NamedTuple):
    """Ours: which node of the device tree is this device?"""

    device: int


class Node(NamedTuple):
    """Its handle, and what drivers match: strings with a 0 behind each, the best first.  Handle 0: it is not there."""

    device: int
    handle: int
    compatible: bytes


Body: TypeAlias = (
    GetDeviceInfo | DeviceInfo | GetFeatures | Features | SetFeatures | FeaturesSet | GetConfig | Config | SetConfig
    | ConfigSet | GetStatus | StatusIs | SetStatus | StatusSet | GetQueue | Queue | SetQueue | QueueSet | ResetQueue
    | QueueReset | GetShm | Shm | ConfigChanged | Available | Used | GetDevices | Devices | Ping | Pong | DeviceEvent
    | GetBus | Bus | GetNode | Node
)  # fmt: skip


class Message(NamedTuple):
    """A message as it came."""

    device: int  # 0 for those of the bus
    token: int  # 0 for events
    body: Body


class _Layout(NamedTuple):
    kind: type[Any]
    fixed: struct.Struct
    counted: int = -1  # which number of the fixed part counts what follows, and is no field of the body
    bits: int = 0  # of each that it counts
    multiples: tuple[int, ...] = ()  # what the numbers of the fixed part are multiples of


def _layout(kind: type[Any], fixed: str = "", counted: int = -1, bits: int = 0, *multiples: int) -> _Layout:
    return _Layout(kind, struct.Struct(f"<{fixed}"), counted, bits, multiples)


#: By type and id.
_LAYOUTS: Final[Mapping[tuple[int, int], _Layout]] = {
    (0, 0x02): _layout(GetDeviceInfo), (_ANSWER, 0x02): _layout(DeviceInfo, "IIIIIHH", -1, 0, 1, 1, BLOCK),
    (0, 0x03): _layout(GetFeatures, "II"), (_ANSWER, 0x03): _layout(Features, "II", 1, BLOCK),
    (0, 0x04): _layout(SetFeatures, "II", 1, BLOCK), (_ANSWER, 0x04): _layout(FeaturesSet),
    (0, 0x05): _layout(GetConfig, "II"), (_ANSWER, 0x05): _layout(Config, "III", 2, 8),
    (0, 0x06): _layout(SetConfig, "III", 2, 8), (_ANSWER, 0x06): _layout(ConfigSet, "III", 2, 8),
    (0, 0x07): _layout(GetStatus), (_ANSWER, 0x07): _layout(StatusIs, "I"),
    (0, 0x08): _layout(SetStatus, "I"), (_ANSWER, 0x08): _layout(StatusSet, "I"),
    (0, 0x09): _layout(GetQueue, "I"), (_ANSWER, 0x09): _layout(Queue, "III4xQQQ"),
    (0, 0x0A): _layout(SetQueue, "I4xI4xQQQ"), (_ANSWER, 0x0A): _layout(QueueSet),
    (0, 0x0B): _layout(ResetQueue, "I"), (_ANSWER, 0x0B): _layout(QueueReset),
    (0, 0x0C): _layout(GetShm, "I"), (_ANSWER, 0x0C): _layout(Shm, "III"),
    (0, 0x40): _layout(ConfigChanged, "IIII", 3, 8), (0, 0x41): _layout(Available, "II"), (0, 0x42): _layout(Used, "I"),
    (_BUS, 0x02): _layout(GetDevices, "HH", -1, 0, 8, 8),
    (_BUS | _ANSWER, 0x02): _layout(Devices, "HHH", 1, 1, 8, 8, 8),
    (_BUS, 0x03): _layout(Ping, "I"), (_BUS | _ANSWER, 0x03): _layout(Pong, "I"),
    (_BUS, 0x40): _layout(DeviceEvent, "HH"),
    (_BUS, 0x80): _layout(GetBus), (_BUS | _ANSWER, 0x80): _layout(Bus, "III"),
    (_BUS, 0x81): _layout(GetNode, "H"), (_BUS | _ANSWER, 0x81): _layout(Node, "HQH", 2, 8),
}  # fmt: skip
_PLACES: Final = {layout.kind: place for place, layout in _LAYOUTS.items()}


def is_answer(body: Body) -> bool:
    """Whether *body* answers a request."""
    return bool(_PLACES[type(body)][0] & _ANSWER)


def is_event(body: Body) -> bool:
    """Whether *body* wants no answer, and is none."""
    return _is_event(*_PLACES[type(body)])


def _is_event(sort: int, number: int) -> bool:
    return number >= _OWN_EVENTS if number >= _OWN else bool(number & _EVENTS)


def encode(body: Body, device: int = 0, token: int = 0, most: int = MOST) -> bytes:
    """A whole message.  Raises ValueError for a number too large, a token that is missing, or what is too long."""
    sort, number = _PLACES[type(body)]
    _, fixed, counted, bits, multiples = _LAYOUTS[sort, number]
    numbers: list[int] = [*body]
    tail = b""
    try:
        if bits:
            given: Any = numbers.pop()
            tail = given if bits != BLOCK else struct.pack(f"<{len(given)}I", *given)
            numbers.insert(counted, len(tail) * 8 // bits)
        size = HEADER + fixed.size + len(tail)
        _check(sort, number, device, token, size, most)
        _check_multiples(numbers, multiples)
        return _HEADER.pack(sort, number, device, token, size) + fixed.pack(*numbers) + tail
    except (struct.error, ValueError) as error:
        raise ValueError(f"{body} is no message: {error}") from None


def decode(data: bytes, most: int = MOST) -> Message:
    """The message that *data*, a datagram, begins with.  Raises ValueError if it is malformed, or unknown."""
    if len(data) < HEADER:
        raise ValueError(f"{len(data)} bytes are no header")
    sort, number, device, token, size = _HEADER.unpack_from(data)
    sort &= _ANSWER | _BUS
    if size > len(data):
        raise ValueError(f"{len(data)} bytes of {size}")
    _check(sort, number, device, token, size, most)
    layout = _LAYOUTS.get((sort, number))
    if layout is None:
        raise ValueError(f"there is no message {number:#x} of type {sort}")
    kind, fixed, counted, bits, multiples = layout
    end = HEADER + fixed.size
    if size < end:
        raise ValueError(f"{kind.__name__} has {end} bytes, not {size}")
    numbers: list[Any] = [*fixed.unpack_from(data, HEADER)]
    _check_multiples(numbers, multiples)
    if bits:
        count = numbers.pop(counted)
        length = count * bits // 8
        if size < end + length:
            raise ValueError(f"{kind.__name__} has {end + length} bytes, not {size}")
        numbers.append(struct.unpack_from(f"<{count}I", data, end) if bits == BLOCK else data[end : end + length])
    return Message(device, token, kind(*numbers))


def _check(sort: int, number: int, device: int, token: int, size: int, most: int) -> None:
    """What a header must be like.  Raises ValueError."""
    if not HEADER <= size <= most:
        raise ValueError(f"a message has {HEADER} to {most} bytes, not {size}")
    if sort & _BUS and device:
        raise ValueError(f"a message of the bus is for no device, {device} say")
    if bool(token) is _is_event(sort, number):
        raise ValueError("an event has no token" if token else "without a token there is no answer")
    if sort & _ANSWER and _is_event(sort, number):
        raise ValueError("an event is no answer")


def _check_multiples(numbers: list[int], multiples: tuple[int, ...]) -> None:
    for value, of in zip(numbers, multiples, strict=False):
        if value % of:
            raise ValueError(f"{value} is no multiple of {of}")
