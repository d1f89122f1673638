"""Where those wait who have connected: they are read in turns, a few at a time, and none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from hostd.lanes.socket.anteroom import Anteroom

MANY = 40


class Bench:
    """An anteroom, with *MANY* connections that say something; each look at the time takes a second."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.now, self.asked, self.read = 0.0, 0, list[int]()
        self.room = Anteroom(asyncio.get_running_loop(), self.soon, self.time)
        pairs = [socket.socketpair() for _ in range(MANY)]
        for ours, theirs in pairs:
            stack.enter_context(ours)
            stack.enter_context(theirs)
        self.ours, self.theirs = zip(*pairs, strict=True)
        for number, sock in enumerate(self.ours):
            self.room.watch(sock, lambda number=number: self.readable(number))  # type: ignore[misc]

    def soon(self, room: Anteroom) -> bool:
        self.asked += 1
        return False

    def time(self) -> float:
        self.now += 1
        return self.now

    def readable(self, number: int) -> None:
        self.ours[number].recv(1)
        self.read.append(number)

    def speak(self) -> None:
        for sock in self.theirs:
            sock.send(b"!")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    with contextlib.ExitStack() as stack:
        bench = Bench(stack)
        yield bench
        for sock in bench.ours:
            bench.room.forget(sock)


async def rounds(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_those_that_speak_at_once_are_read_in_their_users_turns_and_each_once(bench: Bench) -> None:
    bench.speak()
    while not bench.asked:
        await rounds(1)
    await rounds(5)
    assert bench.asked == 1 and not bench.read  # it is not their turn
    turns = 0
    while bench.room.work(bench.now):  # no time at all: some of them, all the same
        assert len(bench.read) < 10 * (turns := turns + 1)
    assert turns > 3 and sorted(bench.read) == [*range(MANY)]
    bench.speak()
    while bench.asked == 1:  # and it is told again
        await rounds(1)


async def test_one_that_is_forgotten_meanwhile_is_not_read(bench: Bench) -> None:
    bench.speak()
    assert bench.room.work(bench.now)
    gone = [number for number in range(MANY) if number not in bench.read]
    for number in gone:
        bench.room.forget(bench.ours[number])
    before = [*bench.read]
    assert not bench.room.work(bench.now) and bench.read == before
    for number in before:
        bench.room.forget(bench.ours[number])
    assert not bench.room.work(bench.now)  # nobody is there
    bench.room.watch(bench.ours[gone[0]], lambda: bench.readable(gone[0]))
    assert not bench.room.work(float("inf")) and bench.read == [*before, gone[0]]
