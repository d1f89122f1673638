"""As much as there may be of something, so that others get nothing of it, or have to wait when it goes."""

from __future__ import annotations

import contextlib
import os
import time

from raw import ADDRESS, PAGE, hello, memfd

from hcall.messages import WELCOME
from hcall.numbers import CLOSE, DETACH

from ..enemy import Attacker, Enemy, Refused
from ..room import attack

_GIVEN_BACK = 3.0  # seconds; 0.2 on two cores
_BUSY = 20.0  # on a machine with other things to do


@attack(lasts=True)
async def sessions_at_the_bound(enemy: Enemy) -> None:
    """As many sessions as one process gets."""
    guests = await enemy.crowd(enemy.some(60, 2048))
    await enemy.hold()
    for guest in guests:
        guest.close()


@attack(lasts=True)
async def sessions_that_come_and_go(enemy: Enemy) -> None:
    """Sessions without a lane whose guest hangs up at once, each with nothing open, one after the other."""
    for _ in range(enemy.some(200, 2100)):
        with contextlib.suppress(Refused):
            (await enemy.guest(lane=False)).close()
            enemy.seen["sessions"] += 1
    await enemy.hold()


@attack()
async def many_handles_then_gone(enemy: Enemy) -> None:
    """Guests with 1,024 open handles each, which go at once, the last one first: their user may soon open as many."""
    guests = await enemy.crowd(enemy.some(6, 100), lane=True)
    for guest in guests:
        enemy.seen["handles"] += await guest.opens("/rng", 1024)
    await enemy.hold()
    for guest in reversed(guests):
        guest.close()
    begun = time.monotonic()
    while True:
        guest = await enemy.guest()
        opened = await guest.opens("/rng", 1024)
        guest.close()
        waited = time.monotonic() - begun
        enemy.seen["given back after, ms"] = round(waited * 1e3)
        if opened == 1024:
            break
        most = _BUSY if enemy.brief else _GIVEN_BACK
        assert waited < most, f"what guests had open who are gone is not given back after {waited:.0f} s"
        await enemy.pause(0.2)


@attack(files=1024)
async def descriptors_exhausted(enemy: Enemy) -> None:
    """As many sessions of 16 regions as one process gets, then smaller ones, of a daemon with 1,024 descriptors."""
    memory = memfd()
    there, refused = list[Attacker](), list[Attacker]()
    os.posix_fallocate(memory, 0, PAGE)
    for count in (16, 4, 1, 0):
        while True:
            with contextlib.suppress(Refused):
                guest = Attacker(enemy.path)
                refused.append(guest)
                regions = tuple((ADDRESS + n * PAGE, PAGE) for n in range(count))
                await guest.write(hello(regions=regions), [memory] * count)
                message = await guest.message()
                if message[0] == WELCOME:
                    there.append(refused.pop())
                    enemy.seen["regions"] += count
                    continue
            enemy.seen["refused"] += 1
            break
    os.close(memory)
    enemy.seen["sessions"] += len(there)
    assert enemy.seen["regions"], "no region was taken: nothing was exhausted"
    await enemy.hold()
    for guest in there:
        await guest.must(DETACH)  # none has a lane: they could come back for half a minute
    for guest in there + refused:
        guest.close()


@attack()
async def watchdogs_of_others(enemy: Enemy) -> None:
    """A watchdog that is left running in each of many sessions: another guest's must not fire for it."""
    guests = await enemy.crowd(enemy.some(300, 400))
    for guest in guests:
        with contextlib.suppress(AssertionError):  # it may be refused
            handle, _ = await guest.open("/watchdog")
            enemy.seen["left running"] += not (await guest.ask(CLOSE, handle))[0]
    await enemy.hold()
    for guest in guests:
        guest.close()
