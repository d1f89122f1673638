"""Descriptors and memory of guests: closing them may never end, and nobody waits for it but their user."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from raw import ADDRESS, PAGE, PATIENCE, attached, bystander, connected, hello, lent, memfd, served, until

import hostd
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import Status
from hcall.messages import FD_LANE
from hostd.lanes.socket.porter import Porter, close

PASSPIDFD = 76  # asm-generic/socket.h, Linux 6.5


class Lingering:
    """TCP sockets; whoever closes one last waits for a peer that does not read: for a minute, or until it has ended."""

    def __init__(self) -> None:
        self._keep = contextlib.ExitStack()
        self._made: list[socket.socket] = []

    def make(self) -> int:
        """Another one, which is to be sent; `sent` closes what the test itself has of it."""
        listener = self._keep.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        sock = socket.create_connection(listener.getsockname())
        self._keep.enter_context(listener.accept()[0])
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send(bytes(65536))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
        self._made.append(sock)
        return sock.fileno()

    def sent(self) -> None:
        for sock in self._made:
            sock.close()
        self._made.clear()

    def end(self) -> None:
        """The peers go: nobody waits any more."""
        self._keep.close()


@pytest.fixture
def lingering() -> Iterator[Lingering]:
    lingering = Lingering()
    yield lingering
    lingering.end()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def host(tmp_path: Path, clock: ManualClock) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, clock=clock) as host:
        yield host


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def pages(count: int) -> tuple[tuple[int, int], ...]:
    return tuple((ADDRESS + n * PAGE, PAGE) for n in range(count))


@pytest.mark.spec("H-2", "H-9")
async def test_a_user_whose_descriptors_do_not_close_is_told_to_wait_and_nobody_else(
    host: hostd.Host, clock: ManualClock, lingering: Lingering
) -> None:
    before = descriptors()
    async with bystander(host):
        with connected(host) as guest:
            guest.send(hello(regions=pages(4)), [lingering.make() for _ in range(4)])
            lingering.sent()
            assert (await guest.ended())[0] == Status.BAD_AREA
        clock.turn(1.1)
        with connected(host) as guest, lent(memfd()) as fds:
            guest.send(hello(regions=pages(1)), fds)
            status, text = await guest.ended()
            assert status == Status.BUSY and f"user {os.getuid()}" in text
        with connected(host) as guest:  # which brings none
            await guest.greet(hello())
            await guest.core(numbers.DETACH)
        held = descriptors()
        for _ in range(9):
            with connected(host) as guest:
                guest.send(hello(regions=pages(1)), [lingering.make()])
                lingering.sent()
                assert (await guest.ended())[0] == Status.BUSY
        async with asyncio.timeout(10 * PATIENCE):  # nine processes, each of which has to start
            while descriptors() > held + 2 * 9:  # noqa: ASYNC110  # the other ends, and who listens, are the test's own
                await asyncio.sleep(0)  # nobody tells when a process has closed them
        lingering.end()
        await until(host, lambda: not host.guests.porter.is_busy)
        async with attached(host, regions=1):
            pass
    await until(host, lambda: not host.guests.porter.is_busy)
    assert descriptors() == before


@pytest.mark.parametrize("flags", [0, socket.MSG_OOB], ids=["", "urgent"])
@pytest.mark.parametrize("ends", [False, True], ids=["goes on", "hangs up"])
async def test_what_comes_with_half_a_hello_is_closed_by_others(
    host: hostd.Host, lingering: Lingering, flags: int, ends: bool
) -> None:
    async with bystander(host):
        with connected(host) as guest:
            fd = lingering.make()
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))]
            guest.sock.sendmsg([hello()[:1]], rights, flags)
            lingering.sent()
            if not ends:
                guest.send(hello()[1:])
                assert await guest.ended() == (Status.BAD_ARGUMENT, "HELLO announces 0 descriptors, 1 came")
        await until(host, lambda: not host.guests.greetings)
    lingering.end()


async def test_what_nobody_takes_off_a_lane_is_closed_by_others(host: hostd.Host, lingering: Lingering) -> None:
    async with bystander(host):
        async with attached(host) as guest:
            for n in range(3):
                socket.send_fds(guest.lane, [n.to_bytes(4, "little")], [lingering.make()])
            lingering.sent()
        assert len(host.guests.by_token) == 1
    lingering.end()


@pytest.mark.spec("D-3")
async def test_what_a_call_passes_over_on_a_lane_is_closed_by_others(host: hostd.Host, lingering: Lingering) -> None:
    async with bystander(host), attached(host) as guest:
        with lent(memfd()) as fds:
            socket.send_fds(guest.lane, [(1).to_bytes(4, "little")], [lingering.make()])
            socket.send_fds(guest.lane, [(2).to_bytes(4, "little")], fds)
            lingering.sent()
            assert await guest.call(numbers.ADD_MEMORY, 0, ADDRESS, PAGE, 2) == (0, None)
            socket.send_fds(guest.lane, [(3).to_bytes(4, "little")], [lingering.make()])
            lingering.sent()
            assert (await guest.call(numbers.ADD_MEMORY, 0, 0, PAGE, 3))[0] == Status.BAD_AREA
    lingering.end()


@pytest.mark.spec("C-15")
async def test_a_call_behind_one_that_lends_memory_has_it(host: hostd.Host) -> None:
    async with attached(host) as guest:
        handle, calls = await guest.open("/rng")
        with lent(memfd()) as fds:
            socket.send_fds(guest.lane, [(1).to_bytes(4, "little")], fds)
            read = calls["read"], handle, (0,), ((ADDRESS, PAGE, 1),)
            guest.send(guest.next_call(numbers.ADD_MEMORY, 0, (ADDRESS, PAGE, 1)) + guest.next_call(*read, slot=1))
            assert [await guest.reply(), await guest.reply()] == [(0, None), (0, PAGE)]


async def test_a_lane_that_gives_more_than_descriptors_leaves_none(host: hostd.Host) -> None:
    before = descriptors()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.suppress(OSError):  # an older kernel
        theirs.setsockopt(socket.SOL_SOCKET, PASSPIDFD, 1)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with ours, theirs, connected(host) as guest:
        await guest.greet(hello(features=FD_LANE), [theirs.fileno()])
        with lent(memfd()) as fds:
            for n in range(9):
                socket.send_fds(ours, [n.to_bytes(4, "little")], fds)
        status, _ = await guest.call(numbers.ADD_MEMORY, 0, ADDRESS, PAGE, 99)
        assert status == Status.BAD_ARGUMENT
        await guest.core(numbers.DETACH)
    await until(host, lambda: not host.guests.by_token and not host.guests.porter.is_busy)
    assert descriptors() == before


def test_a_close_that_fails_leaves_no_other_open() -> None:
    gone, there = memfd(), memfd()
    os.close(gone)
    close([gone, there])
    with pytest.raises(OSError):
        os.fstat(there)


@pytest.mark.spec("H-1")
async def test_descriptors_behind_hello_are_not_taken(host: hostd.Host) -> None:
    before = descriptors()
    async with bystander(host):
        with connected(host) as guest, lent(memfd()) as fds:
            data = hello(regions=pages(1))
            guest.send(data, fds)
            with contextlib.suppress(OSError):  # the host may have been faster
                guest.send(b"\x91", fds)
            messages = await guest.rest()
            assert messages[-1][:2] == (6, Status.BAD_ARGUMENT)
    await until(host, lambda: not host.guests.porter.is_busy)
    assert descriptors() == before


async def test_a_thread_is_there_for_each_that_hangs_and_no_more(clock: ManualClock, lingering: Lingering) -> None:
    changed = asyncio.Event()
    porter = Porter(clock, clock.time, changed)
    fds = [os.dup(lingering.make()) for _ in range(5)]
    lingering.sent()
    porter.discard(1, fds)
    told = asyncio.get_running_loop().create_future()
    porter.carry(2, lambda: "another user", told.set_result)
    assert await asyncio.wait_for(told, PATIENCE) == "another user"
    closing = asyncio.create_task(porter.end(2))
    for _ in range(3):
        await asyncio.sleep(0)
    clock.turn(2.1)
    await closing  # which does not wait for those
    assert porter.is_busy
    lingering.end()
    await porter.end(2)
    assert not porter.is_busy


async def test_a_daemon_ends_though_a_descriptor_does_not_close(tmp_path: Path, lingering: Lingering) -> None:
    (tmp_path / "machine.toml").write_text('[machine]\nname = "x"\n')
    words = ["serve", str(tmp_path / "machine.toml"), "--runtime-dir", str(tmp_path / "run")]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hostd", *words, stderr=asyncio.subprocess.PIPE
    )  # fmt: skip
    assert process.stderr is not None and b"serving" in await process.stderr.readline()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(tmp_path / "run/guest.sock"))
        socket.send_fds(sock, [hello(regions=pages(1))], [lingering.make()])
        lingering.sent()
        assert sock.recv(1000)  # it has been refused
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
