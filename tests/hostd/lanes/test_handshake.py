"""HELLO: what the host takes and what it refuses, with which word, and that a refusal leaves nothing behind."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from raw import ADDRESS, PAGE, attached, bystander, connected, hello, lent, memfd, served, settled, until

import hostd
from hcall import numbers
from hcall.clock import ManualClock
from hcall.errors import Status
from hcall.kernel.memfd import F_GET_SEALS, F_SEAL_GROW, F_SEAL_SEAL, SEALS
from hcall.messages import BUNDLES, END, FD_LANE, WELCOME
from hcall.wire import encode

F_SEAL_WRITE = 8  # linux/fcntl.h
ONE = ((ADDRESS, PAGE),)
NOP = encode((0, 0, 1, numbers.NOP, 0, (), ()))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def host(tmp_path: Path, clock: ManualClock) -> AsyncIterator[hostd.Host]:
    async with served(tmp_path, clock=clock, memory=1 << 20, guests=8, greetings=14) as host:
        yield host


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"\xc1", Status.BAD_ARGUMENT, id="no msgpack"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", Status.BAD_ARGUMENT, id="another protocol"),
        pytest.param(b"\xdc\xff\xff", Status.BAD_ARGUMENT, id="a huge array"),
        pytest.param(NOP, Status.BAD_ARGUMENT, id="a call"),
        pytest.param(encode(()), Status.BAD_ARGUMENT, id="an empty array"),
        pytest.param(hello(magic="hcalL"), Status.BAD_ARGUMENT, id="wrong magic"),
        pytest.param(hello(magic=b"hcall"), Status.BAD_ARGUMENT, id="magic in the bin family"),
        pytest.param(hello(lowest=2, highest=9), Status.NOT_ALLOWED, id="a later version"),
        pytest.param(hello(lowest=0, highest=0), Status.NOT_ALLOWED, id="an earlier version"),
        pytest.param(encode((4, "hcall", 2, 2, {"new": 1})), Status.NOT_ALLOWED, id="a later version's shape"),
        pytest.param(hello(lowest=True), Status.BAD_ARGUMENT, id="a bool for a version"),
        pytest.param(hello(highest="1"), Status.BAD_ARGUMENT, id="a text for a version"),
        pytest.param(hello(lowest=None, highest=None), Status.BAD_ARGUMENT, id="no versions"),
        pytest.param(hello(features=-1), Status.BAD_ARGUMENT, id="negative features"),
        pytest.param(hello(features=True), Status.BAD_ARGUMENT, id="a bool for features"),
        pytest.param(hello(features=None), Status.BAD_ARGUMENT, id="no features"),
        pytest.param(hello(name=b"raw"), Status.BAD_ARGUMENT, id="name in the bin family"),
        pytest.param(hello(token=bytes(15)), Status.BAD_ARGUMENT, id="a short token"),
        pytest.param(hello(token="x" * 16), Status.BAD_ARGUMENT, id="a token of text"),
        pytest.param(hello(regions=((1, 2, 3, 4),)), Status.BAD_ARGUMENT, id="a region of four"),
        pytest.param(hello(regions=((ADDRESS, True),)), Status.BAD_ARGUMENT, id="a bool for a size"),
        pytest.param(hello(regions=((1.0, PAGE),)), Status.BAD_ARGUMENT, id="an address with a point"),
        pytest.param(hello(regions=None), Status.BAD_ARGUMENT, id="no regions"),
        pytest.param(hello(more=0), Status.BAD_ARGUMENT, id="a field too many"),
        pytest.param(hello() + NOP, Status.BAD_ARGUMENT, id="a call after it"),
        pytest.param(hello() + NOP[:1], Status.BAD_ARGUMENT, id="a byte after it"),
        pytest.param(hello() + b"\xc1", Status.BAD_ARGUMENT, id="rubbish after it"),
        pytest.param(hello() + hello(), Status.BAD_ARGUMENT, id="twice"),
    ],
)
@pytest.mark.spec("H-1", "H-2", "H-3", "E-4", "K-1")
async def test_a_hello_that_is_none_is_refused_with_the_reason(host: hostd.Host, data: bytes, status: Status) -> None:
    async with bystander(host):
        with connected(host) as guest:
            guest.send(data)
            assert (await guest.ended())[0] == status
        assert len(host.guests.by_token) == 1 and not host.guests.greetings


def a_pipe(_: Path) -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def a_file(folder: Path) -> int:
    (folder / "file").write_bytes(bytes(PAGE))
    return os.open(folder / "file", os.O_RDWR | os.O_CLOEXEC)


def for_reading_only(_: Path) -> int:
    with lent(memfd(seals=0)) as (fd,):
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


@pytest.mark.parametrize(
    ("make", "regions", "status"),
    [
        pytest.param(a_pipe, ONE, Status.BAD_AREA, id="a pipe"),
        pytest.param(a_file, ONE, Status.BAD_AREA, id="a plain file"),
        pytest.param(for_reading_only, ONE, Status.BAD_AREA, id="for reading only"),
        pytest.param(lambda _: memfd(seals=SEALS | F_SEAL_WRITE), ONE, Status.BAD_AREA, id="sealed against writing"),
        pytest.param(lambda _: memfd(seals=F_SEAL_SEAL | F_SEAL_GROW), ONE, Status.BAD_AREA, id="it could shrink"),
        pytest.param(lambda _: memfd(2 * PAGE), ONE, Status.BAD_AREA, id="more than announced"),
        pytest.param(lambda _: memfd(PAGE), ((ADDRESS, 2 * PAGE),), Status.BAD_AREA, id="less than announced"),
        pytest.param(lambda _: memfd(0), ((ADDRESS, 0),), Status.BAD_AREA, id="empty"),
        pytest.param(lambda _: memfd(100), ((ADDRESS, 100),), Status.BAD_AREA, id="a part of a page"),
        pytest.param(lambda _: memfd(), ((ADDRESS + 1, PAGE),), Status.BAD_AREA, id="between two pages"),
        pytest.param(lambda _: memfd(), ((-PAGE, PAGE),), Status.BAD_AREA, id="below zero"),
        pytest.param(lambda _: memfd(), ((ADDRESS, -PAGE),), Status.BAD_AREA, id="a negative size"),
        pytest.param(lambda _: memfd(2 * PAGE), ((2**64 - PAGE, 2 * PAGE),), Status.BAD_AREA, id="across the end"),
        pytest.param(lambda _: memfd(2 << 20), ((ADDRESS, 2 << 20),), Status.BUSY, id="more than the limit"),
        pytest.param(lambda _: memfd(), ((ADDRESS, PAGE, PAGE),), Status.BAD_AREA, id="a part behind its end"),
        pytest.param(lambda _: memfd(2 * PAGE), ((ADDRESS, PAGE, 1),), Status.BAD_AREA, id="a part between pages"),
        pytest.param(lambda _: memfd(), ((ADDRESS, PAGE, -PAGE),), Status.BAD_AREA, id="a part before its start"),
    ],
)
@pytest.mark.spec("H-2", "M-2", "M-4")
async def test_memory_that_cannot_be_taken_is_refused(
    host: hostd.Host, tmp_path: Path, make: Callable[[Path], int], regions: tuple[tuple[int, ...], ...], status: Status
) -> None:
    async with bystander(host):
        with connected(host) as guest, lent(make(tmp_path)) as fds:
            guest.send(hello(regions=regions), fds)
            assert (await guest.ended())[0] == status
        assert len(host.guests.by_token) == 1


@pytest.mark.parametrize(
    ("pages", "status"),
    [([0, 1, 0], Status.BAD_AREA), ([0, 1, 1], Status.BAD_AREA), (range(17), Status.BUSY)],
    ids=["the same again", "two overlap", "seventeen"],
)
@pytest.mark.spec("M-3", "M-5")
async def test_regions_are_distinct_and_at_most_sixteen(host: hostd.Host, pages: list[int], status: Status) -> None:
    async with bystander(host):
        with connected(host) as guest, lent(*(memfd() for _ in pages)) as fds:
            guest.send(hello(regions=tuple((ADDRESS + n * PAGE, PAGE) for n in pages)), fds)
            assert (await guest.ended())[0] == status
        async with attached(host, regions=16):
            assert len(host.guests.by_token) == 2


@pytest.mark.spec("M-5")
@pytest.mark.parametrize("features", [0, FD_LANE])
@pytest.mark.parametrize("extra", [-1, 0, 1], ids=["one descriptor is missing", "", "one too many"])
@pytest.mark.parametrize("count", [17, 18, 64])
async def test_too_many_regions_are_the_same_mistake_whatever_comes_with_them(
    host: hostd.Host, count: int, extra: int, features: int
) -> None:
    data = hello(features=features, regions=tuple((ADDRESS + n * PAGE, PAGE) for n in range(count)))
    async with bystander(host):
        with connected(host) as guest, lent(*(memfd() for _ in range(count + features + extra))) as fds:
            guest.send(data, fds)
            status, text = await guest.ended()
            assert (status, text) == (Status.BUSY, "a guest has at most 16 memory regions")


@pytest.mark.parametrize("count", [0, 2, 17, 18, 40])
@pytest.mark.spec("M-1")
async def test_exactly_the_announced_descriptors_come(host: hostd.Host, count: int) -> None:
    async with bystander(host):
        with connected(host) as guest, lent(*(memfd() for _ in range(count))) as fds:
            guest.send(hello(regions=ONE), fds)
            assert (await guest.ended())[0] == Status.BAD_ARGUMENT


def descriptors() -> int:
    """How many are open."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_hello_that_never_ends_holds_no_more_descriptors_than_one_that_does(host: hostd.Host) -> None:
    async with bystander(host) as other:
        with connected(host) as guest, lent(*(memfd() for _ in range(13))) as fds:
            before = descriptors()
            for n in range(6):
                await until(host, lambda: not host.guests.porter.is_busy)
                assert descriptors() <= before + 2 + 17  # its connection, and the epoll that it waits in
                guest.send(hello()[n : n + 1], fds)
                await settled(other)
            assert (await guest.ended())[0] == Status.BAD_ARGUMENT  # 78 came, and no HELLO can have more than 65


@pytest.mark.parametrize("sort", [socket.SOCK_STREAM, socket.SOCK_DGRAM, None], ids=["stream", "datagram", "a memfd"])
@pytest.mark.spec("D-1")
async def test_the_fd_lane_is_a_seqpacket_socket(host: hostd.Host, sort: socket.SocketKind | None) -> None:
    ends = [end.detach() for end in socket.socketpair(socket.AF_UNIX, sort)] if sort else [memfd()]
    async with bystander(host):
        with connected(host) as guest, lent(*ends):
            guest.send(hello(features=FD_LANE), ends[:1])
            assert (await guest.ended())[0] == Status.BAD_ARGUMENT


@pytest.mark.parametrize("fds_at", [0, 20, -1], ids=["first", "in the middle", "last"])
@pytest.mark.spec("E-1", "M-1")
async def test_a_hello_may_come_byte_by_byte(host: hostd.Host, fds_at: int) -> None:
    async with bystander(host) as other:
        with connected(host) as guest, lent(memfd()) as fds:
            data = hello(regions=ONE)
            for n in range(len(data)):
                guest.send(data[n : n + 1], fds if n == fds_at % len(data) else ())
                await settled(other)
            assert await guest.receive() == (WELCOME, 1, 0, host.epoch, 64, False)
            assert await guest.core(numbers.DETACH) is None
        await until(host, lambda: len(host.guests.by_token) == 1)


@pytest.mark.parametrize("begun", [b"", hello()[:-1]], ids=["nothing", "all but a byte"])
@pytest.mark.spec("T-1")
async def test_a_hello_has_five_seconds(host: hostd.Host, clock: ManualClock, begun: bytes) -> None:
    async with bystander(host) as other:
        with connected(host) as guest, lent(memfd()) as fds:
            if begun:
                guest.send(begun, fds)
            await settled(other)
            await until(host, lambda: not host.guests.porter.is_busy)
            clock.turn(5)
            await settled(other)
            assert len(host.guests.greetings) == 1
            clock.turn(1.1)
            assert (await guest.ended())[0] == Status.BAD_ARGUMENT
        assert not host.guests.greetings


async def test_hanging_up_in_the_middle_of_hello_leaves_nothing(host: hostd.Host) -> None:
    async with bystander(host) as other:
        with connected(host) as guest, lent(memfd()) as fds:
            guest.send(hello(regions=ONE)[:-1], fds)
            await settled(other)
            assert len(host.guests.greetings) == 1
        await until(host, lambda: not host.guests.greetings)
        assert len(host.guests.by_token) == 1


@pytest.mark.spec("M-4")
async def test_the_host_adds_the_seals_that_are_missing(host: hostd.Host) -> None:
    with connected(host) as guest, lent(memfd(seals=0)) as fds:
        await guest.greet(hello(regions=ONE), fds)
        assert fcntl.fcntl(fds[0], F_GET_SEALS) == SEALS
        with pytest.raises(PermissionError):
            os.ftruncate(fds[0], 0)
        await guest.core(numbers.DETACH)
    await until(host, lambda: not host.guests.by_token)


@pytest.mark.spec("D-2", "D-4")
async def test_descriptors_on_the_main_socket_are_not_taken_and_do_no_harm(host: hostd.Host) -> None:
    async with bystander(host), attached(host) as guest:
        with lent(memfd(), memfd()) as fds:
            try:
                guest.send(guest.next_call(numbers.NOP), fds)
                assert await guest.reply() == (0, None)
            except PermissionError:  # from Linux 6.16 on
                guest.seq -= 1
        assert await guest.call(numbers.ADD_MEMORY, 0, ADDRESS, PAGE, 1) == (
            Status.BAD_ARGUMENT, "no descriptor with the id 1 came over the fd lane",
        )  # fmt: skip


@pytest.mark.spec("H-5", "F-4")
async def test_the_version_and_the_features_are_what_both_know(host: hostd.Host) -> None:
    ends = [end.detach() for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)]
    with connected(host) as guest, lent(*ends) as fds:
        data = hello(lowest=0, highest=7, features=2**64 - 1)
        assert await guest.greet(data, fds[:1]) == (WELCOME, 1, FD_LANE | BUNDLES, host.epoch, 64, False)
        await guest.core(numbers.DETACH)
    await until(host, lambda: not host.guests.by_token)


@pytest.mark.spec("H-2")
async def test_a_guest_too_many_is_told_that_the_host_is_busy(host: hostd.Host) -> None:
    async with bystander(host), attached(host), attached(host):
        async with attached(host):
            with connected(host) as late:
                late.send(hello())
                assert (await late.ended())[0] == Status.BUSY
        async with attached(host):
            assert len(host.guests.by_token) == 4


@pytest.mark.spec("T-8")
async def test_connections_that_say_nothing_do_not_use_up_the_descriptors(host: hostd.Host) -> None:
    async with bystander(host) as other:
        silent = [socket.socket(socket.AF_UNIX) for _ in range(7)]
        for sock in silent:
            sock.connect(str(host.socket))
        with connected(host) as late:
            assert (await late.ended())[0] == Status.BUSY
        assert len(host.guests.greetings) == 7
        for sock in silent:
            sock.close()
        await settled(other)
        async with attached(host):
            assert len(host.guests.by_token) == 2


async def test_a_host_that_shuts_down_says_so_to_who_has_just_connected(tmp_path: Path) -> None:
    async with served(tmp_path) as host:
        guest = connected(host)
        raw = guest.__enter__()
        async with bystander(host) as other:
            await settled(other)
    assert [message[:2] for message in await raw.rest()] == [(END, Status.RESET)]
    guest.__exit__(None, None, None)
    await asyncio.sleep(0)
