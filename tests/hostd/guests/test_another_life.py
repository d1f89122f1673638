"""A host is taken apart, and another one goes on with the same guest, which notices nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import pytest

import guestd
import hostd
from guestd.driver import Driver, Op, Signal
from guestd.drivers.rng import RngDriver
from hcall import numbers
from hcall.errors import Busy, IoError, StaleHandle
from hcall.saved import Saved
from hostd.machine.host import by_path

MODEL = """
from hostd.device import Device, Feature, Irq, Later, Room, State, call

class Counter(Device):
    compatible = "test,counter"
    EXTRA = Feature(3)
    rang = Irq()
    total = State(int, 0)
    was_ready = False

    def start(self) -> None:
        self.waiting = []

    def ready(self) -> None:
        self.was_ready = True

    @call(needs=EXTRA)
    def add(self, count: int) -> int:
        self.total += count
        return self.total

    @call(again=True)
    def look(self) -> Later[int]:
        return self.later()

    @call
    def act(self) -> Later[int]:
        return self.later()

    def later(self) -> Later[int]:
        self.waiting.append(Later())
        return self.waiting[-1]

    @call
    def fill(self, into: Room) -> int:
        return into.put(b"x" * into.nbytes)
"""
MACHINE = """
[devices.console]
model = "console"
backing = "cmd:cat"
[devices.counter]
model = "counter.py:Counter"
[devices."bus/rng"]
model = "rng"
"""


class CounterDriver(Driver):
    compatible, wants = ("test,counter",), ("EXTRA",)
    rang = Signal()
    add, look, act = Op[[int], int](), Op[[], int](), Op[[], int]()


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    (tmp_path / "counter.py").write_text(MODEL)
    path = tmp_path / "machine.toml"
    path.write_text(MACHINE)
    return path


class Lives:
    """One host after the other, at one socket."""

    def __init__(self, machine: Path, folder: Path) -> None:
        self._machine, self._folder, self._count = machine, folder, 0
        self._stack = contextlib.AsyncExitStack()
        self.host: hostd.Host

    async def begin(self, saved: Saved | None = None, fds: Sequence[int] = ()) -> None:
        self._count += 1
        serving = hostd.serve(self._machine, self._folder / f"run{self._count}", saved=saved, fds=fds)
        self.host = await self._stack.enter_async_context(serving)

    async def go_on(self, drain: bool = True) -> None:
        """What is saved goes through bytes, as to another process; the next host is there, and the links are cut."""
        old = self.host
        if drain:
            await old.drain()
        saved, fds = old.save()
        copies = [*map(os.dup, fds)]
        old.cede()  # at once: what comes from now on is the next one's to read
        await self.begin(msgpack.unpackb(msgpack.packb(saved), strict_map_key=False), copies)
        self.host.socket.rename(old.socket)
        for link in list(old.guests.links):
            link.abort()

    def guest(self, **options: Any) -> contextlib.AbstractAsyncContextManager[guestd.AsyncGuest]:
        """A guest, of whichever host is there."""
        return guestd.attach(self._folder / "run1/guest.sock", drivers=[CounterDriver, RngDriver], **options)

    @property
    def counter(self) -> Any:
        """The device."""
        return self.host.tree.find("/counter").device

    async def close(self) -> None:
        await self._stack.aclose()


@pytest.fixture
async def lives(machine: Path, tmp_path: Path) -> AsyncIterator[Lives]:
    lives = Lives(machine, tmp_path)
    await lives.begin()
    yield lives
    await lives.close()


async def test_a_guest_goes_on_with_what_it_has_open(lives: Lives) -> None:
    async with lives.guest() as guest:
        counter = await guest.bind("counter")
        assert await counter.add(2) == 2  # type: ignore[attr-defined]
        await lives.go_on()
        assert await counter.add(3) == 5  # type: ignore[attr-defined]  # its features are accepted still
        assert guest.resumed == 1 and not lives.counter.was_ready
        assert by_path(lives.host.openers()) == {"/counter": [guest.name]}
        await guest.unbind("counter")
        assert not lives.host.tree.find("/counter").opens and lives.counter.total == 0


async def test_no_interrupt_is_lost_and_none_is_too_low_to_be_seen(lives: Lives) -> None:
    async with lives.guest() as guest:
        counter: Any = await guest.bind("counter")
        for _ in range(3):
            lives.counter.rang()
            await counter.rang.wait()
        await lives.go_on()
        await counter.rang.wait()  # a vector that was ever raised is looked at once more
        for _ in range(2):
            waits = asyncio.ensure_future(counter.rang.wait())
            await guest.nop()
            assert not waits.done()
            lives.counter.rang()
            await waits


async def test_calls_under_way_are_made_once(lives: Lives) -> None:
    async with lives.guest() as guest:
        counter: Any = await guest.bind("counter")
        answers = asyncio.gather(*(counter.add(1) for _ in range(300)))
        await guest.nop()
        for _ in range(3):
            await lives.go_on()
        assert sorted(await answers) == list(range(1, 301))


async def test_a_call_without_an_answer_is_made_again_or_fails(lives: Lives) -> None:
    async with lives.guest() as guest:
        counter: Any = await guest.bind("counter")
        look, act = asyncio.ensure_future(counter.look()), asyncio.ensure_future(counter.act())
        await guest.nop()
        assert len(lives.counter.waiting) == 2
        await lives.go_on(drain=False)
        with pytest.raises(IoError, match="the host was replaced"):
            await act
        (again,) = lives.counter.waiting
        again.done(7)
        assert await look == 7


async def test_of_a_bundle_those_without_an_answer_are_made_again_or_fail(lives: Lives) -> None:
    async with lives.guest() as guest:
        counter: Any = await guest.bind("counter")
        first = asyncio.ensure_future(guest.nop())  # what follows shares messages
        looks, acts = ([asyncio.ensure_future(call()) for _ in range(3)] for call in (counter.look, counter.act))
        await first
        await guest.nop()
        assert len(lives.counter.waiting) == 6
        for n in (1, 4):
            lives.counter.waiting[n].done(n)
        assert (await looks[1], await acts[1]) == (1, 4)
        await lives.go_on(drain=False)
        for n in (0, 2):
            with pytest.raises(IoError, match="the host was replaced"):
                await acts[n]
        assert len(lives.counter.waiting) == 2
        for n, again in enumerate(lives.counter.waiting):
            again.done(7 + n)
        assert [await looks[n] for n in (0, 2)] == [7, 8]


async def test_memory_is_brought_again_what_was_added_too(lives: Lives) -> None:
    async with lives.guest() as guest:
        counter: Any = await guest.bind("counter")
        await guest.grow(1 << 20)
        await lives.go_on()
        for region in (guest.ram.first, *guest.ram.added):
            filled = await guest.call(counter.dev.handle, counter.number("fill"), (), ((region.start, 4096, 1),))
            assert filled == 4096


async def test_nodes_and_changes_go_on(lives: Lives) -> None:
    async with lives.guest() as guest:
        before = {found.path: found.node for found in await guest.walk()}
        await lives.go_on()
        assert {found.path: found.node for found in await guest.walk()} == before
        node = lives.host.plug_table("late", {"model": "rng"})
        assert await guest.happened() == [(numbers.ADDED, "/late")] and node.handle > max(before.values())
        await lives.host.unplug("/bus/rng")
        with pytest.raises(StaleHandle):
            await guest.core(before["/bus/rng"], numbers.INFO)


async def test_a_stranger_is_not_taken_for_a_guest_of_before(lives: Lives) -> None:
    async with lives.guest() as guest:
        await guest.bind("counter")
        await lives.go_on()
        async with lives.guest(name="other") as other:
            assert other.resumed == 0 and not other.drivers
            with pytest.raises(Busy):
                await other.core((await other.found("counter")).node, numbers.OPEN, 0)


async def test_a_command_and_what_it_said_go_on(lives: Lives) -> None:
    async with guestd.attach(lives.host.socket) as guest:
        console: Any = await guest.bind("console")
        endpoint = await console.dev.property("endpoint")
        await console.write_all(b"one\n")
        assert await console.read_exactly(10) == b"one\r\none\r\n"
        await console.write_all(b"two\n")
        await lives.go_on()
        assert await console.read_exactly(10) == b"two\r\ntwo\r\n"
        await console.write_all(b"three\n")
        assert await console.read_exactly(14) == b"three\r\nthree\r\n"
        assert await console.dev.property("endpoint") == endpoint  # the same process


async def test_what_another_version_saved_is_refused(lives: Lives, tmp_path: Path) -> None:
    saved, _ = lives.host.save()
    with pytest.raises(ValueError, match="another version"):
        await lives.begin(saved | {"version": 0})
