"""The messages of NBD, the network block device protocol, fixed newstyle: shapes and numbers, no I/O.

After doc/proto.md of https://github.com/NetworkBlockDevice/nbd; all numbers are big-endian.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import Final, NamedTuple

from hcall.errors import BadArgument, HcallError, LinkLost, NoSpace, NoSuchCall, ReadOnly, Reset, StaleHandle

NBD_MAGIC: Final = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC: Final = 0x49484156454F5054  # "IHAVEOPT"
OPTION_REPLY_MAGIC: Final = 0x0003E889045565A9
REQUEST_MAGIC: Final = 0x25609513
REPLY_MAGIC: Final = 0x67446698

FIXED_NEWSTYLE: Final = 1  # handshake flags, the server's and the client's
NO_ZEROES: Final = 2
MAX_OPTION: Final = 16 * 1024  # bytes that follow an option: a name, at most 4,096, and what may be asked about it
MAX_PAYLOAD: Final = 32 << 20  # bytes of one read or write: what clients may assume that did not ask
_PREFERRED: Final = 4096  # bytes of a request
_MAX_NAME: Final = 4096
_MAX_OPTIONS: Final = 64  # that a client may ask for before it gets to work

CLIENT_FLAGS: Final = Struct(">I")
OPTION: Final = Struct(">QII")  # magic, option, length of what follows
REQUEST: Final = Struct(">IHHQQI")  # magic, flags, command, cookie, offset, length
REPLY: Final = Struct(">IIQ")  # magic, error, cookie
_GREETING: Final = Struct(">QQH")
_OPTION_REPLY: Final = Struct(">QIII")  # magic, option, reply, length
_EXPORT: Final = Struct(">QH")  # size, transmission flags
_INFO_EXPORT: Final = Struct(">HQH")
_INFO_BLOCK_SIZE: Final = Struct(">HIII")


class Option(enum.IntEnum):
    """What a client may ask for before the transmission."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    INFO = 6
    GO = 7


class OptionReply(enum.IntEnum):
    """What a server answers to an option."""

    ACK = 1
    SERVER = 2
    INFO = 3
    UNSUPPORTED = 0x80000001
    INVALID = 0x80000003
    UNKNOWN = 0x80000006
    TOO_BIG = 0x80000009


class Info(enum.IntEnum):
    """What can be known about an export."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Flag(enum.IntFlag):
    """What an export can do: its transmission flags."""

    HAS_FLAGS = 1
    READ_ONLY = 2
    SEND_FLUSH = 4
    SEND_FUA = 8
    SEND_TRIM = 32
    SEND_WRITE_ZEROES = 64
    CAN_MULTI_CONN = 256


class Command(enum.IntEnum):
    """What a client may ask for."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    WRITE_ZEROES = 6


FUA: Final = 1  # flags of a command: answer when it is stable
NO_HOLE: Final = 2


class Error(enum.IntEnum):
    """How a command fails."""

    EPERM = 1
    EIO = 5
    EINVAL = 22
    ENOSPC = 28
    ESHUTDOWN = 108


class BadMessage(ValueError):
    """The peer does not speak the protocol: nothing more can be said on this connection."""


class Request(NamedTuple):
    """A command of a client; a WRITE's bytes follow it."""

    flags: int
    command: int
    cookie: int  # the client's: the answer has it, too
    offset: int
    length: int


class Choice(NamedTuple):
    """What GO and INFO ask: for the export *name*, and what they want to know about it."""

    name: str
    infos: tuple[int, ...]


def greeting() -> bytes:
    """A server's first words."""
    return _GREETING.pack(NBD_MAGIC, OPTION_MAGIC, FIXED_NEWSTYLE | NO_ZEROES)


def client_flags(data: bytes) -> bool:
    """Whether the client wants no zeroes after EXPORT_NAME.  Raises BadMessage for flags that nobody offered."""
    (flags,) = CLIENT_FLAGS.unpack(data)
    if not flags & FIXED_NEWSTYLE or flags & ~(FIXED_NEWSTYLE | NO_ZEROES):
        raise BadMessage(f"client flags {flags:#x}")
    return bool(flags & NO_ZEROES)


def option(head: bytes | bytearray | memoryview) -> tuple[int, int]:
    """(option, bytes that follow).  Raises BadMessage."""
    magic, number, length = OPTION.unpack(head)
    if magic != OPTION_MAGIC:
        raise BadMessage(f"magic {magic:#x} where an option begins")
    return number, length


def choice(data: bytes) -> Choice:
    """What follows GO and INFO.  Raises ValueError."""
    length = int.from_bytes(data[:4], "big")
    rest = data[4 + length :]
    count = int.from_bytes(rest[:2], "big")
    if len(data) < 6 + length or length > _MAX_NAME or len(rest) != 2 + 2 * count:
        raise ValueError("lengths that do not fit")
    infos = tuple(int.from_bytes(rest[at : at + 2], "big") for at in range(2, len(rest), 2))
    return Choice(data[4 : 4 + length].decode(), infos)


def option_reply(number: int, reply: OptionReply, data: bytes = b"") -> bytes:
    """One answer to the option *number*."""
    return _OPTION_REPLY.pack(OPTION_REPLY_MAGIC, number, reply, len(data)) + data


def server(name: str) -> bytes:
    """What follows the SERVER reply: an export that there is."""
    encoded = name.encode()
    return len(encoded).to_bytes(4, "big") + encoded


def info_export(size: int, flags: int) -> bytes:
    """What follows the INFO reply that no client can do without."""
    return _INFO_EXPORT.pack(Info.EXPORT, size, flags)


def info_block_size(least: int, preferred: int, most: int) -> bytes:
    """What follows the INFO reply about sizes of requests, in bytes."""
    return _INFO_BLOCK_SIZE.pack(Info.BLOCK_SIZE, least, preferred, most)


def export(size: int, flags: int, no_zeroes: bool) -> bytes:
    """The answer to EXPORT_NAME; the transmission begins after it."""
    return _EXPORT.pack(size, flags) + (b"" if no_zeroes else bytes(124))


def request(head: bytes | bytearray | memoryview, at: int = 0) -> Request:
    """The request whose 28 bytes begin *at*.  Raises BadMessage."""
    magic, *fields = REQUEST.unpack_from(head, at)
    if magic != REQUEST_MAGIC:
        raise BadMessage(f"magic {magic:#x} where a request begins")
    return Request(*fields)


def reply(cookie: int, error: int = 0) -> bytes:
    """The simple reply to a request; a READ's bytes follow it."""
    return REPLY.pack(REPLY_MAGIC, error, cookie)


def error_of(error: BaseException) -> Error:
    """What to tell a client about *error*."""
    if isinstance(error, BadArgument | NoSuchCall):
        return Error.EINVAL
    if isinstance(error, ReadOnly):
        return Error.EPERM
    if isinstance(error, NoSpace):
        return Error.ENOSPC
    if isinstance(error, StaleHandle | Reset | LinkLost):
        return Error.ESHUTDOWN
    assert isinstance(error, HcallError)
    return Error.EIO


class Stage(enum.Enum):
    """How far a handshake is."""

    FLAGS = enum.auto()
    OPTIONS = enum.auto()
    TRANSMISSION = enum.auto()  # over: requests come
    ABORTED = enum.auto()  # over: the client has had enough


class Handshake:
    """A server's half of the handshake, after its greeting: bytes in, bytes out.

    It is for one export, which is also the default.
    """

    def __init__(self, name: str, size: int, flags: int) -> None:
        """*size* is in bytes, *flags* are transmission flags."""
        self.stage = Stage.FLAGS
        self.rest = bytearray()  # what came behind the handshake, once it is over
        self._name, self._size, self._flags = name, size, flags
        self._no_zeroes = False
        self._options = 0

    def feed(self, data: bytes) -> bytes:
        """What to answer to *data*.  Raises BadMessage, after which nothing more can be said."""
        self.rest += data
        answers = bytearray()
        while True:
            if self.stage is Stage.FLAGS and len(self.rest) >= CLIENT_FLAGS.size:
                self._no_zeroes = client_flags(self._take(CLIENT_FLAGS.size))
                self.stage = Stage.OPTIONS
            elif self.stage is Stage.OPTIONS and len(self.rest) >= OPTION.size:
                number, length = option(self.rest[: OPTION.size])
                if length > MAX_OPTION or self._options == _MAX_OPTIONS:
                    raise BadMessage("an option that is too long, or one too many")
                if len(self.rest) < OPTION.size + length:
                    return bytes(answers)
                self._options += 1
                answers += self._answer(number, self._take(OPTION.size + length)[OPTION.size :])
            else:
                return bytes(answers)

    def _take(self, count: int) -> bytes:
        data = bytes(self.rest[:count])
        del self.rest[:count]
        return data

    def _answer(self, number: int, data: bytes) -> bytes:
        if number == Option.EXPORT_NAME:
            if data.decode(errors="replace") not in ("", self._name):
                raise BadMessage(f"there is no export {data[:64]!r}")  # and no other way to say so
            self.stage = Stage.TRANSMISSION
            return export(self._size, self._flags, self._no_zeroes)
        if number in (Option.GO, Option.INFO):
            return self._describe(number, data)
        if number == Option.LIST:
            if data:
                return option_reply(number, OptionReply.INVALID)
            return option_reply(number, OptionReply.SERVER, server(self._name)) + option_reply(number, OptionReply.ACK)
        if number == Option.ABORT:
            self.stage = Stage.ABORTED
            return option_reply(number, OptionReply.ACK)
        return option_reply(number, OptionReply.UNSUPPORTED)

    def _describe(self, number: int, data: bytes) -> bytes:
        try:
            wanted, _ = choice(data)
        except ValueError as error:
            return option_reply(number, OptionReply.INVALID, str(error).encode())
        if wanted not in ("", self._name):
            return option_reply(number, OptionReply.UNKNOWN, f"there is {self._name}, the default".encode())
        if number == Option.GO:
            self.stage = Stage.TRANSMISSION
        infos = info_export(self._size, self._flags), info_block_size(1, _PREFERRED, MAX_PAYLOAD)
        replies = [option_reply(number, OptionReply.INFO, info) for info in infos]
        return b"".join([*replies, option_reply(number, OptionReply.ACK)])
