"""More than anybody can take: messages, connections, refusals."""

from __future__ import annotations

import asyncio
import contextlib

from raw import ADDRESS, PAGE, hello

from hcall.messages import ACK, REPLIES
from hcall.wire import encode

from ..enemy import SLOTS, Attacker, Enemy, Fault, Refused
from ..room import attack

_ACKS = encode((ACK, 0, 0, 0)) * 4096


async def _acknowledge(enemy: Enemy, sessions: int) -> None:
    guests = await enemy.crowd(sessions)

    async def flood(guest: Attacker) -> None:
        while not enemy.over:
            await guest.write(_ACKS)
            enemy.seen["acks"] += 4096

    await asyncio.gather(*map(flood, guests))
    for guest in guests:
        guest.close()


@attack()
async def acks_of_one_session(enemy: Enemy) -> None:
    """Nothing but ACKs, as fast as they go."""
    await _acknowledge(enemy, 1)


@attack()
async def acks_of_many_sessions(enemy: Enemy) -> None:
    """Nothing but ACKs, by many sessions of one process."""
    await _acknowledge(enemy, enemy.some(12, 250))


@attack()
async def bundles_of_many_sessions(enemy: Enemy) -> None:
    """Bundles of 64 reads of a page each, by many sessions of one process: 4,096 calls of each under way at once."""
    guests = await enemy.crowd(enemy.some(4, 60), pages=1, lane=True)
    area = ((ADDRESS, PAGE, 1),)

    async def flood(guest: Attacker) -> None:
        handle, calls = await guest.open("/rng")
        while not enemy.over:
            bundles = [guest.next_bundle(calls["read"], handle, [((0,), area)] * 64, slot) for slot in range(SLOTS)]
            await guest.write(b"".join(bundles))
            left = SLOTS * 64
            while left:
                message = await guest.message()
                if message[0] != REPLIES:
                    raise Fault(f"no answers: {message}")
                left -= len(message[5])
            enemy.seen["calls"] += SLOTS * 64

    await asyncio.gather(*map(flood, guests))
    for guest in guests:
        guest.close()


@attack()
async def connects(enemy: Enemy) -> None:
    """As many connections as there are, none of which says anything, then half a HELLO on each; again and again."""
    while not enemy.over:
        await _connect(enemy)


async def _connect(enemy: Enemy) -> None:
    held: list[Attacker] = []
    with contextlib.suppress(Refused):
        while len(held) < enemy.some(700, 2048):
            held.append(Attacker(enemy.path))
    enemy.seen["connects"] += len(held)
    await enemy.hold()
    for guest in held:
        with contextlib.suppress(Refused):
            await guest.write(hello()[:20])
    await enemy.hold()
    for guest in held:
        guest.close()


async def _refuse(enemy: Enemy, count: int) -> None:
    for _ in range(count):
        with contextlib.suppress(Refused):
            guest = Attacker(enemy.path)
            await guest.write(b"\x90")
            await guest.rest()
            guest.close()
        enemy.seen["hellos"] += 1


@attack()
async def refused_hellos(enemy: Enemy) -> None:
    """HELLOs that are none, one after the other: the log must stay small."""
    await _refuse(enemy, enemy.some(500, 5000))


@attack(read=False)
async def log_that_nobody_reads(enemy: Enemy) -> None:
    """The same, and the daemon's log is a pipe that is full: lines may be lost, nobody may wait."""
    await _refuse(enemy, enemy.some(1000, 5000))
