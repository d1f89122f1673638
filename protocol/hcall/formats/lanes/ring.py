"""A split virtqueue in memory that two share (virtio 1.2, 2.7), and what its chains carry here: one call each.

A chain is a body, what the device reads, where the answer goes, what the device fills: in this order, so that all that
is read comes before all that is written.  Body and answer are msgpack as on the socket, `[number, handle, args]` and
`[status, value]`; most of them have one form of a fixed width, which a single Struct makes and takes.

Whoever reads what the other may write reads it once, all of a descriptor at a time, and decides on that copy.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, TypeAlias

from ...errors import ProtocolViolation, Status
from ...messages import Args
from ...wire import MAX_MESSAGE, Decoder, encode, fits

NEXT, WRITE, INDIRECT = 1, 2, 4  # flags of a descriptor
NO_TELL: Final = 1  # flags of the available or used ring: the other end need not tell, without EVENT_IDX
ENDED: Final = 1 << 15  # flag of the used ring, ours: it is over; what is not in it by then was not made
EVENT_IDX: Final = 1 << 29  # feature bit: each end says after which index it wants to be told
DESCRIPTOR: Final = struct.Struct("<QIHH")  # address, length, flags, next
BYTES: Final = DESCRIPTOR.size
MOST: Final = 1024  # descriptors of a ring here; virtio allows 32,768, which is a long look
LEAST_ANSWER: Final = 300  # bytes: a status and the longest sentence
MAX_BODY: Final = MAX_MESSAGE

#: (address, length) of guest memory.
Piece: TypeAlias = tuple[int, int]
BODY: Final = struct.Struct(">HIBQHQ")  # [number: u32, handle: u64, [u64]], with these marks before each
ARRAY, HANDLE, ARGUMENT = 0x93CE, 0xCF, 0x91CF
BODY_MARKS: Final = (ARRAY, HANDLE, ARGUMENT)
ANSWER: Final = struct.Struct(">HBQ")  # [0, u64]
OK, VALUE = 0x9200, 0xCF
BODY_BYTES: Final = BODY.size
ANSWER_BYTES: Final = ANSWER.size
_WIDEST: Final = 1 << 64


class Chain(NamedTuple):
    """One call, as its descriptors have it."""

    body: Piece
    data: tuple[Piece, ...]  # the device reads them
    answer: Piece
    room: tuple[Piece, ...]  # the device fills them


def sizes(size: int) -> tuple[int, int, int]:
    """Bytes of the descriptors, the available and the used ring of a queue of *size*, which is a power of 2."""
    return BYTES * size, 6 + 2 * size, 6 + 8 * size


def check_size(size: int) -> None:
    """Raises ValueError for a queue that cannot be."""
    if not 2 <= size <= MOST or size & (size - 1):
        raise ValueError(f"a queue has 2, 4, 8, ... or {MOST} descriptors, not {size}")


def is_due(event: int, new: int, old: int) -> bool:
    """Whether the other end, which wants to be told after *event*, is to be told: the index went from *old* to *new*.

    virtio 1.2, 2.7.7.2; all are 16 bits.
    """
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


def walk(table: memoryview, head: int, size: int) -> tuple[Chain, bytes | None]:
    """The chain of the descriptors in *table*, a queue of *size*, that begins at *head*; each is read once.

    And its bytes, if its descriptors lie side by side: who finds the same there again need not walk.
    Raises ProtocolViolation.
    """
    pieces: list[list[Piece]] = [[], []]
    raw: list[bytes] = []
    at, is_row, follows = head, True, True
    while follows:
        if at >= size:
            raise ProtocolViolation(f"a descriptor {at} of a queue of {size}")
        if len(raw) == size:
            raise ProtocolViolation("a chain of descriptors that goes round in a circle")
        one = bytes(table[at * BYTES : (at + 1) * BYTES])
        raw.append(one)
        address, length, flags, following = DESCRIPTOR.unpack(one)
        if flags & ~(NEXT | WRITE):
            raise ProtocolViolation(f"a descriptor with the flags {flags:#x}: NEXT and WRITE are known")
        if address + length > _WIDEST:
            raise ProtocolViolation(f"a descriptor of {length} bytes at {address:#x}")
        is_room = flags & WRITE != 0
        if pieces[1] and not is_room:
            raise ProtocolViolation("a descriptor to be read comes after one to be written")
        pieces[is_room].append((address, length))
        follows = flags & NEXT != 0
        is_row &= not follows or following == at + 1
        at = following
    read, written = pieces
    if not read or not 0 < read[0][1] <= MAX_BODY:
        raise ProtocolViolation(f"a chain begins with a body of 1 to {MAX_BODY} bytes")
    if not written or written[0][1] < LEAST_ANSWER:
        raise ProtocolViolation(f"a chain has {LEAST_ANSWER} bytes or more for its answer")
    chain = Chain(read[0], tuple(read[1:]), written[0], tuple(written[1:]))
    return chain, b"".join(raw) if is_row else None


def describe(chain: Chain, first: int) -> bytes:
    """The descriptors of *chain*, side by side from the one numbered *first* on."""
    pieces = [(chain.body, 0), *((each, 0) for each in chain.data), (chain.answer, WRITE)]
    pieces += ((each, WRITE) for each in chain.room)
    last = len(pieces) - 1
    return b"".join(
        DESCRIPTOR.pack(address, length, flags | (NEXT if n < last else 0), first + n + 1 if n < last else 0)
        for n, ((address, length), flags) in enumerate(pieces)
    )


def pack_body(number: int, handle: int, args: Args) -> bytes:
    """The body of a call.  Raises TypeError, ValueError or OverflowError for what msgpack cannot carry."""
    if len(args) == 1 and type(args[0]) is int and 0 <= args[0] < _WIDEST:
        return BODY.pack(ARRAY, number, HANDLE, handle, ARGUMENT, args[0])
    return encode((number, handle, args))


def unpack_body(body: bytes) -> tuple[int, int, Args]:
    """Number, handle and arguments.  Raises ProtocolViolation."""
    if len(body) == BODY_BYTES:
        array, number, eight, handle, one, argument = BODY.unpack(body)
        if (array, eight, one) == BODY_MARKS:
            return number, handle, (argument,)
    value = _unpack(body)
    if type(value) is tuple and len(value) == 3:
        number, handle, args = value
        if type(number) is type(handle) is int and type(args) is tuple:
            return number, handle, args
    raise ProtocolViolation("the body of a call is [number, handle, args]")


def put_answer(room: memoryview, status: int, value: object) -> int:
    """Put an answer into *room*, of LEAST_ANSWER bytes or more: how many bytes it takes.

    One that does not fit is told so.  Raises TypeError, ValueError or OverflowError for what no message carries.
    """
    if type(value) is int and status == 0 and 0 <= value < _WIDEST:
        ANSWER.pack_into(room, 0, OK, VALUE, value)
        return ANSWER_BYTES
    if not fits(value):
        raise ValueError("it is too long, or too deep")
    answer = encode((status, value))
    if len(answer) > len(room):
        words = f"this answer takes {len(answer)} bytes, and there was room for {len(room)}"
        answer = encode((int(Status.BAD_AREA), words))
    room[: len(answer)] = answer
    return len(answer)


def unpack_answer(answer: bytes) -> tuple[int, object]:
    """Status and value.  Raises ProtocolViolation."""
    if len(answer) == ANSWER_BYTES:
        ok, eight, count = ANSWER.unpack(answer)
        if ok == OK and eight == VALUE:
            return 0, count
    value = _unpack(answer)
    if type(value) is tuple and len(value) == 2 and type(value[0]) is int:
        return value
    raise ProtocolViolation("an answer is [status, value]")


def _unpack(data: bytes) -> object:
    decoder = Decoder()
    messages = decoder.feed(data)
    if decoder.broken is not None:
        raise decoder.broken
    if decoder.partial or len(messages) != 1:
        raise ProtocolViolation("a descriptor whose bytes are not one message")
    return messages[0]
