"""What stands behind a link that carries IPv4.

echo:         a host at the link's own address, which answers pings and echoes UDP datagrams to port 7
router:NAME   the same, and a way to the guests whose links name the same router
tun:NAME      an interface of the kernel's, with the link's addresses
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import socket
import struct
from collections.abc import Hashable, MutableMapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final, Protocol

from hcall.formats import ipv4
from hcall.kernel.tap import check_name, open_tun
from hcall.programs.endpoint import Kind, split
from hcall.saved import Saved
from hostd.backing import Carried

log = logging.getLogger(__name__)

_ECHO, _ROUTER, _TUN = Kind("echo:", ""), Kind("router:", "NAME"), Kind("tun:", "NAME")
_AT_ONCE: Final = 32  # packets of one wakeup: others wait meanwhile
_PACKET: Final = 1 << 16  # bytes: more than any has (RFC 791)
_KEPT: Final = 500  # packets that the kernel keeps for a tun (drivers/net/tun.c, TUN_READQ_SIZE)
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFDSTADDR, _SIOCSIFMTU = 0x8913, 0x8914, 0x8916, 0x8918, 0x8922
_IFF_UP: Final = 1


class Link(Protocol):
    """The device's side."""

    @property
    def local(self) -> IPv4Address:
        """The host's end."""

    @property
    def remote(self) -> IPv4Address:
        """The guest's."""

    @property
    def mtu(self) -> int:
        """Bytes of the largest packet."""

    @property
    def common(self) -> MutableMapping[Hashable, Any]:
        """What the links of one host share."""

    @property
    def has_room(self) -> bool:
        """Whether the next packet would be taken."""

    def deliver(self, packet: bytes) -> None:
        """A packet for the guest, which may be dropped."""

    def hang_up(self) -> None:
        """What stands behind it is gone."""


class Network(Carried):
    """Base of what takes the guest's packets."""

    endpoint: str  # for people
    joins = False  # whether it passes packets to other devices of its host

    @classmethod
    def parse(cls, text: str, folder: Path) -> Network:
        """Raises ValueError with what is allowed."""
        kind, rest = split(text, (_ECHO, _ROUTER, _TUN), "network")
        if kind is _ECHO:
            return Echo()
        return Router(rest) if kind is _ROUTER else Tun(check_name(rest))

    def start(self, link: Link) -> None:
        """Begin.  Raises OSError."""
        raise NotImplementedError

    def stop(self) -> None:
        """End, and leave nothing behind."""

    def write(self, packet: bytes) -> None:
        """A packet of the guest."""
        raise NotImplementedError

    def resume(self) -> None:
        """The link has room again."""

    def reset(self) -> None:
        """Another guest comes."""


class Echo(Network):
    """The host's address, and nothing beyond it."""

    endpoint = "echo:"

    def start(self, link: Link) -> None:
        self._link = link

    def write(self, packet: bytes) -> None:
        reply = ipv4.answer(packet, self._link.local)
        if reply is not None:
            self._link.deliver(reply)


class _Links(dict[IPv4Address, Link]):
    """The links of one router, by the guest's address; there while one of them is: `common` holds it weakly."""


class Router(Echo):
    """Passes packets between links; from each only those of its own guest."""

    joins = True

    def __init__(self, name: str) -> None:
        self._name, self.endpoint = name, f"router:{name}"

    def start(self, link: Link) -> None:
        super().start(link)
        self._links: _Links = link.common.setdefault(("router", self._name), _Links())
        if link.remote in self._links:
            raise OSError(errno.EADDRINUSE, f"another link of {self.endpoint} has remote = {str(link.remote)!r}")
        self._links[link.remote] = link

    def stop(self) -> None:
        if self._links.get(self._link.remote) is self._link:  # else it is another's, and this one was refused
            del self._links[self._link.remote]

    def write(self, packet: bytes) -> None:
        source, destination = packet[12:16], packet[16:20]
        if source != self._link.remote.packed:
            return
        other = self._links.get(IPv4Address(destination)) if len(destination) == 4 else None
        if other is None:
            super().write(packet)
        elif (onward := ipv4.forwarded(packet)) is not None:
            other.deliver(onward)


class Tun(Network):
    """An interface; what the kernel does not take at once is dropped."""

    def __init__(self, name: str) -> None:
        self._name, self.endpoint = name, f"tun:{name}"
        self._fd, self._reading = -1, False

    def start(self, link: Link) -> None:
        self._link, self._loop = link, asyncio.get_running_loop()
        if self._fd < 0:
            self._open(link)
        self.resume()

    def _open(self, link: Link) -> None:
        self._fd = open_tun(self._name)
        try:
            _set_up(self._name, link)
        except OSError as error:
            if error.errno != errno.EPERM:  # else it is somebody else's to set up
                self._close()
                raise OSError(error.errno, error.strerror, self._name) from None

    def stop(self) -> None:
        if self._fd >= 0:
            if self._reading:
                self._loop.remove_reader(self._fd)
                self._reading = False
            self._close()

    def save(self) -> tuple[Saved, Sequence[int]]:
        """The interface goes with its descriptor, unless somebody made it to stay."""
        return {}, () if self._fd < 0 else (self._fd,)

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        (self._fd,) = fds or (-1,)

    def cede(self) -> None:
        self.stop()

    def write(self, packet: bytes) -> None:
        if not _is_ipv4(packet):
            return
        try:
            os.write(self._fd, packet)
        except BlockingIOError:
            return
        except OSError as error:  # it is down, or that is too short
            log.debug("%s: %s", self._name, error)

    def resume(self) -> None:
        if self._fd >= 0 and not self._reading:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def reset(self) -> None:
        if self._fd < 0:
            try:
                self.start(self._link)
            except OSError as error:
                log.error("%s cannot be opened again: %s", self._name, error.strerror)
                self._link.hang_up()
            return
        with contextlib.suppress(OSError):  # what the kernel keeps is the last guest's
            for _ in range(_KEPT):
                os.read(self._fd, _PACKET)

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def _readable(self) -> None:
        try:
            for _ in range(_AT_ONCE):
                if not self._link.has_room:  # the kernel's queue keeps some, and drops the rest
                    self._reading = False
                    self._loop.remove_reader(self._fd)
                    return
                packet = os.read(self._fd, _PACKET)
                if _is_ipv4(packet):  # the kernel has IPv6 of its own
                    self._link.deliver(packet)
        except BlockingIOError:
            return
        except OSError as error:  # somebody has deleted the interface
            log.error("%s is gone: %s", self._name, error.strerror)
            self.stop()
            self._link.hang_up()


def _is_ipv4(packet: bytes) -> bool:
    return bool(packet) and packet[0] >> 4 == 4


def _set_up(name: str, link: Link) -> None:
    """Give the interface the link's addresses, and bring it up (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, address in ((_SIOCSIFADDR, link.local), (_SIOCSIFDSTADDR, link.remote)):
            fcntl.ioctl(control, request, struct.pack("16sHH4s16x", name.encode(), socket.AF_INET, 0, address.packed))
        fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", name.encode(), link.mtu))
        answer = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH22x", name.encode(), 0))
        (flags,) = struct.unpack_from("H", answer, 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags | _IFF_UP))
