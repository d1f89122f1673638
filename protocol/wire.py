"""Bytes <-> messages, with limits.  The only file that knows msgpack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgpack

from .errors import ProtocolViolation

MAX_MESSAGE: Final = 16 * 1024
MAX_READ: Final = 256 * 1024  # the most that a transport hands over at once
MAX_INLINE: Final = 4096  # bytes within a message; more goes through guest memory
MAX_TEXT: Final = 256  # bytes of one string
MAX_ITEMS: Final = 64  # of one array or map
SMALL: Final = MAX_ITEMS  # a message of no more bytes than this cannot break a limit above
_POOL_SIZE: Final = 8  # an Unpacker costs 51 KB and 1 us to make: a few serve all connections that are at rest

#: One message as bytes.  Raises TypeError, ValueError or OverflowError for what msgpack cannot carry.
encode: Callable[[object], bytes] = msgpack.Packer(use_bin_type=True, autoreset=True).pack
_pool: list[msgpack.Unpacker] = []


def _unpacker() -> msgpack.Unpacker:
    # Without these limits a 3 KB prefix of nested array headers pins 69 MiB.
    return msgpack.Unpacker(
        use_list=False, raw=False, strict_map_key=True, max_buffer_size=MAX_READ + MAX_MESSAGE,
        max_str_len=MAX_TEXT, max_bin_len=MAX_INLINE, max_array_len=MAX_ITEMS, max_map_len=MAX_ITEMS,
        max_ext_len=0,
    )  # fmt: skip


def fits(value: object) -> bool:
    """Whether the peer's decoder takes *value*: its strings, bytes, arrays and maps are within the limits."""
    if isinstance(value, str):
        return len(value.encode()) <= MAX_TEXT
    if isinstance(value, bytes | bytearray | memoryview):
        return len(value) <= MAX_INLINE
    if isinstance(value, tuple | list):
        return len(value) <= MAX_ITEMS and all(map(fits, value))
    if isinstance(value, dict):
        return len(value) <= MAX_ITEMS and all(map(fits, value)) and all(map(fits, value.values()))
    return True


class Decoder:
    """The messages in the bytes of one connection.

    Holds an Unpacker only while a message is incomplete, and never shares one that has bytes in it: half a message
    of one guest must not swallow the head of another's.  Nothing is parsed twice, so trickled bytes cost no more.
    """

    __slots__ = ("_end", "_fed", "_unpacker", "broken")

    def __init__(self) -> None:
        self._unpacker: msgpack.Unpacker | None = None
        self._end = self._fed = 0  # of the Unpacker's stream: where the last message ended, and the bytes fed
        self.broken: ProtocolViolation | None = None  # set for good at the first byte that is no message

    @property
    def partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._unpacker is not None

    def feed(self, data: bytes) -> list[object]:
        """The messages that *data* completes; those before a violation are still given, see `broken`."""
        unpacker = self._unpacker
        if unpacker is None:
            unpacker = _pool.pop() if _pool else _unpacker()
            end = fed = unpacker.tell()
        else:
            end, fed = self._end, self._fed
        self._unpacker = unpacker  # on a violation it stays here, and dies with the connection
        messages: list[object] = []
        unpack, tell = unpacker.unpack, unpacker.tell
        fed += len(data)
        try:
            unpacker.feed(data)
            while end != fed:
                message = unpack()
                start, end = end, tell()
                if end - start > MAX_MESSAGE:
                    self.broken = ProtocolViolation(f"a message of more than {MAX_MESSAGE} bytes")
                    return messages
                messages.append(message)
        except msgpack.OutOfData:
            if fed - end > MAX_MESSAGE:
                self.broken = ProtocolViolation(f"a message of more than {MAX_MESSAGE} bytes")
            self._end, self._fed = end, fed
            return messages
        except (ValueError, TypeError, OverflowError, msgpack.BufferFull) as error:
            self.broken = ProtocolViolation(f"these bytes are no message: {type(error).__name__}")
            return messages
        self._unpacker = None
        if len(_pool) < _POOL_SIZE:
            _pool.append(unpacker)
        return messages
