"""Messages of the system manager: buttons, temperature, and the end of a guest.

After the PlayStation 3's, as Linux knows it (drivers/ps3/ps3-sys-manager.c): a header of 16 bytes, and a payload of 8
or 16; numbers are big-endian.  What REQUEST_ERROR carries is not known there; here it is the service, and a reason.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple, TypeAlias

_HEADER: Final = struct.Struct(">BB2xIH2xI")  # version, size, size of the payload, service, tag
_VERSION: Final = 1
_PAYLOADS: Final = (8, 16)
LONGEST: Final = _HEADER.size + max(_PAYLOADS)  # bytes of a message


class Service(enum.IntEnum):
    """What a message is about."""

    REQUEST = 1  # guest to host
    RESPONSE = 2  # guest to host
    COMMAND = 3  # host to guest
    EXTERN_EVENT = 4  # host to guest
    SET_NEXT_OP = 5  # guest to host
    REQUEST_ERROR = 6  # host to guest
    SET_ATTR = 8  # guest to host


class Attribute(enum.IntFlag):
    """Which events a guest is told."""

    NONE = 0
    POWER = 1
    RESET = 2
    THERMAL = 4
    CONTROLLER = 8
    ALL = 15


class Happened(enum.IntEnum):
    """Type of an event; its value is how it was pressed, for how many milliseconds, or where it is hot."""

    POWER_PRESSED = 3
    POWER_RELEASED = 4
    RESET_PRESSED = 5
    RESET_RELEASED = 6
    THERMAL_ALERT = 7
    THERMAL_CLEARED = 8


class Pressed(enum.IntEnum):
    """How a button was pressed."""

    HARD = 0
    SOFT = 1


class Operation(enum.IntEnum):
    """What follows when the guest has ended."""

    SHUTDOWN = 1
    REBOOT = 2
    PARTITION_REBOOT = 0x82


class Reason(enum.IntEnum):
    """Why a message had no effect."""

    BAD_VALUE = 1
    WRONG_TIME = 2
    NO_SUCH_SERVICE = 3


SHUTDOWN: Final = 1  # the one type of requests and commands
SELF: Final = 0  # the partition of a request
OTHER_OS: Final = 3  # the partition of a next operation


class SetAttr(NamedTuple):
    """Tell the guest these events, and no others."""

    attributes: int  # see Attribute


class SetNextOp(NamedTuple):
    """What to do when the guest has ended."""

    operation: int  # see Operation
    partition: int = OTHER_OS
    wake: int = 0  # bit set: what else wakes the machine


class Request(NamedTuple):
    """The guest wants to end."""

    type: int = SHUTDOWN
    partition: int = SELF


class Command(NamedTuple):
    """The guest is to end."""

    type: int = SHUTDOWN


class Response(NamedTuple):
    """The guest has done what it was told, or has not."""

    status: int  # 0 = done


class Event(NamedTuple):
    """Something has happened."""

    type: int  # see Happened
    value: int


class RequestError(NamedTuple):
    """A message had no effect."""

    service: int  # of that message
    reason: int  # see Reason


Body: TypeAlias = SetAttr | SetNextOp | Request | Command | Response | Event | RequestError
_BODIES: Final[dict[int, tuple[type[Body], int, struct.Struct]]] = {  # class, version, and the layout behind that
    Service.REQUEST: (Request, 1, struct.Struct(">xBB13x")),
    Service.RESPONSE: (Response, 1, struct.Struct(">x3xB11x")),
    Service.COMMAND: (Command, 1, struct.Struct(">xB14x")),
    Service.EXTERN_EVENT: (Event, 1, struct.Struct(">xB2xI8x")),
    Service.SET_NEXT_OP: (SetNextOp, 3, struct.Struct(">xBBxI8x")),
    Service.REQUEST_ERROR: (RequestError, 1, struct.Struct(">x1xHI8x")),
    Service.SET_ATTR: (SetAttr, 1, struct.Struct(">x3xI")),  # Linux declares 16 bytes, and means 8
}
_SERVICES: Final = {body: service for service, (body, _, _) in _BODIES.items()}


class Message(NamedTuple):
    """A message as it came: its header is good, its payload may be anything."""

    service: int
    tag: int
    payload: bytes

    def body(self) -> Body:
        """What it says.  Raises ValueError."""
        if self.service not in _BODIES:
            raise ValueError(f"there is no service {self.service}")
        kind, version, layout = _BODIES[self.service]
        if self.payload[0] != version or len(self.payload) < layout.size:
            raise ValueError(
                f"{kind.__name__} has version {version} and {layout.size} bytes, "
                f"not version {self.payload[0]} and {len(self.payload)}"
            )
        return kind(*layout.unpack_from(self.payload))


def encode(body: Body, tag: int = 0) -> bytes:
    """A whole message, with a payload of 16 bytes, as Linux has it.  Raises ValueError for a number too large."""
    service = _SERVICES[type(body)]
    _, version, layout = _BODIES[service]
    try:
        payload = bytearray(layout.pack(*body).ljust(max(_PAYLOADS), b"\0"))
        payload[0] = version
        return _HEADER.pack(_VERSION, _HEADER.size, len(payload), service, tag) + payload
    except struct.error as error:
        raise ValueError(f"{body} with tag {tag} is no message: {error}") from None


def messages(buffer: bytearray) -> Iterator[Message]:
    """Take whole messages from the front of *buffer*, each when it is asked for.

    Raises ValueError for a header that is none; behind it nothing can be understood.
    """
    while len(buffer) >= _HEADER.size:
        version, size, length, service, tag = _HEADER.unpack_from(buffer)
        if version != _VERSION or size != _HEADER.size or length not in _PAYLOADS:
            raise ValueError(f"no header: version {version}, {size} bytes, and {length} to come")
        end = size + length
        if len(buffer) < end:
            return
        message = Message(service, tag, bytes(buffer[size:end]))
        del buffer[:end]
        yield message
