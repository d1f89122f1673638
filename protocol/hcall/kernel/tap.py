"""Taps and tuns: network interfaces of the kernel whose other end is a descriptor, a frame or packet for each read.

linux/if_tun.h, and the kernel's Documentation/networking/tuntap.rst.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from typing import Final

_TUNSETIFF: Final = 0x400454CA
_TUNSETCARRIER: Final = 0x400454E2
_SIOCSIFHWADDR: Final = 0x8924  # a tap's descriptor takes it, too
_IFF_TUN, _IFF_TAP, _IFF_NO_PI = 0x0001, 0x0002, 0x1000
_ARPHRD_ETHER: Final = 1
_NAME: Final = re.compile(r"[^\s/:%\0]{1,15}")  # net/core/dev.c, dev_valid_name; % would make the kernel number it


def check_name(text: str) -> str:
    """*text*, if an interface can be called so.  Raises ValueError."""
    if not _NAME.fullmatch(text) or text in (".", "..") or not text.isascii():
        raise ValueError(f"{text!r} is no name of an interface: 1 to 15 letters and digits, such as tap0")
    return text


def open_tap(name: str, address: bytes | None = None) -> int:
    """A descriptor, not blocking, of the tap *name*, which is made if it is missing; *address* becomes its own.

    To bring it up is left to whoever set it up.  Raises OSError with what to do.
    """
    return _open(name, "tap", _IFF_TAP, address)


def open_tun(name: str) -> int:
    """The same for a tun: one IP packet for each read and write."""
    return _open(name, "tun", _IFF_TUN, None)


def _open(name: str, kind: str, flag: int, address: bytes | None) -> int:
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}; a {kind} needs /dev/net/tun", "/dev/net/tun") from None
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flag | _IFF_NO_PI))
        if address is not None:
            fcntl.ioctl(fd, _SIOCSIFHWADDR, struct.pack("16sH6s16x", name.encode(), _ARPHRD_ETHER, address))
    except OSError as error:
        os.close(fd)
        said = error.strerror
        if error.errno == errno.EPERM:
            said = f"{said}: root makes one for you, ip tuntap add {name} mode {kind} user YOU"
        elif error.errno == errno.EINVAL:
            said = f"it is there, and no {kind}"
        raise OSError(error.errno, said, name) from None
    return fd


def set_carrier(fd: int, up: bool) -> None:
    """Whether the cable of the tap *fd* is plugged in, as `ip link` shows it.  Raises OSError."""
    fcntl.ioctl(fd, _TUNSETCARRIER, struct.pack("i", up))
