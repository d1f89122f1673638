"""Many Ethernet frames in one piece of memory, each with its length, a little-endian u32, in front.

A frame is what IEEE 802.3 (3.1.1) has between the preamble and the FCS: destination, source, EtherType or length, and
payload.  It need not be padded to 60 bytes.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias, TypeVar

Bytes: TypeAlias = bytes | bytearray | memoryview
AnyBatch = TypeVar("AnyBatch", bytes, memoryview)

HEADER: Final = 14
OVERHEAD: Final = HEADER + 4  # of a frame over its MTU: the header, and one VLAN tag (IEEE 802.1Q)
MAX_FRAME: Final = 0xFFFF + OVERHEAD
MAX_BATCH: Final = 2 << 20  # bytes, lengths included: 31 of the largest, so that a call costs less than their copies
MAX_FRAMES: Final = 4096  # in a batch
PREFIX: Final = 4

_LARGE: Final = 4096  # bytes: to copy longer frames twice takes longer than a loop over them

_LENGTH: Final = struct.Struct("<I")
_FIRST: Final = struct.Struct("<I12s")  # the length, and the two addresses behind it
_MANY: Final = 16  # frames: fewer are read one by one in less time than it takes to see that they are alike
_SHORT: Final = 2048  # bytes of a batch, of which the same is true


class Run(NamedTuple):
    """Frames of one source to one destination that follow each other: batch[start:end], lengths included."""

    destination: bytes
    source: bytes
    start: int
    end: int
    frames: int


def pack_into(view: memoryview, frames: Sequence[Bytes], first: int = 0) -> tuple[int, int]:
    """Pack the frames from the one numbered *first* on, as many as fit and a batch may have.

    Returns (bytes packed, the number of the next frame).  Raises ValueError for what is no frame, or if none fits.
    """
    taken = frames[first : first + MAX_FRAMES] if first or len(frames) > MAX_FRAMES else frames
    lengths = list(map(len, taken))
    if not lengths:
        return 0, first
    different = set(lengths)
    if min(different) < HEADER or max(different) > MAX_FRAME:
        wrong = next(length for length in lengths if not HEADER <= length <= MAX_FRAME)
        raise ValueError(f"a frame has {HEADER} to {MAX_FRAME} bytes, not {wrong}")
    size = sum(lengths) + PREFIX * len(lengths)
    if size > len(view):
        ends = list(itertools.accumulate(length + PREFIX for length in lengths))
        fits = bisect.bisect_right(ends, len(view))
        if not fits:
            raise ValueError(f"a frame of {lengths[0]} bytes does not fit into {len(view)}")
        taken, lengths, size = taken[:fits], lengths[:fits], ends[fits - 1]
    if size > _LARGE * len(lengths):
        at = 0
        for length, frame in zip(lengths, taken, strict=True):
            start, at = at + PREFIX, at + PREFIX + length
            _LENGTH.pack_into(view, start - PREFIX, length)
            view[start:at] = frame
    else:
        if len(different) > 1 or len(lengths) < _MANY or not _pack_alike(view, lengths, taken):
            parts: list[Bytes] = [b""] * (2 * len(lengths))
            parts[::2] = map(_LENGTH.pack, lengths)
            parts[1::2] = taken
            view[:size] = b"".join(parts)
    return size, first + len(lengths)


def _pack_alike(view: memoryview, lengths: list[int], frames: Sequence[Bytes]) -> bool:
    """Frames of one length, copied once; False if there are some that struct takes for none."""
    values: list[int | Bytes] = [lengths[0]] * (2 * len(lengths))
    values[1::2] = frames
    try:
        _layout("I", lengths[0], len(lengths)).pack_into(view, 0, *values)
    except struct.error:  # one is a memoryview
        return False
    return True


@functools.lru_cache(8)
def _layout(prefix: str, length: int, count: int) -> struct.Struct:
    """Of a batch of frames of one length."""
    return struct.Struct("<" + f"{prefix}{length}s" * count)


def _alike(batch: bytes | memoryview, width: int) -> int:
    """How many frames *batch* has, if they are many and the first *width* bytes of all, with the length, are the same.

    Else 0.  To compare these bytes, the same one of all frames at a time, takes a tenth of the time of a look at each
    frame.
    """
    if len(batch) < _SHORT:
        return 0
    stride = PREFIX + int(_LENGTH.unpack_from(batch)[0])
    count, rest = divmod(len(batch), stride)
    if rest or not _MANY <= count <= MAX_FRAMES or stride < width:
        return 0
    first = bytes(batch[:width])
    for n in range(width):
        if bytes(batch[n::stride]) != first[n : n + 1] * count:
            return 0
    return count


def runs(batch: bytes, longest: int = MAX_FRAME) -> list[Run]:
    """All frames of *batch*, which is checked whole before any is told.  Raises ValueError.

    *batch* must be a copy: what it says of itself decides where its frames end.
    """
    if count := _alike(batch, _FIRST.size):
        length, addresses = _FIRST.unpack_from(batch)
        if HEADER <= length <= longest:  # else the loop tells what is wrong
            return [Run(addresses[:6], addresses[6:], 0, len(batch), count)]
    found: list[Run] = []
    at = start = first = count = 0
    end, current, unpack = len(batch), b"", _FIRST.unpack_from
    try:
        while at < end:
            length, addresses = unpack(batch, at)
            if not HEADER <= length <= longest:
                raise ValueError(f"frame {count} at {at}: a frame has {HEADER} to {longest} bytes, not {length}")
            if addresses != current:
                if count:
                    found.append(Run(current[:6], current[6:], start, at, count - first))
                current, start, first = addresses, at, count
            at += PREFIX + length
            count += 1
    except struct.error:
        raise ValueError(f"frame {count} at {at}: cut off by the end of the batch") from None
    if at > end:
        raise ValueError(f"frame {count - 1} ends {at - end} bytes behind the batch")
    if count > MAX_FRAMES:
        raise ValueError(f"a batch has at most {MAX_FRAMES} frames, not {count}")
    if count:
        found.append(Run(current[:6], current[6:], start, end, count - first))
    return found


def split(batch: AnyBatch) -> list[AnyBatch]:
    """The frames of a batch: copies of bytes, views into a view.  Raises ValueError."""
    found: list[AnyBatch] = []
    at, end, unpack = 0, len(batch), _LENGTH.unpack_from
    while at < end:
        if end - at < PREFIX:
            raise ValueError(f"frame {len(found)} at {at}: cut off by the end of the batch")
        start = at + PREFIX
        at = start + unpack(batch, at)[0]
        if at > end:
            raise ValueError(f"frame {len(found)} ends {at - end} bytes behind the batch")
        found.append(batch[start:at])
    return found


def copies(batch: bytes | memoryview) -> list[bytes]:
    """The frames of a batch, as bytes.  Raises ValueError."""
    if count := _alike(batch, PREFIX):
        return list(_layout(f"{PREFIX}x", len(batch) // count - PREFIX, count).unpack(batch))
    return split(bytes(batch))  # one large copy and slices of it: faster than a copy of each view


def fitting(batch: bytes, start: int, room: int) -> tuple[int, int]:
    """(end, count) of the whole frames, from *start* on, that *room* bytes hold; the batch was checked by `runs`."""
    at, limit, count = start, min(len(batch), start + room), 0
    while at < limit:
        end = at + PREFIX + int(_LENGTH.unpack_from(batch, at)[0])
        if end > limit:
            break
        at, count = end, count + 1
    return at, count


def format_mac(address: bytes) -> str:
    """Six bytes as people write them: 02:00:5e:10:00:01."""
    return address.hex(":")


def parse_mac(text: str) -> bytes:
    """The six bytes of `02:00:5e:10:00:01`, a unicast address.  Raises ValueError."""
    parts = text.split(":")
    if len(parts) != 6 or any(len(part) != 2 for part in parts):
        raise ValueError(f"{text!r} is no MAC address, such as 02:00:5e:10:00:01")
    try:
        address = bytes.fromhex("".join(parts))
    except ValueError:
        raise ValueError(f"{text!r} is no MAC address, such as 02:00:5e:10:00:01") from None
    if address[0] & 1 or not any(address):
        raise ValueError(f"{text!r} is not the address of one card: it is a group's, or all zeroes")
    return address
