"""Descriptors of every sort where memory or a lane should be: in HELLO, on the fd lane, and stray; and odd HELLOs."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, Final

from raw import ADDRESS, PAGE, hello, memfd

from hcall.messages import FD_LANE
from hcall.numbers import ADD_MEMORY, ADD_PART, DETACH, NOP, REMOVE_MEMORY

from ..enemy import SLOTS, Attacker, Enemy, Refused
from ..room import attack

_HUGE: Final = 0x0004  # MFD_HUGETLB
_LANE: Final = socket.SOCK_SEQPACKET


def _memfd(size: int, flags: int = os.MFD_ALLOW_SEALING) -> int:
    fd = os.memfd_create("odd", flags)
    os.ftruncate(fd, size)
    return fd


def _read_only() -> int:
    with _closing(memfd()) as fd:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)


def _file() -> int:
    with tempfile.TemporaryFile() as file:
        file.truncate(PAGE)
        return os.dup(file.fileno())


def _half(pair: Sequence[Any], which: int = 0) -> int:
    """One of a pair of descriptors or sockets, the other of which is closed."""
    fds = [end if isinstance(end, int) else end.detach() for end in pair]
    os.close(fds[1 - which])
    return fds[which]


def _listening() -> int:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock.detach()


def _full() -> int:
    """A socket in whose queue more descriptors wait."""
    ours, theirs = socket.socketpair()
    with _closing(memfd()) as fd:
        for _ in range(8):
            socket.send_fds(ours, [b"x"], [fd, ours.fileno(), theirs.fileno()])
    ours.close()
    return theirs.detach()


SORTS: Final[dict[str, Callable[[], int]]] = {
    "memory": memfd,
    "memory without seals": lambda: memfd(seals=0),
    "memory that takes no seals": lambda: _memfd(PAGE, 0),
    "memory too small": lambda: _memfd(1),
    "memory too large": lambda: _memfd(1 << 40),
    "memory to be read": _read_only,
    "huge pages": lambda: _memfd(2 << 20, os.MFD_ALLOW_SEALING | _HUGE),
    "file": _file,
    "folder": lambda: os.open("/", os.O_RDONLY),
    "path": lambda: os.open("/", os.O_PATH),
    "null": lambda: os.open("/dev/null", os.O_RDWR),
    "zero": lambda: os.open("/dev/zero", os.O_RDWR),
    "pipe": lambda: _half(os.pipe()),
    "pipe to write": lambda: _half(os.pipe(), 1),
    "stream": lambda: _half(socket.socketpair()),
    "datagrams": lambda: _half(socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)),
    "packets": lambda: _half(socket.socketpair(socket.AF_UNIX, _LANE)),
    "listening": _listening,
    "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach(),
    "socket with descriptors": _full,
    "event": lambda: os.eventfd(1),
    "epoll": lambda: os.dup(select.epoll().fileno()),
    "process": lambda: os.pidfd_open(os.getpid()),
    "terminal": lambda: _half(os.openpty()),
}


@contextlib.contextmanager
def _closing(fd: int) -> Any:
    try:
        yield fd
    finally:
        os.close(fd)


def _some(enemy: Enemy, count: int) -> list[int]:
    """Descriptors by chance, the caller's to close."""
    found = []
    for _ in range(count):
        name = enemy.chance.choice(list(SORTS))
        with contextlib.suppress(OSError):  # not every machine has all
            found.append(SORTS[name]())
            enemy.seen["descriptors"] += 1
    return found


def _odd(enemy: Enemy, regions: int) -> bytes:
    """A HELLO, perhaps with something wrong."""
    chance = enemy.chance
    spots = [(ADDRESS + n * PAGE, PAGE) for n in range(regions)]
    odd: dict[str, list[Any]] = {
        "kind": [0, 5, 99, -1, None],
        "magic": ["", "HCALL", 1, b"hcall"],
        "lowest": [0, 2, -1, 1 << 64, "1"],
        "highest": [0, 99, None],
        "features": [0, 2, 1 << 63, -1, True],
        "name": ["", "x" * 300, b"raw", "\ud7ff\0\n", 1],
        "token": [b"", bytes(15), bytes(16), bytes(17), "x" * 16],
        "regions": [None, ((1, PAGE),), ((ADDRESS, 0),), ((ADDRESS, 1 << 63),), ((ADDRESS, PAGE),) * 65, ((),)],
    }
    fields: dict[str, Any] = {"regions": tuple(spots), "features": chance.choice([0, FD_LANE])}
    if chance.random() < 0.4:
        name = chance.choice(list(odd))
        fields[name] = chance.choice(odd[name])
    try:
        return hello(**fields)
    except Exception:  # what cannot be said
        return hello(**fields | {name: 0})


async def _shake(enemy: Enemy) -> None:
    """One connection: HELLO, whole or in parts, with descriptors anywhere in it; and if it is taken, more of them."""
    chance = enemy.chance
    guest = Attacker(enemy.path)
    fds = _some(enemy, chance.choice([0, 1, 1, 2, 3, 17]))
    try:
        data = _odd(enemy, len(fds) if chance.random() < 0.7 else chance.randrange(4))
        cut = chance.choice([0, 0, 0, chance.randrange(1, len(data))])
        if cut:
            await guest.write(data[:cut], fds if chance.random() < 0.5 else ())
        if chance.random() < 0.1:
            await guest.write(data[cut:-1], fds)
            guest.sock.shutdown(socket.SHUT_WR)
        else:
            await guest.write(data[cut:], fds)
        await guest.message()
        enemy.seen["taken"] += 1
        await guest.must(DETACH)
    except (Refused, OSError):
        enemy.seen["refused"] += 1
    finally:
        for fd in fds:
            os.close(fd)
        guest.close()


@attack()
async def hostile_handshakes(enemy: Enemy) -> None:
    """HELLOs with descriptors of two dozen sorts, too many, too few, in parts, with wrong fields, broken off."""
    for _ in range(enemy.some(400, 5000)):
        with contextlib.suppress(Refused):
            await _shake(enemy)
        enemy.seen["handshakes"] += 1


@attack()
async def descriptors_on_the_lane_and_stray(enemy: Enemy) -> None:
    """Of all sorts as memory to add, and with calls on the main socket, where none belong."""
    chance = enemy.chance
    for _ in range(enemy.some(10, 250)):
        guest = await enemy.guest(pages=1)
        try:
            for number in range(20):
                fds = _some(enemy, chance.choice([1, 1, 1, 2, 5]))
                try:
                    if chance.random() < 0.5:
                        guest.lend(*fds, ids=(number,) * chance.choice([1, 1, 1, 0, 2]))
                        address = 1 << 40 | number << 32
                        call, args = chance.choice([
                            (ADD_MEMORY, (address, PAGE, number)), (ADD_PART, (address, PAGE, 0, number)),
                            (ADD_MEMORY, (address, PAGE, 99)), (REMOVE_MEMORY, (address,)),
                        ])  # fmt: skip
                        await guest.ask(call, 0, *args)
                    else:
                        _stray(enemy, guest, fds)
                        await guest.message()
                finally:
                    for fd in fds:
                        os.close(fd)
        except (Refused, BlockingIOError):
            enemy.seen["ended"] += 1
        finally:
            guest.close()
        enemy.seen["guests"] += 1


def _stray(enemy: Enemy, guest: Attacker, fds: list[int], slot: int = 0) -> None:
    """A call with descriptors, if the kernel lets them through: a host can tell it not to, since Linux 6.16."""
    data = guest.next_call(NOP, slot=slot)
    try:
        guest.send(data, fds)
        enemy.seen["stray"] += len(fds)
    except PermissionError:
        guest.send(data)
        enemy.seen["turned back"] += len(fds)


def _lingering(keep: list[socket.socket]) -> int:
    """A descriptor whose last close waits for a TCP peer that does not read, until those in *keep* are closed.

    The TCP socket is in the queue of the socket that is given, so that no copy of it is here.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    sock = socket.socket()
    sock.connect(listener.getsockname())
    keep += [listener, listener.accept()[0]]
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            sock.send(bytes(65536))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
    queue, given = socket.socketpair()
    socket.send_fds(queue, [b"x"], [sock.fileno()])
    sock.close()
    queue.close()
    return given.detach()


async def _linger(enemy: Enemy, send: Callable[[Attacker, list[int]], None], guest: Attacker, count: int) -> None:
    """Have the daemon be the last to close them."""
    keep: list[socket.socket] = []
    try:
        given = [_lingering(keep) for _ in range(count)]
        send(guest, given)
        for sock in keep if enemy.seen["turned back"] else ():  # it is we who would wait
            sock.close()
        for fd in given:
            os.close(fd)
        enemy.seen["lingering"] += count
        with contextlib.suppress(Refused):
            await guest.write(hello()[-10:] if not guest.seq else guest.next_call(NOP))
            await guest.message()
        await enemy.pause(enemy.some(0, 2))
        await enemy.hold()
    finally:
        for sock in keep:
            sock.close()
        guest.close()


@attack()
async def lingering_sockets_in_hello(enemy: Enemy) -> None:
    """TCP sockets whose close waits for a peer that never reads, in the place of memfds."""

    def send(guest: Attacker, fds: list[int]) -> None:
        socket.send_fds(guest.sock, [hello(regions=((1, PAGE),) * len(fds))[:-10]], fds)  # the rest comes later

    await _linger(enemy, send, Attacker(enemy.path), 16)


@attack()
async def lingering_sockets_on_the_lane(enemy: Enemy) -> None:
    """The same as memory to be added, one in a packet, and several."""

    def send(guest: Attacker, fds: list[int]) -> None:
        guest.lend(*fds[:8])
        for fd in fds[8:]:
            guest.lend(fd)

    guest = await enemy.guest(pages=1)
    await guest.must(NOP)
    await _linger(enemy, send, guest, 16)


@attack()
async def lingering_sockets_stray(enemy: Enemy) -> None:
    """The same on the main socket, where none belong."""

    def send(guest: Attacker, fds: list[int]) -> None:
        for slot, fd in enumerate(fds, 1):
            _stray(enemy, guest, [fd], slot)

    guest = await enemy.guest(pages=1)
    await guest.must(NOP)
    await _linger(enemy, send, guest, SLOTS - 1)
