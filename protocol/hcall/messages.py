"""What travels on the socket: arrays whose first element is the kind.  docs/protocol.md is the specification."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple, TypeAlias

from .errors import ProtocolViolation, Status

CALL, REPLY, IRQ, ACK, HELLO, WELCOME, END, CALLS, REPLIES = range(9)

# CALL   slot seq number handle args areas    an area is (address, length, direction) in guest memory, bytes for
#                                             the device, or an int: room in the reply, the call's only area then
# REPLY  slot seq status value                value is a sentence unless status is OK
# IRQ    tag vector count                     a hint; tag is OPEN's cookie, or the handle; count the vector's count
# ACK    handle vector seen                   no slot, no reply; a count beyond *seen* is hinted again
# CALLS  slot seq number handle (args, ...) (areas, ...)    a bundle: several calls in one slot, with BUNDLES
# REPLIES slot seq first statuses (value, ...)              of some of them, from *first* on; 0 is OK for all of these


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
MAX_EPOCH: Final = (1 << 15) - 1  # handles are epoch << 48 | counter, and fit a signed int, too
TOKEN_BYTES: Final = 16
FD_LANE: Final = 1 << 0  # feature bit: the last descriptor of HELLO is one end of a SOCK_SEQPACKET pair
BUNDLES: Final = 1 << 1  # feature bit: CALLS and REPLIES are used
FEATURES: Final = FD_LANE | BUNDLES


#: (guest-physical address, bytes) of a whole memfd, or of the part of one that begins at a third number.
Region: TypeAlias = tuple[int, int] | tuple[int, int, int]


class Hello(NamedTuple):
    """A guest's first message; the memory descriptors travel with it, in the order of *regions*."""

    kind: int
    magic: str
    lowest: int  # protocol versions the guest speaks
    highest: int
    features: int
    name: str
    token: bytes  # TOKEN_BYTES, made by the guest; the same again resumes the session
    regions: tuple[Region, ...]  # a memfd for each

    @classmethod
    def check(cls, message: object) -> Hello:
        """*message* as a Hello, its shape checked.  Raises ProtocolViolation."""
        if type(message) is not tuple or len(message) < 4 or not _is_magic(message):
            raise ProtocolViolation(f"the first message must be HELLO with the magic {MAGIC!r}")
        lowest, highest = message[2:4]
        if int is type(lowest) is type(highest) and not lowest <= VERSION <= highest:
            # Looked at before the rest: another version may have another shape.
            raise ProtocolViolation(f"this host speaks version {VERSION} only", Status.NOT_ALLOWED)
        hello = cls._make(message) if len(message) == len(cls._fields) else None
        if (
            hello is None
            or (*map(type, hello[2:7]),) != (int, int, int, str, bytes)
            or hello.features < 0
            or len(hello.token) != TOKEN_BYTES
            or not _are_regions(hello.regions)
        ):
            raise ProtocolViolation("HELLO is [4, magic, lowest, highest, features, name, token, regions]")
        return hello


def _is_magic(message: tuple[object, ...]) -> bool:
    return type(message[0]) is int and message[:2] == (HELLO, MAGIC)


def _are_regions(regions: object) -> bool:
    return type(regions) is tuple and all(
        type(region) is tuple and len(region) in (2, 3) and {*map(type, region)} == {int} for region in regions
    )


class Welcome(NamedTuple):
    """The host's answer to HELLO."""

    kind: int
    version: int
    features: int  # those of HELLO that the host knows, too
    epoch: int  # one life of the host, 1 to MAX_EPOCH
    slots: int
    resumed: bool  # the token was known: handles, features and counters are as they were

    @classmethod
    def check(cls, message: tuple[object, ...]) -> Welcome:
        """*message* as a Welcome, its shape checked.  Raises ProtocolViolation."""
        if tuple(map(type, message)) != (int, int, int, int, int, bool):
            raise ProtocolViolation("WELCOME is [5, version, features, epoch, slots, resumed]")
        welcome = cls._make(message)
        if welcome.version != VERSION:
            raise ProtocolViolation(f"this guest speaks version {VERSION} only, not {welcome.version}")
        if welcome.features < 0 or not 0 < welcome.epoch <= MAX_EPOCH or not 0 < welcome.slots <= MAX_SLOTS:
            raise ProtocolViolation(f"a WELCOME with features {welcome.features:#x}, epoch {welcome.epoch}, "
                                    f"{welcome.slots} slots")  # fmt: skip
        return welcome


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
