"""Guests that are killed, anywhere in what they do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time

from raw import ADDRESS, PAGE

from hcall.numbers import NOP

from ..enemy import SLOTS, Enemy, Refused
from ..room import attack

_PAGES = 4096
_LARGE = '[devices.large]\nmodel = "block"\npath = "large.img"\ncreate = "4G"\n'  # a hole
_DEVICES = ("/disk", "/net3", "/console", "/folder", "/sysman", "/printer")
_SOON = 1.0  # seconds within which a device of a killed guest has to be free
_BUSY = 10.0  # on a machine with other things to do


@attack()
async def killed_guests(enemy: Enemy) -> None:
    """kill -9 at a random point of attaching, opening, and large transfers: what it had is free within a second."""
    for _ in range(enemy.some(20, 300)):
        path = enemy.chance.choice(_DEVICES)
        victim = os.fork()
        if victim == 0:
            _live(enemy, path)
        time.sleep(enemy.chance.random() * 0.05)  # noqa: ASYNC251 - nothing else is to be done
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)  # noqa: ASYNC222 - it is killed
        await _free(enemy, path)


@attack(machine=_LARGE, p99=0.01)  # four workers copy on them
async def killed_amid_large_reads(enemy: Enemy) -> None:
    """kill -9 while 16 GiB of a disk are being read: nobody wants them any more, and the disk is free."""
    for _ in range(enemy.some(1, 10)):
        read, write = os.pipe()
        victim = os.fork()
        if victim == 0:
            _read_much(enemy, write)
        os.close(write)
        assert os.read(read, 1), "what reads has failed"
        os.close(read)
        await enemy.pause(enemy.chance.random() * 0.1)
        os.kill(victim, signal.SIGKILL)
        os.waitpid(victim, 0)  # noqa: ASYNC222 - it is killed
        await _free(enemy, "/large")


def _read_much(enemy: Enemy, begun: int) -> None:
    """In a process of its own: four reads of 4 GiB, into the same 64 MiB of memory again and again."""

    async def work() -> None:
        pages = 64 << 8
        guest = await enemy.guest(pages=pages, sparse=False)
        handle, calls = await guest.open("/large")
        areas = ((ADDRESS, pages * PAGE, 1),) * 60
        reads = [guest.next_call(calls["read"], handle, (0,), areas, slot) for slot in range(4)]
        await guest.write(b"".join(reads) + guest.next_call(NOP, slot=4))
        await guest.message()  # that of NOP
        os.write(begun, b"x")
        await guest.rest()

    with contextlib.suppress(Refused, AssertionError, OSError):
        asyncio.run(work())
    os._exit(0)


async def _free(enemy: Enemy, path: str) -> None:
    """Soon another guest can open the device of one that was killed just now."""
    begun = time.monotonic()
    guest = await enemy.guest()
    why = ""
    while (waited := time.monotonic() - begun) < 30:
        try:
            await guest.open(path)
            break
        except AssertionError as error:
            why = str(error)
            await enemy.pause(0.002)
    guest.close()
    enemy.seen["kills"] += 1
    enemy.seen["free after, ms"] = max(enemy.seen["free after, ms"], round(waited * 1e3))
    most = _BUSY if enemy.brief else _SOON
    assert waited < most, f"{path} of a killed guest is not free after {waited:.1f} s, expected {most:.0f}: {why}"


def _live(enemy: Enemy, path: str) -> None:
    """In a process of its own: as many large transfers as there are slots, again and again."""

    async def work() -> None:
        guest = await enemy.guest(pages=_PAGES)
        handle, calls = await guest.open(path)
        areas = tuple((ADDRESS + n * 64 * PAGE, 64 * PAGE) for n in range(60))
        while True:
            sent = []
            for slot in range(SLOTS):
                verb, fill = (("read", 1), ("write", 0))[slot & 1]
                number = calls.get(verb, calls.get("sync", 16))
                sent.append(guest.next_call(number, handle, (0,), tuple((*area, fill) for area in areas), slot))
            await guest.answers(sent)

    with contextlib.suppress(Refused, AssertionError, OSError):
        asyncio.run(work())
    os._exit(0)
