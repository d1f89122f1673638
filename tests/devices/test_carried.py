"""What stands behind a stream goes on with its descriptors behind another device: the other end notices nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tty
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from moving import Hand, moved, until
from port_end import SECONDS
from raw import plugged

from hcall.errors import IoError, WouldBlock
from hcall.formats.vuart import Param
from hostd.backings.named import AnyBacking
from hostd.device import Saved
from hostd.devices.console import Console
from hostd.devices.rng import Rng
from hostd.devices.tty import Tty
from hostd.tree.plugged import Plugged

MUCH = array("I", range(1 << 22)).tobytes()  # more than what is in between holds, no word twice


class Line:
    """A console, and whoever is at its other end: a descriptor that does not wait."""

    def __init__(self, text: str, folder: Path) -> None:
        self.hand = Hand(lambda: Console(backing=AnyBacking.parse(text, folder)))
        self.there = -1

    async def given(self, data: bytes) -> None:
        """The device writes, as a guest does."""
        while data:
            try:
                data = data[self.hand.write(data) :]
            except WouldBlock:
                await asyncio.sleep(0)

    async def got(self, count: int) -> bytes:
        """What the device reads."""
        data = bytearray()
        async with asyncio.timeout(SECONDS):
            while len(data) < count:
                try:
                    data += self.hand.read(min(count - len(data), 65536))
                except WouldBlock:
                    await asyncio.sleep(0)
        return bytes(data)

    def said(self, data: bytes) -> int:
        """What the other end takes of *data*."""
        with contextlib.suppress(BlockingIOError):
            return os.write(self.there, data)
        return 0

    async def heard(self, count: int) -> bytes:
        """What comes to the other end."""
        data = bytearray()
        async with asyncio.timeout(SECONDS):
            while len(data) < count:
                with contextlib.suppress(BlockingIOError):
                    more = os.read(self.there, min(count - len(data), 1 << 20))
                    assert more, "the end"
                    data += more
                    continue
                await asyncio.sleep(0)
        return bytes(data)

    def end(self) -> None:
        """The other end, a socket, has said all."""
        with socket.socket(fileno=os.dup(self.there)) as peer:
            peer.shutdown(socket.SHUT_WR)

    def silent(self) -> bool:
        """Whether nothing more comes."""
        with contextlib.suppress(BlockingIOError):
            return not os.read(self.there, 1)
        return True

    @property
    def bytes_in(self) -> int:
        count: int = self.hand.device.get_param(Param.RX_BYTES)
        return count


SORTS = ["pty:", "pty:link", "unix:sock", "tcp:127.0.0.1:0", "connect:unix:sock", "connect:tcp:127.0.0.1:PORT"]


@contextlib.asynccontextmanager
async def lines(sort: str, folder: Path):  # type: ignore[no-untyped-def]  # of a test
    with contextlib.ExitStack() as stack:
        listener: socket.socket | None = None
        if sort.startswith("connect:"):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX if "unix" in sort else socket.AF_INET))
            listener.bind(str(folder / "sock") if "unix" in sort else ("127.0.0.1", 0))
            listener.listen()
            sort = sort.replace("PORT", str(listener.getsockname()[1]) if "tcp" in sort else "")
        line = Line(sort, folder)
        stack.callback(line.hand.stop)
        endpoint = line.hand.device.endpoint
        if listener is not None:
            peer, _ = await asyncio.to_thread(listener.accept)
        elif sort.startswith("pty:"):
            line.there = os.open(endpoint, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
            stack.callback(os.close, line.there)
        else:
            unix = sort.startswith("unix")
            peer = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
            peer.connect(endpoint[5:] if unix else ("127.0.0.1", int(endpoint.rpartition(":")[2])))
        if line.there < 0:
            stack.enter_context(peer)
            peer.setblocking(False)
            line.there = peer.fileno()
        yield line


@pytest.mark.parametrize("sort", SORTS)
async def test_every_byte_comes_once_and_the_other_end_notices_nothing(tmp_path: Path, sort: str) -> None:
    async with lines(sort, tmp_path) as line:
        await line.given(b"hello")
        assert await line.heard(3) == b"hel"
        assert line.said(b"typed") == 5
        await until(lambda: line.bytes_in == 5)
        assert await line.got(2) == b"ty"
        said = heard = 0
        while (count := line.said(MUCH[said : said + 4096])) or (line.bytes_in < 65536 and said < len(MUCH)):
            said += count  # more than the device has room for
            await asyncio.sleep(0)
        with contextlib.suppress(WouldBlock):
            while heard < len(MUCH):  # and more than the line has
                heard += line.hand.write(MUCH[heard : heard + 60_000])
        assert line.hand.device.waiting
        before = line.hand.device.endpoint

        line.hand.move()

        assert line.hand.device.endpoint == before
        assert line.hand.device.get_param(Param.TX_BYTES) == line.hand.device.waiting > 0
        reading = asyncio.create_task(line.got(3 + said))
        assert await line.heard(2 + heard) == b"lo" + MUCH[:heard]
        assert await reading == b"ped" + MUCH[:said]
        await line.given(b"still ")
        assert line.said(b"there") == 5
        assert [await line.heard(6), await line.got(5)] == [b"still ", b"there"]
        assert line.silent() and not line.hand.device.hung_up
        with pytest.raises(WouldBlock):
            line.hand.read()


async def test_a_link_to_a_terminal_stays_and_goes_with_the_last(tmp_path: Path) -> None:
    link = tmp_path / "link"
    async with lines("pty:link", tmp_path) as line:
        for _ in range(3):
            line.hand.move()
            assert str(link.readlink()) == line.hand.device.endpoint == os.ttyname(line.there)
            with pytest.raises(OSError, match="in use"):
                plugged(Console(backing=AnyBacking.parse("pty:link", tmp_path))).start()
    assert not link.is_symlink()


@pytest.mark.parametrize("sort", ["unix:sock", "tcp:127.0.0.1:0"])
async def test_who_waits_in_front_of_a_socket_waits_on_and_is_the_next(tmp_path: Path, sort: str) -> None:
    async with lines(sort, tmp_path) as line:
        at = line.hand.device.endpoint
        with socket.socket(socket.AF_UNIX if sort.startswith("unix") else socket.AF_INET) as second:
            second.connect(at[5:] if sort.startswith("unix") else ("127.0.0.1", int(at.rpartition(":")[2])))
            assert second.send(b"next") == 4
            assert line.said(b"first") == 5
            line.hand.move()
            assert await line.got(5) == b"first"
            with pytest.raises(WouldBlock):
                line.hand.read()
            line.end()
            assert await line.got(4) == b"next"
    assert not (tmp_path / "sock").exists()


async def test_what_was_written_while_nobody_is_there_is_kept(tmp_path: Path) -> None:
    hand = Hand(lambda: Console(backing=AnyBacking.parse("unix:sock", tmp_path)))
    assert hand.write(b"panic") == 5
    hand.move()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(tmp_path / "sock"))
        peer.setblocking(False)
        async with asyncio.timeout(SECONDS):
            assert await asyncio.get_running_loop().sock_recv(peer, 100) == b"panic"
        hand.stop()


async def test_a_log_goes_on_where_it_lies_now(tmp_path: Path) -> None:
    hand = Hand(lambda: Console(backing=AnyBacking.parse("file:log", tmp_path)))
    hand.write(b"one ")
    (tmp_path / "log").rename(tmp_path / "log.1")  # rotated, and nobody has told the host
    hand.move()
    hand.write(b"two")
    hand.stop()
    assert (tmp_path / "log.1").read_bytes() == b"one two" and not (tmp_path / "log").exists()


async def test_a_pipe_that_is_full_gets_the_rest_when_it_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    hand = Hand(lambda: Console(backing=AnyBacking.parse("file:pipe", tmp_path)))
    sent = 0
    with contextlib.suppress(WouldBlock):
        while True:
            sent += hand.write(MUCH[sent : sent + 50_000])
    hand.move()
    data = b""
    async with asyncio.timeout(SECONDS):
        while len(data) < sent:
            with contextlib.suppress(BlockingIOError):
                data += os.read(reader, 65536)
            await asyncio.sleep(0)
    hand.device.flushed()
    hand.stop()
    os.close(reader)
    assert data == MUCH[:sent]


def command(text: str, folder: Path) -> Hand:
    return Hand(lambda: Console(backing=AnyBacking.parse(f"cmd:{text}", folder)))


async def read_until(hand: Hand, end: bytes) -> bytes:
    data = b""
    async with asyncio.timeout(SECONDS):
        while not data.endswith(end):
            try:
                more = hand.read()
                assert more, f"the end after {data!r}"
                data += more
            except WouldBlock:
                await asyncio.sleep(0)
    return data


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_command_runs_on(tmp_path: Path) -> None:
    hand = command("stty -echo; echo ready; while read line; do echo $$ $line; done", tmp_path)
    pid = int(hand.device.endpoint.removeprefix("pid ").partition(":")[0])
    assert await read_until(hand, b"ready\r\n") == b"ready\r\n"
    hand.write(b"one\n")
    hand.move()
    hand.write(b"two\n")
    assert await read_until(hand, b"two\r\n") == b"%d one\r\n%d two\r\n" % (pid, pid)
    assert hand.device.endpoint.startswith(f"pid {pid}:")
    hand.write(b"\x04")  # the end of its input
    await until(lambda: hand.device.hung_up)
    assert hand.read() == b"" and not is_there(pid)  # the new one has waited for it
    hand.reset()
    assert not hand.device.hung_up and not hand.device.endpoint.startswith(f"pid {pid}:")
    hand.stop()


async def test_a_command_that_is_stopped_after_the_move_is_gone_with_all_it_began(tmp_path: Path) -> None:
    hand = command("sleep 1000 & echo $!; cat", tmp_path)
    (child,) = map(int, (await read_until(hand, b"\r\n")).split())
    hand.move()
    assert is_there(child)
    hand.stop()
    await until(lambda: not is_there(child))


async def test_what_a_command_wrote_last_is_read_after_it_has_ended_and_the_device_was_moved(tmp_path: Path) -> None:
    hand = command("head -c 70000 /dev/zero | tr '\\0' x", tmp_path)
    await until(lambda: hand.device.backing._pidfd < 0)
    hand.move()
    assert await read_until(hand, b"x" * 70000) == b"x" * 70000
    await until(lambda: hand.device.hung_up)
    assert hand.read() == b""
    hand.move()  # nothing of that is told twice
    assert hand.read() == b"" and hand.device.hung_up
    hand.stop()


@pytest.mark.parametrize("sort", ["pty:", "cmd:cat"])
async def test_the_size_that_a_guest_gave_a_terminal_is_not_the_next_guests(tmp_path: Path, sort: str) -> None:
    hand = Hand(lambda: Console(backing=AnyBacking.parse(sort, tmp_path)))
    fresh = hand.device.winsize()
    hand.call("set_winsize", 100, 50)
    hand.call("set_winsize", 101, 51)
    hand.move()
    assert hand.device.winsize() == (101, 51)
    hand.reset()
    assert hand.device.winsize() == fresh
    hand.stop()


async def test_the_speed_of_a_line_is_the_same(tmp_path: Path) -> None:
    hand = Hand(lambda: Tty(backing=AnyBacking.parse("pty:", tmp_path)))
    hand.device.set_baud(300)
    terminal = os.open(hand.device.endpoint, os.O_RDWR | os.O_NOCTTY)
    before = tty.tcgetattr(terminal)
    hand.move()
    assert tty.tcgetattr(terminal) == before and hand.device.current_speed == 300
    hand.site.reset()
    assert hand.device.current_speed == 115200
    hand.stop()
    os.close(terminal)


# What cannot be.


@contextlib.contextmanager
def saved(device: Console | Rng | Tty) -> Iterator[tuple[Saved, list[int], Plugged]]:
    """What was saved of it, and descriptors of the caller's."""
    site = plugged(device)
    site.start()
    kept, fds = site.save()
    yield kept, [os.dup(fd) for fd in fds], site
    site.retire()


async def test_what_was_saved_of_something_else_is_refused_and_its_descriptors_are_closed(tmp_path: Path) -> None:
    def console(sort: str) -> Console:
        return Console(backing=AnyBacking.parse(sort, tmp_path))

    others: list[tuple[Console | Rng, str]] = [
        (console("unix:sock"), "backing was a Pty when it was saved, and is a UnixListener"),
        (Rng(), "another sort of device"),
    ]
    for other, said in others:
        with saved(console("pty:")) as (kept, fds, _), pytest.raises(ValueError, match=said):
            plugged(other).load(kept, fds)
    with saved(console("pty:")) as (kept, fds, _), pytest.raises(ValueError, match="another sort of device"):
        plugged(Tty(backing=AnyBacking.parse("pty:", tmp_path))).load({**kept, "behind": {}}, fds)
    with saved(console("pty:")) as (kept, fds, _), pytest.raises(ValueError, match="another version"):
        plugged(console("pty:")).load({**kept, "version": 2}, fds)
    with (
        saved(console("pty:")) as (kept, fds, _),
        pytest.raises(ValueError, match="is of no Tty as it is now: _speed is missing, it has no"),
    ):
        plugged(Tty(backing=AnyBacking.parse("pty:", tmp_path))).load(kept, fds)
    with saved(console("pty:")) as (kept, fds, _):
        os.close(fds.pop())
        with pytest.raises(ValueError, match="its 1 descriptors are not"):
            plugged(console("pty:")).load(kept, fds)


async def test_a_save_leaves_all_as_it_is(tmp_path: Path) -> None:
    async with lines("pty:", tmp_path) as line:
        line.said(b"typed")
        await until(lambda: line.bytes_in == 5)
        for _ in range(3):
            line.hand.site.save()
        assert await line.got(5) == b"typed"
        await line.given(b"hello")
        assert await line.heard(5) == b"hello"


async def test_an_old_one_that_has_ceded_does_nothing_any_more(tmp_path: Path) -> None:
    hand = Hand(lambda: Console(backing=AnyBacking.parse("unix:sock", tmp_path)))
    old = hand.site
    again = moved(old, hand.make())
    old.holds.clear()
    old.retire()
    assert (tmp_path / "sock").is_socket()
    again.retire()
    assert not (tmp_path / "sock").exists()


async def test_a_terminal_that_was_hung_up_on_is_so_for_the_next(tmp_path: Path) -> None:
    hand = Hand(lambda: Console(backing=AnyBacking.parse("pty:", tmp_path)))
    backing = hand.device.backing
    backing._hung_up = True
    backing._loop.remove_reader(backing._master)
    hand.device.hang_up()
    hand.move()
    assert hand.read() == b""
    with pytest.raises(IoError):
        hand.write(b"x")
    hand.reset()
    assert hand.write(b"x") == 1
    hand.stop()
