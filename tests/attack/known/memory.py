"""A guest's memory: there is much of it, it goes, it was never there."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading

from raw import ADDRESS, PAGE, memfd

from hcall.kernel.memfd import SPARSE
from hcall.numbers import ADD_MEMORY, REMOVE_MEMORY

from ..enemy import SLOTS, Attacker, Enemy, Fault, Refused
from ..room import attack

_START = 1 << 40
_AREAS = 8  # in one call: rng fills no more of them
_HOLE = 1 | 2  # FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
_BOUND = 256 << 20  # bytes that a daemon may have
_LOOKED = 1.2  # seconds in which a host has looked again at what is there
_libc = ctypes.CDLL(None, use_errno=True)


async def _touch(guest: Attacker, start: int, size: int, handle: int, read: int) -> int:
    """Have one byte of each page filled with chance; how many of the calls went well."""
    good = 0
    pages = [(start + at, 1, 1) for at in range(0, size, PAGE)]
    parts = [tuple(pages[at : at + _AREAS]) for at in range(0, len(pages), _AREAS)]
    for at in range(0, len(parts), SLOTS):
        calls = [guest.next_call(read, handle, (0,), areas, slot) for slot, areas in enumerate(parts[at : at + SLOTS])]
        good += sum(not status for status, _ in await guest.answers(calls))
    return good


async def _large(enemy: Enemy, go: bool) -> None:
    size = enemy.some(256 << 20, 3 << 30)
    guest = await enemy.guest(pages=1)
    memory = memfd(size)
    os.posix_fallocate(memory, 0, size)
    guest.lend(memory)
    os.close(memory)
    await guest.must(ADD_MEMORY, 0, _START, size, 1)
    handle, calls = await guest.open("/rng")
    await _touch(guest, _START, size, handle, calls["read"])
    enemy.seen["MiB"] = size >> 20
    if not go:
        await guest.must(REMOVE_MEMORY, 0, _START)
    guest.close()


@attack()
async def large_memory_of_a_guest_that_goes(enemy: Enemy) -> None:
    """A guest whose large memory the daemon has touched hangs up: unmapping and freeing it takes long."""
    await _large(enemy, True)


@attack()
async def large_memory_given_back(enemy: Enemy) -> None:
    """The same by REMOVE_MEMORY."""
    await _large(enemy, False)


@attack()
async def holes_punched_while_filled(enemy: Enemy) -> None:
    """A thread makes holes in memory that the daemon fills, so that each page is found and lost again and again."""
    pages = 4096
    guest = await enemy.guest(pages=pages, sparse=False)
    assert guest.memory is not None
    handle, calls = await guest.open("/rng")
    memory, done = guest.memory, threading.Event()

    def punch() -> None:
        while not done.is_set():
            _libc.fallocate(memory, _HOLE, ctypes.c_long(0), ctypes.c_long(pages * PAGE))
            enemy.seen["punched"] += 1

    thread = threading.Thread(target=punch)
    thread.start()
    try:
        while not enemy.over:
            enemy.seen["filled"] += await _touch(guest, ADDRESS, 1024 * PAGE, handle, calls["read"])
    except Refused as error:
        enemy.seen["ended"] += 1
        assert "INTERNAL" not in str(error)
    finally:
        done.set()
        thread.join()
        guest.close()


@attack()
async def sparse_memory(enemy: Enemy) -> None:
    """Memory of which no page is there, lent and filled: whoever touches a page first pays for it."""
    size, held = enemy.some(64 << 20, 1 << 30), []
    with contextlib.suppress(Refused):
        guest = await enemy.guest(pages=size // PAGE, sparse=True)
        held.append(guest)
        handle, calls = await guest.open("/rng")
        enemy.seen["filled"] = await _touch(guest, ADDRESS, size, handle, calls["read"])
    for guest in held:
        guest.close()


@attack(memory=_BOUND)
async def sparse_memory_of_many_guests(enemy: Enemy) -> None:
    """Memory without pages, as much as one may lend, by many guests, and all of it filled: more than the daemon has."""
    held: list[Attacker] = []
    try:
        while True:
            held.append(guest := await enemy.guest(pages=1))
            memory = memfd(SPARSE)
            os.pwrite(memory, b"x", 0)  # so that not all of its pages are missing
            guest.lend(memory)
            os.close(memory)
            status, value = await guest.ask(ADD_MEMORY, 0, _START, SPARSE, 1)
            if status:
                break
            enemy.seen["MiB lent"] += SPARSE >> 20
            if len(held) * SPARSE > 2 * _BOUND:
                raise Fault("guests may have more filled than the daemon may have, and none was refused")
            handle, calls = await guest.open("/rng")
            enemy.seen["filled"] += await _touch(guest, _START, SPARSE, handle, calls["read"])
            await enemy.pause(0 if enemy.brief else _LOOKED)
    except Refused as error:
        raise Fault(f"not refused, but ended: {error}") from None
    assert "unfilled" in str(value), value
    await enemy.hold()
    for guest in held:
        guest.close()
