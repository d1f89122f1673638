"""Sockets behind a stream, by themselves: one peer at a time, nothing lost in either direction, nothing left over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from port_end import SECONDS, End

import hostd
from hostd import Machine, MachineError
from hostd.backing import Backing
from protocol.endpoint import host_and_port

KEPT = 65536  # bytes that a backing keeps for a peer, as docs/endpoints.md says


def has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


NO_IPV6 = pytest.mark.skipif(not has_ipv6(), reason="there is no IPv6 here")
LISTENING = ["unix:line.sock", "tcp:127.0.0.1:0", pytest.param("tcp:[::1]:0", marks=NO_IPV6)]


def pattern(count: int) -> bytes:
    return bytes((n * 7 + (n >> 8)) & 255 for n in range(count))


def connect(endpoint: str) -> socket.socket:
    """A peer at *endpoint*, which is what the device's property says."""
    scheme, _, rest = endpoint.partition(":")
    peer = socket.socket({"unix": socket.AF_UNIX}.get(scheme, socket.AF_INET6 if "[" in rest else socket.AF_INET))
    peer.connect(rest if scheme == "unix" else host_and_port(rest))  # the kernel does it: without a turn of the loop
    peer.setblocking(False)
    return peer


async def receive(peer: socket.socket, count: int) -> bytes:
    """That many bytes, or fewer and then the end."""
    data = b""
    async with asyncio.timeout(SECONDS):
        while len(data) < count:
            more = await asyncio.get_running_loop().sock_recv(peer, count - len(data))
            if not more:
                break
            data += more
    return data


async def leave(peer: socket.socket) -> None:
    """Go, and be seen to have gone."""
    peer.shutdown(socket.SHUT_WR)
    assert await receive(peer, 1) == b""


async def until(end: End, count: int) -> bytes:
    """What the device got, when it is so much."""
    while len(end.data) < count:
        await end.news()
    return end.data


async def write_all(backing: Backing, end: End, data: bytes) -> None:
    """As a stream does: again when the backing says so."""
    while data:
        taken = backing.write(data)
        data = data[taken:]
        if not taken:
            rooms = end.rooms
            while end.rooms == rooms:
                await end.news()


@contextlib.asynccontextmanager
async def started(text: str, folder: Path, space: int = 1 << 24) -> AsyncIterator[tuple[Backing, End]]:
    backing, end = Backing.parse(text, folder), End(space)
    backing.start(end)
    try:
        yield backing, end
    finally:
        backing.stop()


def machine(folder: Path, backing: str) -> Machine:
    return Machine.from_tables({"devices": {"port": {"model": "tty", "backing": backing}}}, folder)


@pytest.mark.parametrize("text", LISTENING)
async def test_all_bytes_go_both_ways_at_once_in_their_order(tmp_path: Path, text: str) -> None:
    data = pattern(1_000_000)
    async with started(text, tmp_path) as (backing, end):
        with connect(backing.endpoint) as peer:
            _, received, _ = await asyncio.gather(
                write_all(backing, end, data),
                receive(peer, len(data)),
                asyncio.get_running_loop().sock_sendall(peer, data[::-1]),
            )
            assert received == data
            assert await until(end, len(data)) == data[::-1]
            assert not end.gone


@pytest.mark.parametrize("text", LISTENING)
async def test_what_is_written_before_anybody_is_there_is_kept_up_to_a_bound(tmp_path: Path, text: str) -> None:
    data = pattern(KEPT + 1000)
    async with started(text, tmp_path) as (backing, end):
        assert backing.write(data[:100]) == 100
        assert backing.write(data[100:]) == KEPT - 100
        assert backing.write(b"x") == 0 and end.rooms == 0
        with connect(backing.endpoint) as peer:
            while not end.rooms:
                await end.news()
            assert backing.write(data[KEPT:]) == 1000
            assert await receive(peer, len(data)) == data


@pytest.mark.parametrize("text", LISTENING)
async def test_one_peer_after_the_other_and_what_is_written_in_between_is_for_the_next(
    tmp_path: Path, text: str
) -> None:
    async with started(text, tmp_path) as (backing, end):
        for turn in range(3):
            with connect(backing.endpoint) as peer:
                assert turn == 0 or await receive(peer, 4) == b"next"
                await asyncio.get_running_loop().sock_sendall(peer, b"hello ")
                await until(end, 6 * (turn + 1))
                await leave(peer)
            assert backing.write(b"next") == 4
        assert end.data == b"hello " * 3 and not end.gone


@pytest.mark.parametrize("text", LISTENING)
async def test_a_peer_that_comes_the_moment_the_last_one_goes_is_not_refused(tmp_path: Path, text: str) -> None:
    async with started(text, tmp_path) as (backing, end):
        peer = connect(backing.endpoint)
        for turn in range(20):
            await asyncio.get_running_loop().sock_sendall(peer, b"hello")
            await until(end, 5 * (turn + 1))
            following = connect(backing.endpoint)  # seen in the same turn of the loop as that the other has gone
            peer.close()
            peer = following
        peer.close()


@pytest.mark.parametrize("text", LISTENING)
async def test_a_second_peer_is_hung_up_on_at_once_and_the_first_hears_nothing_of_it(tmp_path: Path, text: str) -> None:
    async with started(text, tmp_path) as (backing, end):
        backing.write(b"for the first")
        with connect(backing.endpoint) as first, connect(backing.endpoint) as second:
            assert await receive(second, 1) == b""
            assert await receive(first, 13) == b"for the first"
            await asyncio.get_running_loop().sock_sendall(first, b"still here")
            assert await until(end, 10) == b"still here"


@pytest.mark.parametrize("text", ["unix:line.sock", "tcp:127.0.0.1:0"])
async def test_what_a_peer_said_before_it_vanished_is_read_though_nothing_can_be_sent_to_it(
    tmp_path: Path, text: str
) -> None:
    data = pattern(50_000)
    async with started(text, tmp_path, space=0) as (backing, end):
        with connect(backing.endpoint) as peer:
            await asyncio.get_running_loop().sock_sendall(peer, data)
        for _ in range(3):  # over TCP, that there is nobody is found out by sending
            assert backing.write(b"lost?") == 5
            await asyncio.sleep(0)
        for space in (10, 20_000, 1 << 20):
            end.space = space
            backing.resume()
            await until(end, min(len(end.data) + space, len(data)))
        assert end.data == data
        with connect(backing.endpoint) as second:
            assert (await receive(second, 5)) == b"lost?"


@pytest.mark.parametrize("text", LISTENING)
async def test_no_more_is_read_than_there_is_space_for_and_the_peer_has_to_wait(tmp_path: Path, text: str) -> None:
    data = pattern(2 << 20)  # more than all buffers of the kernel
    async with started(text, tmp_path, space=10) as (backing, end):
        with connect(backing.endpoint) as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # else it grows
            sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(peer, data))
            assert await until(end, 10) == data[:10]
            for _ in range(20):  # turns of the loop in which it could go on
                await asyncio.sleep(0)
            assert len(end.data) == 10 and not sending.done()
            while not sending.done() or len(end.data) < len(data):
                end.space = 1 << 20
                backing.resume()
                await end.news()
            assert end.data == data


@pytest.mark.parametrize("text", LISTENING)
async def test_a_reset_drops_what_was_typed_and_keeps_what_was_written_and_the_peer(tmp_path: Path, text: str) -> None:
    async with started(text, tmp_path, space=6) as (backing, end):
        with connect(backing.endpoint) as peer:
            await asyncio.get_running_loop().sock_sendall(peer, b"secretsecret")
            await until(end, 6)
            backing.write(b"out")
            backing.reset()
            await asyncio.get_running_loop().sock_sendall(peer, b"new")
            end.space = 100
            backing.resume()
            assert await until(end, 9) == b"secretnew"
            assert await receive(peer, 3) == b"out"


async def test_a_host_without_free_descriptors_says_so_once_and_accepts_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with started("unix:line.sock", tmp_path) as (backing, end):
        with connect(backing.endpoint) as peer:
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            try:
                for _ in range(5):  # turns of the loop in which it fails
                    await asyncio.sleep(0)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert [record.message for record in caplog.records] == [
                f"{backing.endpoint}: [Errno 24] Too many open files"
            ]
            backing.tick()
            await asyncio.get_running_loop().sock_sendall(peer, b"hello")
            assert await until(end, 5) == b"hello"


# Paths and ports.


async def test_the_socket_is_its_users_alone_and_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "line.sock"
    async with started("unix:line.sock", tmp_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_socket_that_a_killed_host_left_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "line.sock"))
    async with started("unix:line.sock", tmp_path) as (backing, end):
        with connect(backing.endpoint) as peer:
            await asyncio.get_running_loop().sock_sendall(peer, b"hello")
            assert await until(end, 5) == b"hello"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
async def test_a_socket_that_is_somebodys_is_not_touched(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "line.sock"
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        other.setblocking(False)
        if kind != socket.SOCK_DGRAM:
            other.listen(8)
        with pytest.raises(OSError, match=r"Address already in use.*line\.sock"):
            Backing.parse("unix:line.sock", tmp_path).start(End())
        with pytest.raises(BlockingIOError):  # nobody looked in to see
            other.accept() if kind != socket.SOCK_DGRAM else other.recv(1)
    assert path.is_socket()


async def test_a_file_in_its_place_stays(tmp_path: Path) -> None:
    (tmp_path / "line.sock").write_text("precious")
    with pytest.raises(OSError, match="Address already in use"):
        Backing.parse("unix:line.sock", tmp_path).start(End())
    assert (tmp_path / "line.sock").read_text() == "precious"


async def test_a_socket_that_is_anothers_by_now_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "line.sock"
    async with started("unix:line.sock", tmp_path):
        path.rename(tmp_path / "kept")  # so that its inode is not used again
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.is_socket()


@pytest.mark.parametrize("scheme", ["unix:", "connect:unix:"])
def test_a_path_that_no_socket_can_have_is_refused_with_its_length(scheme: str) -> None:
    Backing.parse(f"{scheme}{'x' * 99}", Path("/folder"))  # 107 bytes
    for name in ("x" * 100, "\u00e9" * 50):
        with pytest.raises(ValueError, match="has 108 bytes: the path of a Unix socket has 107 at most"):
            Backing.parse(f"{scheme}{name}", Path("/folder"))


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ("9100", "no HOST:PORT"),
        (":9100", "no HOST:PORT"),
        ("localhost:http", "no HOST:PORT"),
        ("127.0.0.1:65536", "no HOST:PORT"),
        ("example.org:80", "'example.org' is no address of this host, such as 127.0.0.1"),
        ("127.1:80", "'127.1' is no address of this host"),
    ],
)
def test_an_address_that_nobody_can_listen_at_is_refused(rest: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Backing.parse(f"tcp:{rest}", Path())


@pytest.mark.parametrize("text", ["unix:gone/line.sock", "unix:/proc/line.sock", "tcp:192.0.2.1:0", "tcp:TAKEN"])
async def test_what_cannot_be_listened_at_is_one_line_and_leaves_nothing(tmp_path: Path, text: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        text = text.replace("TAKEN", f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(MachineError) as error:
            async with hostd.serve(machine(tmp_path, text), tmp_path / "run"):
                pytest.fail("it was served")
    message = str(error.value)
    assert message.startswith("machine: devices.port: ") and "\n" not in message
    assert text.removeprefix("unix:") in message


async def test_the_endpoint_of_a_port_that_may_be_any_is_the_real_one(tmp_path: Path) -> None:
    async with started("tcp:localhost:0", tmp_path) as (backing, _):
        assert backing.endpoint.startswith("tcp:127.0.0.1:") and not backing.endpoint.endswith(":0")
        connect(backing.endpoint).close()


# Those that connect.


async def said_once(backing: Backing, caplog: pytest.LogCaptureFixture) -> None:
    """Until it is said that nobody is there; again and again it is not."""
    async with asyncio.timeout(SECONDS):
        while not caplog.records:  # noqa: ASYNC110  # nothing else tells
            await asyncio.sleep(0)
        for _ in range(100):
            backing.tick()
            await asyncio.sleep(0)
    (record,) = caplog.records
    assert record.message.startswith(f"{backing.endpoint}: ") and record.message.endswith("; trying again")


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
async def test_one_that_connects_does_so_when_somebody_listens_and_again_when_the_peer_went(
    tmp_path: Path, scheme: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def restart() -> socket.socket:
        if scheme == "unix":
            (tmp_path / "there").unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(tmp_path / "there"))
            listener.listen(8)
        else:
            listener = socket.create_server(("127.0.0.1", port))
        listener.setblocking(False)
        return listener

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    text = "connect:unix:there" if scheme == "unix" else f"connect:tcp:localhost:{port}"
    async with started(text, tmp_path) as (backing, end):
        assert backing.endpoint == (f"unix:{tmp_path}/there" if scheme == "unix" else f"tcp:localhost:{port}")
        await said_once(backing, caplog)
        expected = b""
        for word in (b"one", b"two"):
            assert backing.write(word) == 3  # nobody is there
            with await restart() as listener:
                async with asyncio.timeout(SECONDS):
                    accepting = asyncio.ensure_future(asyncio.get_running_loop().sock_accept(listener))
                    while not accepting.done():
                        backing.tick()
                        await asyncio.sleep(0)
                    peer, _ = await accepting
                with peer:
                    assert await receive(peer, 3) == word
                    await asyncio.get_running_loop().sock_sendall(peer, word)
                    expected += word
                    assert await until(end, len(expected)) == expected
                    await leave(peer)
        assert not end.gone


async def test_a_name_that_is_none_is_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with started(f"connect:tcp:{'x' * 64}:1", tmp_path) as (backing, _):
        await said_once(backing, caplog)


@pytest.mark.parametrize("text", ["connect:unix:nobody", "connect:tcp:localhost:1", "connect:tcp:127.0.0.1:FULL"])
async def test_one_that_is_stopped_while_it_connects_leaves_nothing(tmp_path: Path, text: str) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.create_connection(full.getsockname()):
        for turns in range(4):
            async with started(text.replace("FULL", str(full.getsockname()[1])), tmp_path):
                for _ in range(turns):
                    await asyncio.sleep(0)
