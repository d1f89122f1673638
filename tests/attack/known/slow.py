"""Files on a filesystem that answers late, or not: descriptors that a guest sends, and a disk of the host's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from raw import PAGE, hello

from hcall.numbers import ADD_MEMORY, NOP

from ..enemy import Attacker, Enemy, Refused
from ..room import attack
from ..stage import HOLD, LET_GO

_SLOW = """
[devices.slow]
model = "block"
path = "slow/disk.img"
create = "16M"
"""
_COUNT = 16


def _made(folder: Path, name: str) -> int:
    """A file there, the caller's to close."""
    return os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666)


async def _held(enemy: Enemy, guest: Attacker, send: Callable[[list[int]], Awaitable[None]]) -> None:
    """The daemon closes files, of which none answers; ours are closed when they do."""
    folder = enemy.path.parents[1] / "slow"
    files = [_made(folder, f"{os.getpid()}-{n}") for n in range(_COUNT)]
    files.append(_made(folder, HOLD.decode()))
    try:
        with contextlib.suppress(Refused):
            await send(files[:_COUNT])
        enemy.seen["held"] += _COUNT
        await enemy.pause(enemy.some(0, 2))
        await enemy.hold()
    finally:
        files.append(_made(folder, LET_GO.decode()))
        for name in (HOLD, LET_GO):
            (folder / name.decode()).unlink()
        for fd in files:
            os.close(fd)
        guest.close()


@attack(machine=_SLOW, slow=True)
async def a_close_that_never_returns_in_hello(enemy: Enemy) -> None:
    """Files whose close waits for a filesystem that does not answer, in the place of memfds."""
    guest = Attacker(enemy.path)

    async def send(fds: list[int]) -> None:
        data = hello(regions=((1, PAGE),) * len(fds))
        socket.send_fds(guest.sock, [data[:-10]], fds)  # the rest comes later
        await guest.write(data[-10:])
        await guest.message()

    await _held(enemy, guest, send)


@attack(machine=_SLOW, slow=True)
async def a_close_that_never_returns_on_the_lane(enemy: Enemy) -> None:
    """The same as memory to be added."""
    guest = await enemy.guest(pages=1)
    await guest.must(NOP)

    async def send(fds: list[int]) -> None:
        for number, fd in enumerate(fds, 1):
            guest.lend(fd, ids=(number,))
        calls = (
            guest.next_call(ADD_MEMORY, 0, (number << 40, PAGE, number), slot=number)
            for number in range(1, len(fds) + 1)
        )
        await guest.write(b"".join(calls) + guest.next_call(NOP))
        await guest.message()

    await _held(enemy, guest, send)


@attack(machine=_SLOW, slow=True)
async def a_slow_disk(enemy: Enemy) -> None:
    """Reads and writes, each of which takes the filesystem below the disk 100 ms, in all slots."""
    guest = await enemy.guest(pages=1)
    try:
        disk, calls = await guest.open("/slow")
        for _ in range(enemy.some(1, 4)):
            asked = []
            for slot in range(8):
                data = (bytes(512),) if slot % 2 else (512,)
                asked.append(guest.next_call(calls["write" if slot % 2 else "read"], disk, (slot * 512,), data, slot))
            answers = await guest.answers(asked)
            assert not any(status for status, _ in answers), answers
            enemy.seen["answers"] += len(answers)
            await asyncio.sleep(0)
        await enemy.hold()
    finally:
        guest.close()
