"""What travels on the socket: arrays whose first element is the kind.  docs/protocol.md is the specification."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple, TypeAlias

from .errors import ProtocolViolation, Status

CALL, REPLY, IRQ, ACK, HELLO, WELCOME, END = range(7)

# CALL   slot seq number handle args areas    an area is (address, length, direction) in guest memory, bytes for
#                                             the device, or an int: room in the reply, the call's only area then
# REPLY  slot seq status value                value is a sentence unless status is OK
# IRQ    tag vector count                     a hint; tag is OPEN's cookie, or the handle; count the vector's count
# ACK    handle vector seen                   no slot, no reply; a count beyond *seen* is hinted again


class Direction(enum.IntEnum):
    """Of an area in guest memory."""

    TO_DEVICE = 0  # the device reads it
    TO_GUEST = 1  # the device fills it


Areas: TypeAlias = tuple[object, ...]
Args: TypeAlias = tuple[object, ...]

MAGIC: Final = "hcall"
VERSION: Final = 1
SLOTS: Final = 64
MAX_SLOTS: Final = 4096
TOKEN_BYTES: Final = 16
FD_LANE: Final = 1 << 0  # feature bit: the last descriptor of HELLO is one end of a SOCK_SEQPACKET pair
FEATURES: Final = FD_LANE


class Hello(NamedTuple):
    """A guest's first message; the memory descriptors travel with it, in the order of *regions*."""

    kind: int
    magic: str
    lowest: int  # protocol versions the guest speaks
    highest: int
    features: int
    name: str
    token: bytes  # TOKEN_BYTES, made by the guest; the same again resumes the session
    regions: tuple[tuple[int, int], ...]  # (guest-physical address, bytes), one memfd each

    @classmethod
    def check(cls, message: object) -> Hello:
        """*message* as a Hello, its shape checked.  Raises ProtocolViolation."""
        if type(message) is not tuple or len(message) < 4 or message[:2] != (HELLO, MAGIC):
            raise ProtocolViolation(f"the first message must be HELLO with the magic {MAGIC!r}")
        lowest, highest = message[2:4]  # looked at first: another version may have another shape
        if not int is type(lowest) is type(highest) or not lowest <= VERSION <= highest:
            raise ProtocolViolation(f"this host speaks version {VERSION} only", Status.NOT_ALLOWED)
        hello = cls._make(message) if len(message) == len(cls._fields) else None
        if (
            hello is None
            or (type(hello.features), type(hello.name), type(hello.token)) != (int, str, bytes)
            or len(hello.token) != TOKEN_BYTES
            or not _are_regions(hello.regions)
        ):
            raise ProtocolViolation("HELLO is [4, magic, lowest, highest, features, name, token, regions]")
        return hello


def _are_regions(regions: object) -> bool:
    return type(regions) is tuple and all(
        type(region) is tuple and tuple(map(type, region)) == (int, int) for region in regions
    )


class Welcome(NamedTuple):
    """The host's answer to HELLO."""

    kind: int
    version: int
    features: int  # those of HELLO that the host knows, too
    epoch: int  # one life of the host
    slots: int
    resumed: bool  # the token was known: handles, features and counters are as they were

    @classmethod
    def check(cls, message: tuple[object, ...]) -> Welcome:
        """*message* as a Welcome, its shape checked.  Raises ProtocolViolation."""
        if tuple(map(type, message)) != (int, int, int, int, int, bool) or not 0 < message[4] <= MAX_SLOTS:  # type: ignore[operator]  # an int, as was just seen
            raise ProtocolViolation("WELCOME is [5, version, features, epoch, slots, resumed]")
        if message[1] != VERSION:
            raise ProtocolViolation(f"this guest speaks version {VERSION} only, not {message[1]}")
        return cls._make(message)


class End(NamedTuple):
    """The session is over, or never began; nothing of it can be resumed."""

    kind: int
    status: int
    text: str
    lowest: int  # the protocol versions that the host serves
    highest: int

    @classmethod
    def check(cls, message: tuple[object, ...]) -> End:
        """*message* as an End, its shape checked.  Raises ProtocolViolation."""
        if tuple(map(type, message)) != (int, int, str, int, int):
            raise ProtocolViolation("END is [6, status, text, lowest, highest]")
        return cls._make(message)


def end(status: Status, text: str) -> End:
    """The END message of this version."""
    return End(END, status, text, VERSION, VERSION)
