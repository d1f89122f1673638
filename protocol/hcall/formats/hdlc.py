"""HDLC-like framing on a stream of bytes (RFC 1662): flags, escapes, and a frame check sequence of 16 bits.

7E  the frame, and its FCS, with 7E, 7D and some control characters written as 7D and the byte XOR 20  7E
"""

from __future__ import annotations

import binascii
import functools
import re
from collections.abc import Iterator
from typing import Final

from ..saved import Saved

FLAG: Final = b"~"  # 7E
ESCAPE: Final = b"}"  # 7D
EVERY_CONTROL: Final = 0xFFFFFFFF  # the default ACCM, in which bit n stands for byte n
FCS_BYTES: Final = 2

_XOR: Final = 0x20
_MIRRORED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ESCAPED: Final = re.compile(rb"\}(.)", re.DOTALL)
_SMALLEST: Final = 2 + FCS_BYTES  # RFC 1662, 4.3


def fcs16(data: bytes) -> int:
    """The check sequence of *data* (RFC 1662, appendix C), 0x906E for b"123456789"; goes low byte first.

    `binascii` has the same polynomial with the bits the other way round: mirrored in, mirrored out.
    """
    crc = binascii.crc_hqx(data.translate(_MIRRORED), 0xFFFF) ^ 0xFFFF
    return _MIRRORED[crc & 0xFF] << 8 | _MIRRORED[crc >> 8]


@functools.lru_cache(maxsize=16)  # a peer may choose any map
def _special(accm: int) -> re.Pattern[bytes]:
    controls = bytes(byte for byte in range(0x20) if accm >> byte & 1)
    return re.compile(b"[" + re.escape(FLAG + ESCAPE + controls) + b"]")


def encode(data: bytes, accm: int = EVERY_CONTROL) -> bytes:
    """The frame of *data*, between two flags; *accm* says which bytes below 0x20 are escaped, too."""
    checked = data + fcs16(data).to_bytes(FCS_BYTES, "little")
    return FLAG + _special(accm).sub(lambda found: bytes((ESCAPE[0], found[0][0] ^ _XOR)), checked) + FLAG


class Decoder:
    """Finds the frames in a stream, whatever else is in it.  Holds no more than one frame of the largest size."""

    def __init__(self, limit: int) -> None:
        """*limit*: bytes of the largest frame, without its FCS."""
        self.limit = limit
        self.accm = EVERY_CONTROL  # bytes below 0x20 that the line may have put in, and that are dropped
        self.dropped = 0  # frames that were damaged, aborted or too long
        self._frame = bytearray()
        self._skipping = True  # to the next flag: what comes before the first is no frame

    def save(self) -> Saved:
        """What `restore` needs."""
        return {
            "accm": self.accm, "dropped": self.dropped, "frame": bytes(self._frame), "skipping": self._skipping,
        }  # fmt: skip

    def restore(self, saved: Saved) -> None:
        """Go on in the middle of a frame."""
        self.accm, self.dropped, self._skipping = saved["accm"], saved["dropped"], saved["skipping"]
        self._frame[:] = saved["frame"]

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that end in *data*, as they were given to `encode`.

        It has to be worked through to its end.  A change of `accm` holds from the next frame on.
        """
        start = 0
        while (end := data.find(FLAG, start)) >= 0:
            self._add(data[start:end])
            frame = self._finish()
            if frame is not None:
                yield frame
            start = end + 1
        self._add(data[start:])

    def _add(self, data: bytes) -> None:
        """More of the frame that has begun."""
        if self._skipping:
            return
        self._frame += data
        if len(self._frame) > 2 * (self.limit + FCS_BYTES + 0x20):  # all escaped, and some that the line put in
            self._skip()

    def _skip(self) -> None:
        self._frame.clear()
        self._skipping = True
        self.dropped += 1

    def _finish(self) -> bytes | None:
        """A flag has come: the frame before it, if it is one."""
        raw = bytes(self._frame)
        self._frame.clear()
        self._skipping = False
        if self.accm:
            raw = raw.translate(None, bytes(byte for byte in range(0x20) if self.accm >> byte & 1))
        if not raw:
            return None  # between two flags
        aborted = _ESCAPED.sub(b"", raw).endswith(ESCAPE)  # RFC 1662, 4.3
        frame = _ESCAPED.sub(lambda found: bytes((found[1][0] ^ _XOR,)), raw)
        data, fcs = frame[:-FCS_BYTES], frame[-FCS_BYTES:]
        if (
            aborted
            or not _SMALLEST <= len(frame) <= self.limit + FCS_BYTES
            or fcs16(data).to_bytes(FCS_BYTES, "little") != fcs
        ):
            self.dropped += 1
            return None
        return data
