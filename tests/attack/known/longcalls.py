"""One call that takes long, as other guests see it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator

from raw import ADDRESS, PAGE

from hcall.errors import Status
from hcall.formats import sysmgmt
from hcall.messages import REPLY
from hcall.numbers import CLOSE, FIND, GETPROP, NOP

from ..enemy import Attacker, Enemy, Fault
from ..room import attack
from ..stage import PORTS

_BREATH = 0.001  # seconds
_MANY = "".join(f'[devices.device-number-{n:05}]\nmodel = "rng"\n' for n in range(1000))
_RESET = struct.pack("ii", 1, 0)  # struct linger: close() resets
#: 4,096 broadcast frames of 14 bytes, each of another sender.
_TINY = b"".join(struct.pack("<I6sHIH", 14, b"\xff" * 6, 2, n, 8) for n in range(4096))


@contextlib.asynccontextmanager
async def _guest(enemy: Enemy, pages: int, data: bytes = b"") -> AsyncIterator[Attacker]:
    """One whose memory begins with *data*."""
    guest = await enemy.guest(pages=pages, sparse=False)
    try:
        assert guest.memory is not None
        os.pwrite(guest.memory, data, 0)
        yield guest
    finally:
        guest.close()


@attack()
async def net_tiny_frames_in_one_read(enemy: Enemy) -> None:
    """A queue full of frames of 14 bytes is read in one call."""
    size = 16 << 20
    async with _guest(enemy, len(_TINY) // PAGE + 1, _TINY) as sender, _guest(enemy, size // PAGE) as reader:
        one, calls = await sender.open("/net0")
        two, _ = await reader.open("/net1")
        for _ in range(enemy.some(1, 3)):
            for _ in range(enemy.some(30, 120)):
                await sender.ask(calls["write"], one, 0, areas=((ADDRESS, len(_TINY), 0),))
            await reader.ask(calls["read"], two, 0, areas=((ADDRESS, size, 1),))
            enemy.seen["reads"] += 1


@attack()
async def net_flood_to_all_ports(enemy: Enemy) -> None:
    """Broadcast frames, 4,096 in one call, on a switch all of whose ports are in use."""
    async with contextlib.AsyncExitStack() as stack:
        guests = [await stack.enter_async_context(_guest(enemy, 64, _TINY)) for _ in range(PORTS)]
        cards = [await guest.open(f"/net{n}") for n, guest in enumerate(guests)]
        while not enemy.over:
            await guests[0].ask(cards[0][1]["write"], cards[0][0], 0, areas=((ADDRESS, len(_TINY), 0),))
            enemy.seen["writes"] += 1


@attack(machine=_MANY)
async def find_of_wrong_names(enemy: Enemy) -> None:
    """FIND of names that there are not, long ones too, among 1,000 devices."""
    async with _guest(enemy, 1) as guest:
        while not enemy.over:
            for path in ("/devicf-numbes-00", "/" + "device-number" * 18, "/" + "x" * 30):
                await guest.ask(FIND, 0, path)
                enemy.seen["finds"] += 1


async def _write(enemy: Enemy, path: str, data: bytes, drain: bool) -> None:
    async with _guest(enemy, 64, data) as guest:
        handle, calls = await guest.open(path)
        while not enemy.over:
            await guest.ask(calls["write"], handle, 0, areas=((ADDRESS, len(data), 0),))
            enemy.seen["writes"] += 1
            for _ in range(3 if drain else 0):  # what it answers is taken away
                await guest.ask(calls["read"], handle, 0, areas=((ADDRESS + 32 * PAGE, 16 * PAGE, 1),))


@attack()
async def sysman_wrong_messages(enemy: Enemy) -> None:
    """Writes of 64 KiB to the system manager, in messages of a service that there is not."""
    wrong = bytearray(sysmgmt.encode(sysmgmt.Command(1)))[:16]
    wrong[2:4], wrong[4:6] = (8).to_bytes(2, "big"), (99).to_bytes(2, "big")
    await _write(enemy, "/sysman", (bytes(wrong) + bytes(8)) * 2700, True)


@attack()
async def ppp_flags(enemy: Enemy) -> None:
    """Writes of 64 KiB of flags to a PPP device: empty frames."""
    await _write(enemy, "/ppp", b"\x7e" * 65520, True)


@attack()
async def ppp_frames(enemy: Enemy) -> None:
    """The same of short frames that are wrong, and of escapes."""
    await _write(enemy, "/ppp", b"\x7e\xff\x7d\x23\xc0\x7d\x20" * 9360, True)


async def _endpoint(guest: Attacker, path: str) -> socket.socket:
    """A connection to the TCP backing of a device."""
    node = await guest.must(FIND, 0, path)
    _, _, port = str(await guest.must(GETPROP, node, "endpoint")).rpartition(":")
    try:
        return socket.create_connection(("localhost", int(port)), 10)
    except TimeoutError:
        raise Fault("the next peer is not heard: those before it wait in the queue") from None


@attack()
async def hid_peer(enemy: Enemy) -> None:
    """A peer of a keyboard's backing sends events as fast as it can, and nobody reads them."""
    async with _guest(enemy, 64) as guest:
        await guest.open("/keyboard")
        sock = await _endpoint(guest, "/keyboard")
        with sock, contextlib.suppress(ConnectionError):
            sock.settimeout(0.2)
            events = b"".join(struct.pack("<qqHHi", 0, 0, 1, 30, n & 1) for n in range(4096))
            while not enemy.over:
                with contextlib.suppress(TimeoutError):
                    sock.sendall(events)
                    enemy.seen["events"] += 4096


@attack()
async def rude_peers_of_a_tty(enemy: Enemy) -> None:
    """Peers of a tcp: backing that say something and go, or reset, while the guest writes: the next one is heard."""
    async with _guest(enemy, 1) as guest:
        handle, calls = await guest.open("/tty")
        for _ in range(enemy.some(20, 600)):
            with contextlib.suppress(OSError):
                with await _endpoint(guest, "/tty") as sock:
                    resets = enemy.chance.random() < 0.5
                    if resets:
                        await guest.must(NOP)  # it is let in meanwhile, most often
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    else:
                        sock.sendall(b"z" * 2000)
                        sock.shutdown(socket.SHUT_WR)
                    guest.send(guest.next_call(calls["write"], handle, (0,), (b"x" * 1000,)))
                    if resets:  # at once: the host hears of both in one look
                        with contextlib.suppress(OSError):
                            sock.sendall(b"z" * 2000)
                        sock.close()
                    while (await guest.message())[0] != REPLY:
                        pass
                    await guest.ask(calls["read"], handle, 0, areas=(4096,))
                enemy.seen["peers"] += 1
        heard = b""
        for _ in range(40):
            with contextlib.suppress(OSError), await _endpoint(guest, "/tty") as sock:
                sock.sendall(b"hello")
                for _ in range(50):
                    status, value = await guest.ask(calls["read"], handle, 0, areas=(4096,))
                    heard += value if not status else b""
                    if b"hello" in heard:
                        return
                    await asyncio.sleep(0.02)
        raise AssertionError("the next peer is not heard")


@attack()
async def console_closes_beside_many_processes(enemy: Enemy) -> None:
    """A console with a command behind it is closed again and again, on a machine with many more processes."""
    crowd = _crowd(enemy.some(100, 1000))
    try:
        async with _guest(enemy, 1) as guest:
            while not enemy.over:
                handle, calls = await _again(guest)
                await guest.ask(calls["write"], handle, 0, areas=(b"x",))
                status, _ = await guest.ask(CLOSE, handle)
                enemy.seen["closes"] += not status
    finally:
        os.kill(crowd, signal.SIGTERM)
        os.waitpid(crowd, 0)  # noqa: ASYNC222 - it is killed


async def _again(guest: Attacker) -> tuple[int, dict[str, int]]:
    """The console, as soon as it is given back."""
    for _ in range(500):
        try:
            return await guest.open("/console")
        except AssertionError:
            await asyncio.sleep(0.02)
    raise AssertionError("the console is not given back")


def _crowd(count: int) -> int:
    """So many processes that do nothing, until the one that is returned is told to end.

    They come and go a few at a time: a machine that starts or ends a thousand at once has no time for anybody.
    """
    read, write = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        os.close(read)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        life = os.pipe()
        pids = [_idle(*life) for _ in range(count)]
        os.write(write, b"!")
        signal.sigwait([signal.SIGTERM])
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os._exit(0)
    os.close(write)
    os.read(read, 1)
    os.close(read)
    return keeper


def _idle(read: int, write: int) -> int:
    time.sleep(_BREATH)
    pid = os.fork()
    if pid == 0:
        os.close(write)
        os.read(read, 1)  # until its keeper ends
        os._exit(0)
    return pid


@attack()
async def scattered_reads(enemy: Enemy) -> None:
    """Large reads in as many parts as there may be, as many as there are slots, of a disk and of rng."""
    pages = 16 << 8  # 16 MiB
    async with _guest(enemy, pages) as guest:
        for path in ("/disk", "/rng"):
            handle, calls = await guest.open(path)
            part = pages * PAGE // 60
            areas = tuple((ADDRESS + n * part, part, 1) for n in range(60))
            sent = [guest.next_call(calls["read"], handle, (0,), areas, slot) for slot in range(8)]
            for status, _ in await guest.answers(sent):
                enemy.seen["reads"] += not status


@attack()
async def calls_that_wait_and_are_given_up(enemy: Enemy) -> None:
    """Reads and writes that wait in every slot, in as many parts as they may have, of a port that is closed again."""
    pages = 16 << 4  # 1 MiB
    async with _guest(enemy, pages) as guest:
        while not enemy.over:
            handle, calls = await guest.open("/tty")
            part = pages * PAGE // 16
            sent = []
            for slot in range(1, 63):
                name, way = ("wait_read", 1) if slot % 2 else ("wait_write", 0)
                areas = tuple((ADDRESS + n * part, part, way) for n in range(16))
                sent.append(guest.next_call(calls[name], handle, (), areas, slot))
            sent.append(guest.next_call(CLOSE, handle, (), (), 0))
            answers = await guest.answers(sent)
            enemy.seen["waited"] += sum(status == Status.RESET for status, _ in answers)
