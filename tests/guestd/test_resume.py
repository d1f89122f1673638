"""Lost links: wherever a connection is cut, each call has its effect once and its right answer, on both clients."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvloop
from raw import bystander, in_thread, served, until

import guestd
import hostd
from guestd.driver import Driver, Op
from guestd.drivers.block import BlockDriver
from guestd.drivers.rng import RngDriver
from guestd.stream import StreamDriver
from hcall.errors import LinkLost
from hcall.kernel import descriptors
from hostd.device import Data, Device, Later, Room, call
from hostd.devices.block import Block, Size
from hostd.devices.rng import Rng
from hostd.machine.file import DeviceSpec
from hostd.stream import Stream

made: Counter[str] = Counter()  # the calls that reached a device, and so had their effect


class Tally(Device):
    """One counter for each effect."""

    compatible = "test,tally"

    def start(self) -> None:
        self.counts: Counter[int] = Counter()

    @call
    def bump(self, key: int) -> int:
        self.counts[key] += 1
        return self.counts[key]


class Echo(Stream):
    """Gives back what was written, once: a read that is made twice takes bytes away from the next one."""

    compatible = "test,echo"

    def written(self, data: bytes) -> int:
        made["echo"] += 1
        return self.send(data)


class Noise(Rng):
    """The rng, counted."""

    def read(self, into: Room, at: int) -> int:
        made["rng"] += 1
        return super().read(into, at)


class Disk(Block):
    """The disk, counted."""

    def read(self, into: Room, at: int) -> int | Later[int]:
        made["load"] += 1
        return super().read(into, at)

    def write(self, data: Data, at: int) -> int | Later[int]:
        made["store"] += 1
        return super().write(data, at)

    def sync(self) -> Later[None]:
        made["sync"] += 1
        return super().sync()


class TallyDriver(Driver):
    compatible = ("test,tally",)
    bump = Op[[int], int]()


class EchoDriver(StreamDriver):
    compatible = ("test,echo",)


DRIVERS = [TallyDriver, EchoDriver, BlockDriver, RngDriver]
PATHS = ["tally", "echo", "disk", "noise"]


class Relay:
    """A socket between guests and a host, which cuts the connection after so many bytes in one direction."""

    def __init__(self, directory: Path, target: Path) -> None:
        self.path, self.target = directory / "relay.sock", target
        self.cuts: deque[tuple[int, int]] = deque()  # one after the other: (0 from the guest, 1 to it; bytes)
        self._loop = asyncio.get_running_loop()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        near.setblocking(False)
        far = socket.socket(socket.AF_UNIX)
        far.connect(str(self.target))
        far.setblocking(False)
        self._pairs.append((near, far))
        for direction, sock in enumerate((near, far)):
            self._loop.add_reader(sock, self._pass_on, (near, far), direction)

    def _pass_on(self, pair: tuple[socket.socket, socket.socket], direction: int) -> None:
        if pair not in self._pairs:
            return  # the other side's turn came first
        fds: Sequence[int] = ()
        try:
            data, fds, _ = descriptors.receive(pair[direction], 65536)
            whole = bool(data)
            if whole and self.cuts and self.cuts[0][0] == direction:
                left = self.cuts.popleft()[1] - len(data)
                if left >= 0:
                    self.cuts.appendleft((direction, left))
                else:
                    data, whole = data[:left], False
            if data:
                assert socket.send_fds(pair[1 - direction], [data], fds) == len(data)
        except (BrokenPipeError, ConnectionResetError):
            whole = False
        finally:
            for fd in fds:
                os.close(fd)
        if not whole:
            self._drop(pair)

    def _drop(self, pair: tuple[socket.socket, socket.socket]) -> None:
        self._pairs.remove(pair)
        for sock in pair:
            self._loop.remove_reader(sock)
            sock.close()

    def close(self) -> None:
        """Nobody is there any more."""
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self.path.unlink()
        for pair in list(self._pairs):
            self._drop(pair)


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    config = {"path": tmp_path / "disk.img", "read_only": False, "create": Size(1 << 20)}
    specs = [DeviceSpec("tally", "", Tally, {}), DeviceSpec("echo", "", Echo, {}), DeviceSpec("noise", "", Noise, {})]
    async with served(tmp_path, *specs, DeviceSpec("disk", "", Disk, config)) as host:
        yield host


@pytest.fixture
async def relay(host: hostd.Host, tmp_path: Path) -> AsyncIterator[Relay]:
    relay = Relay(tmp_path, host.socket)
    yield relay
    relay.close()


def session(drivers: Sequence[Any], n: int) -> Iterator[tuple[list[Awaitable[Any]], list[Any]]]:
    """Twenty calls, four at once, and what each must answer; an int stands for so many random bytes."""
    tally, echo, disk, noise = drivers
    text, at = b"%08d" % n, n % 1000 * 8
    back = text[::-1]
    yield [tally.bump(5 * n), noise.read(8), echo.write(text), disk.write(text, at)], [1, bytes, 8, 8]
    yield [echo.read(8), disk.read(8, at), tally.bump(5 * n + 1), noise.read(8)], [text, text, 1, bytes]
    yield [disk.sync(), tally.bump(5 * n + 2), echo.write(back), disk.write(back, at)], [None, 1, 8, 8]
    yield [disk.read(8, at), echo.read(8), tally.bump(5 * n + 3), noise.read(8)], [back, back, 1, bytes]
    yield [noise.read(8), disk.read(8, at), tally.bump(5 * n + 4), disk.write(text, at)], [bytes, back, 1, 8]


EFFECTS = {"echo": 2, "rng": 4, "load": 3, "store": 3, "sync": 1}  # of one session, beside the tally


def check(answers: list[Any], expected: list[Any]) -> None:
    for answer, right in zip(answers, expected, strict=True):
        assert (len(answer) == 8) if right is bytes else (answer == right), (answers, expected)


def cuts(direction: int, n: int) -> list[tuple[int, int]]:
    """After *n* bytes; and for two in three once more, in the greeting or the repeats that follow."""
    return [(direction, n), *([], [(direction, n % 97)], [(1 - direction, n % 53)])[n % 3]]


def moments() -> range:
    """At how many bytes the link is cut: every one on one loop, every fifth on the other."""
    return range(0, 2000, 1 if isinstance(asyncio.get_running_loop(), uvloop.Loop) else 5)


def had_each_effect_once(host: hostd.Host, sessions: int) -> None:
    tally = host.tree.find("/tally").device
    assert isinstance(tally, Tally)
    assert set(tally.counts.values()) == {1} and len(tally.counts) == 5 * sessions
    assert made == {name: count * sessions for name, count in EFFECTS.items()}


@pytest.mark.parametrize("direction", [0, 1], ids=["to the host", "to the guest"])
@pytest.mark.spec("R-3", "E-1")
async def test_a_cut_at_every_byte_of_a_session(host: hostd.Host, relay: Relay, direction: int) -> None:
    made.clear()
    at = moments()
    async with guestd.attach(relay.path, drivers=DRIVERS) as guest:
        drivers = [await guest.bind(path) for path in PATHS]
        for n in at:
            relay.cuts.extend(cuts(direction, n))
            for calls, expected in session(drivers, n):
                check(await asyncio.gather(*calls), expected)
            if len(relay.cuts) == len(cuts(direction, n)):
                break  # the session was over before
            relay.cuts.clear()
        assert 200 < n < at[-1] and guest.resumed >= at.index(n)
        relay.cuts.clear()
    had_each_effect_once(host, at.index(n) + 1)


@pytest.mark.parametrize("direction", [0, 1], ids=["to the host", "to the guest"])
async def test_a_cut_at_every_byte_of_a_session_of_the_blocking_client(
    host: hostd.Host, relay: Relay, direction: int
) -> None:
    made.clear()
    at = moments()

    def work() -> tuple[int, int]:
        with guestd.attach_blocking(relay.path, drivers=DRIVERS) as guest:
            drivers = [guest.bind(path) for path in PATHS]
            for n in at:
                relay.cuts.extend(cuts(direction, n))
                for calls, expected in session(drivers, n):
                    check(guest.gather(*calls), expected)
                if len(relay.cuts) == len(cuts(direction, n)):
                    break
                relay.cuts.clear()
            relay.cuts.clear()
            return n, guest.resumed

    n, resumed = await in_thread(host, work, within=30)
    assert 200 < n < at[-1] and resumed >= at.index(n)
    had_each_effect_once(host, at.index(n) + 1)


GREETING = 120  # bytes, more than HELLO and the first call have


@pytest.mark.parametrize("direction", [0, 1], ids=["to the host", "to the guest"])
@pytest.mark.parametrize("blocking", [False, True], ids=["asyncio", "blocking"])
@pytest.mark.spec("R-10")
async def test_a_cut_at_every_byte_of_the_greeting(
    host: hostd.Host, relay: Relay, direction: int, blocking: bool
) -> None:
    def attach() -> None:
        with guestd.attach_blocking(relay.path, memory=4096) as guest:
            guest.nop()

    for n in range(GREETING if direction == 0 else 30):
        relay.cuts.append((direction, n))
        if blocking:
            await in_thread(host, attach)
        else:
            async with guestd.attach(relay.path, memory=4096) as guest:
                await guest.nop()
        relay.cuts.clear()
    await until(host, lambda: not host.guests.by_token)


@pytest.mark.parametrize("blocking", [False, True], ids=["asyncio", "blocking"])
async def test_a_host_that_is_gone_is_given_up(host: hostd.Host, relay: Relay, blocking: bool) -> None:
    """A second attempt fails at once: the session is over."""
    loop = asyncio.get_running_loop()

    def work() -> None:
        with guestd.attach_blocking(relay.path, patience=0.2) as guest:
            guest.nop()
            loop.call_soon_threadsafe(relay.close)
            with pytest.raises(LinkLost, match="no host at"):
                while True:
                    guest.nop()
            with pytest.raises(LinkLost):
                guest.nop()

    async with bystander(host):
        if blocking:
            await in_thread(host, work)
            return
        async with guestd.attach(relay.path, patience=0.2) as guest:
            rng = await guest.bind("/rng")
            relay.close()
            with pytest.raises(LinkLost, match="no host at"):
                while True:
                    await guest.nop()
            with pytest.raises(LinkLost):
                await rng.read(8)


@pytest.mark.parametrize("blocking", [False, True], ids=["asyncio", "blocking"])
@pytest.mark.spec("R-10")
async def test_another_life_of_the_host_knows_no_session(
    host: hostd.Host, relay: Relay, tmp_path: Path, blocking: bool
) -> None:
    loop = asyncio.get_running_loop()

    def cut(target: Path) -> None:
        relay.target = target
        relay.cuts.append((0, 0))

    def work() -> None:
        with guestd.attach_blocking(relay.path) as guest:
            loop.call_soon_threadsafe(cut, heir.socket)
            with pytest.raises(LinkLost, match="no longer knows"):
                while True:
                    guest.nop()

    async with served(tmp_path / "heir") as heir:
        if blocking:
            await in_thread(host, work)
        else:
            async with guestd.attach(relay.path) as guest:
                cut(heir.socket)
                with pytest.raises(LinkLost, match="no longer knows"):
                    await guest.nop()
        await until(heir, lambda: not heir.guests.by_token)


@pytest.mark.parametrize("blocking", [False, True], ids=["asyncio", "blocking"])
async def test_a_host_that_hangs_up_on_every_greeting_is_given_up(
    host: hostd.Host, relay: Relay, blocking: bool
) -> None:
    """More than a hundred attempts in a fifth of a second would be a guest that has no patience, and no pause."""
    relay.cuts.extend([(0, 0)] * 100)

    def work() -> None:
        with guestd.attach_blocking(relay.path, patience=0.2):
            pass

    with pytest.raises((LinkLost, OSError)):
        if blocking:
            await in_thread(host, work)
        else:
            async with guestd.attach(relay.path, patience=0.2):
                pass
    assert relay.cuts
