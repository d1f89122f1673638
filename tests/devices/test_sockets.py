"""Sockets behind a stream, by themselves: one peer at a time, nothing lost in either direction, nothing left over."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import stat
from pathlib import Path

import pytest
from port_end import End, leave, receive, started, until, write_all

import hostd
from hcall.programs.endpoint import host_and_port
from hostd import Machine, MachineError
from hostd.backings.named import AnyBacking as Backing

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
async def test_the_next_peers_wait_until_the_one_before_has_gone_and_the_device_is_told(
    tmp_path: Path, text: str
) -> None:
    async with started(text, tmp_path) as (backing, end):
        with (
            connect(backing.endpoint) as first,
            connect(backing.endpoint) as second,
            connect(backing.endpoint) as third,
        ):
            for peer, words in ((first, b"one "), (second, b"two "), (third, b"three")):
                await asyncio.get_running_loop().sock_sendall(peer, words)
            backing.write(b"for the first")
            assert await receive(first, 13) == b"for the first"
            for _ in range(5):  # turns of the loop in which another could come in
                backing.tick()
                await asyncio.sleep(0)
            assert end.data == b"one " and end.parts == 0
            await leave(first)
            assert await until(end, 8) == b"one two " and end.parts == 1
            backing.write(b"for the second")
            assert await receive(second, 14) == b"for the second"
            second.close()
            assert await until(end, 13) == b"one two three" and end.parts == 2


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


async def test_nobody_gets_in_before_it_is_its_users_alone_and_other_files_are_made_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"

    class Watched(socket.socket):
        def bind(self, address: str) -> None:
            super().bind(address)
            other.touch()  # as a worker thread of a shared folder may
            with socket.socket(socket.AF_UNIX) as peer, pytest.raises(ConnectionRefusedError):
                peer.connect(address)

    umask = os.umask(0o022)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(socket, "socket", Watched)
            async with started("unix:line.sock", tmp_path):
                pass
    finally:
        os.umask(umask)
    assert stat.S_IMODE(other.stat().st_mode) == 0o644


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
