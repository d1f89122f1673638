"""Many Ethernet frames in one piece of memory, each with its length, a little-endian u32, in front.

A frame is what IEEE 802.3 (3.1.1) has between the preamble and the FCS: destination, source, EtherType or length, and
payload.  It need not be padded to 60 bytes.
"""

from __future__ import annotations

import bisect
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
    if min(lengths) < HEADER or max(lengths) > MAX_FRAME:
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
        prefixed = zip(map(_LENGTH.pack, lengths), taken, strict=True)
        view[:size] = b"".join(itertools.chain.from_iterable(prefixed))
    return size, first + len(lengths)


def runs(batch: bytes, longest: int = MAX_FRAME) -> list[Run]:
    """All frames of *batch*, which is checked whole before any is told.  Raises ValueError.

    *batch* must be a copy: what it says of itself decides where its frames end.
    """
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
