"""Both clients: ends of a session, or of a device, that nobody misses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from desk import CLIENTS, DRIVERS, attach, blocking, bound, desk, desks
from raw import attached, bystander, in_thread, run_on, served, settled

import guestd
import hostd
from guestd.clients.guest import Guest
from hcall.errors import BadArgument, HcallError, LinkLost, Reset, Status
from hcall.messages import REPLY, VERSION, WELCOME, Hello, Welcome, end
from hcall.wire import encode


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[hostd.Host]:
    async with desks(tmp_path) as host:
        yield host


@CLIENTS
@pytest.mark.spec("C-17", "X-6")
async def test_detaching_gives_the_devices_back_at_once(host: hostd.Host, client: str) -> None:
    for _ in range(3):
        await run_on(client, host, bound, drivers=DRIVERS)
        assert not host.tree.find("/desk").opens


@pytest.mark.spec("X-2")
async def test_calls_under_way_and_calls_after_the_end_fail_and_nobody_waits_for_ever(host: hostd.Host) -> None:
    async with bystander(host), attached(host) as other, attach(host) as guest:
        driver = await guest.bind("desk")
        waiting = [asyncio.ensure_future(each) for each in (driver.late(), driver.bell.wait())]
        await settled(other)
        await guest.detach()
        late, bell = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(late, Reset) and isinstance(bell, LinkLost)
        attempts: list[Callable[[], Any]] = [
            guest.nop, driver.ring, driver.bell.wait, guest["other"].ring, lambda: guest.bind("other"), guest.walk,
            lambda: driver.read(1), guest.happened,
        ]  # fmt: skip
        for attempt in attempts:
            with pytest.raises(LinkLost, match="detached"):
                await attempt()
        await guest.detach()  # again: no harm
        desk(host).waiting[0].done(1)


async def test_the_blocking_client_fails_the_same_way_after_its_end(host: hostd.Host) -> None:
    def work() -> None:
        with blocking(host) as guest:
            driver = guest["desk"]
            late = guest.bind("desk").late()
            other = guest["other"]
            guest.detach()
            with pytest.raises(Reset):
                guest.run(late)
            for attempt in (guest.nop, driver.ring, other.ring, lambda: guest.run(guest.walk())):
                with pytest.raises(LinkLost, match="detached"):
                    attempt()
            with pytest.raises(LinkLost, match="detached"):
                driver.bell.wait()
            guest.detach()

    await in_thread(host, work)


@CLIENTS
@pytest.mark.spec("X-2")
async def test_the_host_ends_a_session_and_says_why(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        loop.call_soon_threadsafe(end)
        with pytest.raises(LinkLost, match="no longer welcome"):
            while True:
                await driver.same(1)
        with pytest.raises(LinkLost, match="no longer welcome"):
            await driver.same(1)

    def end() -> None:
        (doomed,) = (each for each in host.guests.by_token.values() if each.name == "doomed")
        host.guests.end(doomed, BadArgument.status, "no longer welcome")

    loop = asyncio.get_running_loop()
    async with bystander(host):
        await run_on(client, host, scenario, drivers=DRIVERS, name="doomed")
        assert not host.tree.find("/desk").opens


class Played:
    """A host that the test plays: it greets one guest, answers its first call, and hangs up when it is told to."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "played.sock"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._sock: socket.socket | None = None

    def greet(self) -> None:
        """Serve one guest until it is attached."""
        self._sock = sock = self._accept()
        sock.recv(65536)
        sock.send(encode(Welcome(WELCOME, VERSION, 0, 1, 64, False)))
        sock.recv(65536)
        sock.send(encode((REPLY, 0, 1, 0, (1, ()))))

    def end(self, text: str) -> None:
        """Say END and be gone, to the guest of `greet`, or to the next, which has not even said HELLO."""
        with self._sock or self._accept() as sock, self._listener:
            sock.send(encode(end(Status.RESET, text)))

    def _accept(self) -> socket.socket:
        return self._listener.accept()[0]

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Played]:
    played = Played(tmp_path)
    yield played
    played.close()


@pytest.mark.spec("X-4")
async def test_a_guest_that_writes_when_the_host_has_hung_up_still_learns_why(played: Played) -> None:
    """Its write fails, with the last word unread."""
    greeting = asyncio.create_task(asyncio.to_thread(played.greet))
    async with guestd.attach(played.path, drivers=DRIVERS) as guest:
        await greeting
        played.end("no longer welcome")
        with pytest.raises(LinkLost, match="no longer welcome"):
            await guest.nop()


@pytest.mark.spec("X-4")
def test_so_does_the_blocking_client(played: Played) -> None:
    with ThreadPoolExecutor(1) as thread:
        greeting = thread.submit(played.greet)
        with guestd.attach_blocking(played.path, drivers=DRIVERS) as guest:
            greeting.result()
            played.end("no longer welcome")
            with pytest.raises(LinkLost, match="no longer welcome"):
                guest.nop()


async def test_a_guest_that_is_refused_before_it_has_said_hello_learns_why(played: Played) -> None:
    class Slow(guestd.AsyncGuest):
        def _hello(self) -> tuple[Hello, list[int]]:
            played.end("too many connections")
            return super()._hello()

    guest = Slow(played.path, drivers=DRIVERS)
    with pytest.raises(LinkLost, match="too many connections"):
        await guest.attach()
    await guest.detach()


def test_the_blocking_client_learns_it_as_well(played: Played) -> None:
    class Slow(guestd.BlockingGuest):
        def _hello(self) -> tuple[Hello, list[int]]:
            played.end("too many connections")
            return super()._hello()

    guest = Slow(played.path, drivers=DRIVERS)
    with pytest.raises(LinkLost, match="too many connections"):
        guest.attach()
    guest.detach()


@CLIENTS
async def test_who_waits_for_an_interrupt_learns_that_the_device_is_gone(host: hostd.Host, client: str) -> None:
    async def scenario(guest: Guest[Any]) -> None:
        driver = await bound(guest)
        loop.call_soon_threadsafe(unplug)
        with pytest.raises(HcallError):
            await driver.bell.wait()

    def unplug() -> None:
        tasks.append(loop.create_task(host.unplug("/desk", surprise=True)))

    tasks: list[asyncio.Task[bool]] = []
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(run_on(client, host, scenario, drivers=DRIVERS))
    done, _ = await asyncio.wait([running], timeout=2)
    for each in list(host.guests.by_token.values()):
        host.guests.end(each, Reset.status, "nobody told it")
    await asyncio.gather(running, *tasks, return_exceptions=True)
    assert done and running.result() is None


@CLIENTS
async def test_without_a_host_there_is_an_os_error_and_a_refusal_is_told(tmp_path: Path, client: str) -> None:
    async def nothing(guest: Guest[Any]) -> None:
        raise AssertionError("there is nothing to attach to")

    async with served(tmp_path, guests=1) as host, attached(host):
        with pytest.raises(LinkLost, match="at most 1 guests"):
            await run_on(client, host, nothing)
    with pytest.raises(OSError):
        await run_on(client, host, nothing)
