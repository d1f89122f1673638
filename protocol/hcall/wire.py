"""Bytes <-> messages, with limits.  The only file that knows msgpack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from gc import get_referents
from typing import Final

import msgpack
import msgspec

from .errors import ProtocolViolation
from .text import MAX_TEXT

MAX_MESSAGE: Final = 16 * 1024
MAX_READ: Final = 256 * 1024  # the most that a transport hands over at once
MAX_INLINE: Final = 4096  # bytes within a message; more goes through guest memory
MAX_ITEMS: Final = 64  # of one array or map
MAX_LEVELS: Final = 64  # of arrays and maps in one another, the message being the first
SMALL: Final = MAX_ITEMS  # a message of no more bytes than this cannot break a limit above
_SHORT: Final = MAX_TEXT // 4  # characters of a text that cannot be longer than MAX_TEXT
_BELOW: Final = range(1, MAX_LEVELS)  # the levels below the first: to make a range takes longer than to go through it
_POOL_SIZE: Final = 8  # an Unpacker costs 51 KB and 1 us to make: a few serve all connections that are at rest

#: One message as bytes.  Raises TypeError, ValueError or OverflowError for what msgpack cannot carry.
encode: Callable[[object], bytes] = msgpack.Packer(use_bin_type=True, autoreset=True).pack
#: The same in a third of the time, for what is made of PLAIN and tuples: of other types it would carry too many.
encode_plain: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
NUMBERS: Final = frozenset((type(None), bool, int, float))
PLAIN: Final = NUMBERS | {str, bytes}
_pool: list[msgpack.Unpacker] = []


def _unpacker() -> msgpack.Unpacker:
    # Without these limits a 3 KB prefix of nested array headers pins 69 MiB.
    return msgpack.Unpacker(
        use_list=False, raw=False, strict_map_key=False, max_buffer_size=MAX_READ + MAX_MESSAGE,
        max_str_len=MAX_TEXT, max_bin_len=MAX_INLINE, max_array_len=MAX_ITEMS, max_map_len=MAX_ITEMS,
        max_ext_len=0, ext_hook=_no_extension, object_pairs_hook=_map,
    )  # fmt: skip


def _no_extension(code: int, data: bytes) -> object:
    raise ValueError("extension types are not used")


def _map(pairs: list[tuple[object, object]]) -> dict[object, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a map has a key twice")  # which of the two counts, decoders do not agree on
    return found


def _is_too_deep(message: tuple[object, ...]) -> bool:
    within: Sequence[object] = message
    for _ in _BELOW:
        within = get_referents(*within)  # what its arrays and maps hold, all at once: half the time of a loop
        if not within:
            return False
    return not {tuple, dict}.isdisjoint(map(type, within))


def fits(value: object) -> bool:
    """Whether the peer's decoder takes *value* in a message: its strings, bytes, arrays, maps and levels are within
    the limits."""
    level, row = 2, [value]
    while row:
        below: list[object] = []
        for each in row:
            if type(each) is int:  # most often
                continue
            if isinstance(each, str):
                if len(each) > _SHORT and len(each.encode()) > MAX_TEXT:
                    return False
            elif type(each) is bytes:
                if len(each) > MAX_INLINE:
                    return False
            elif isinstance(each, bytes | bytearray | memoryview):
                if memoryview(each).nbytes > MAX_INLINE:
                    return False
            elif isinstance(each, tuple | list | dict):
                if len(each) > MAX_ITEMS or level > MAX_LEVELS:
                    return False
                kinds = set(map(type, each))  # those that are right as they stand: a fifth of the time of a loop
                if not (kinds <= NUMBERS or (kinds == {str} and max(map(len, each)) <= _SHORT)):
                    below += each
                if isinstance(each, dict):
                    below += each.values()
        level, row = level + 1, below
    return True


class Decoder:
    """The messages in the bytes of one connection.

    Holds an Unpacker only while a message is incomplete, and never shares one that has bytes in it: half a message
    of one guest must not swallow the head of another's.  Nothing is parsed twice, so trickled bytes cost no more.
    """

    __slots__ = ("_end", "_fed", "_unpacker", "broken", "partial_is_new")

    def __init__(self) -> None:
        self._unpacker: msgpack.Unpacker | None = None
        self._end = self._fed = 0  # of the Unpacker's stream: where the last message ended, and the bytes fed
        self.partial_is_new = False  # the message that is incomplete began in the last bytes
        self.broken: ProtocolViolation | None = None  # set for good at the first byte that is no message

    @property
    def partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._unpacker is not None

    def feed(self, data: bytes) -> list[object]:
        """The messages that *data* completes; those before a violation are still given, see `broken`."""
        unpacker = self._unpacker
        if unpacker is None:
            if len(data) <= SMALL:  # most often it is one whole message: 0.2 us instead of 0.5
                try:
                    return [
                        msgpack.unpackb(
                            data,
                            use_list=False,
                            strict_map_key=False,
                            max_ext_len=0,
                            ext_hook=_no_extension,
                            object_pairs_hook=_map,
                        )
                    ]
                except (ValueError, TypeError):
                    pass  # half a message, or two, or none
            unpacker = _pool.pop() if _pool else _unpacker()
            end = fed = unpacker.tell()
        elif self.broken is not None:
            return []
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
                if end - start > SMALL:
                    if end - start > MAX_MESSAGE:
                        self.broken = ProtocolViolation(f"a message of more than {MAX_MESSAGE} bytes")
                        return messages
                    if type(message) is tuple and _is_too_deep(message):
                        self.broken = ProtocolViolation(f"more than {MAX_LEVELS} levels of arrays and maps")
                        return messages
                messages.append(message)
        except msgpack.OutOfData:
            if fed - end > MAX_MESSAGE:
                self.broken = ProtocolViolation(f"a message of more than {MAX_MESSAGE} bytes")
            self._end, self._fed = end, fed
            self.partial_is_new = fed - len(data) <= end
            return messages
        except (ValueError, TypeError, OverflowError, RecursionError, msgpack.BufferFull) as error:
            self.broken = ProtocolViolation(f"these bytes are no message: {type(error).__name__}")
            return messages
        self._unpacker = None
        if len(_pool) < _POOL_SIZE:
            _pool.append(unpacker)
        return messages
