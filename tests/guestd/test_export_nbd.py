"""The NBD server, by hand: what each request does and answers, and clients that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import guestd
import hostd
from guestd.clients.asynchronous import AsyncGuest
from guestd.exports import choose
from guestd.exports.nbd_connection import CONNECTIONS, HANDSHAKE_SECONDS
from hcall.clock import ManualClock
from hostd import Machine

SIZE = 40 << 20
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES = range(7)
FUA, NO_HOLE = 1, 2
EPERM, EIO, EINVAL, ENOSPC, ESHUTDOWN = 1, 5, 22, 28, 108


class Client:
    """One connection, as raw as can be."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_unix_connection(self._path)
        assert await self.reader.readexactly(18) == b"NBDMAGICIHAVEOPT\0\3"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()
        with contextlib.suppress(OSError):
            await self.writer.wait_closed()

    async def begin(self, expected: int = SIZE) -> int:
        """The old handshake; the transmission flags."""
        self.writer.write(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 1, 0))
        size, flags = struct.unpack(">QH", await self.reader.readexactly(10))
        assert size == expected
        return flags  # type: ignore[no-any-return]

    def ask(
        self, command: int, at: int = 0, length: int = 0, data: bytes = b"", flags: int = 0, cookie: int = 7
    ) -> None:
        self.writer.write(struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, at, length or len(data)) + data)

    async def answer(self, count: int = 0) -> tuple[int, int, bytes]:
        """(cookie, error, data) of the next reply."""
        magic, error, cookie = struct.unpack(">IIQ", await self.reader.readexactly(16))
        assert magic == 0x67446698
        return cookie, error, await self.reader.readexactly(0 if error else count)

    async def make(self, command: int, *args: Any, **named: Any) -> int:
        """One request that brings no data; its error."""
        self.ask(command, *args, **named)
        cookie, error, _ = await self.answer()
        assert cookie == 7
        return error

    async def ended(self) -> bool:
        """Whether the server hangs up, without another word."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True


@contextlib.asynccontextmanager
async def exported(
    folder: Path, clock: ManualClock | None = None, host_clock: ManualClock | None = None, **config: object
) -> AsyncIterator[tuple[hostd.Host, AsyncGuest, Path]]:
    """A disk of SIZE, exported at the path that is given; `disk.img` may be there already."""
    devices = {"disk": {"model": "block", "path": "disk.img", "create": f"{SIZE >> 20}M", **config}}
    machine, path = Machine.from_tables({"devices": devices}, folder), folder / "disk.sock"
    async with (
        hostd.serve(machine, folder / "run", host_clock) as host,
        guestd.attach(host.socket, clock=clock) as guest,
    ):
        driver = await guest.bind("disk")
        ready = asyncio.Event()
        task = asyncio.ensure_future(choose("disk", driver, f"nbd:unix:{path}").run(guest, driver, ready.set))
        try:
            await asyncio.wait_for(ready.wait(), 5)
            yield host, guest, path
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    assert not path.exists()


async def test_what_is_written_is_read(tmp_path: Path) -> None:
    data = os.urandom(100_000)
    async with exported(tmp_path) as (_, _, path), Client(path) as client:
        assert await client.begin() == 1 | 4 | 8 | 32 | 64 | 256
        assert await client.make(WRITE, 1234, data=data) == 0
        client.ask(READ, 1233, len(data) + 2, cookie=1 << 63)
        assert await client.answer(len(data) + 2) == (1 << 63, 0, b"\0" + data + b"\0")
        assert await client.make(FLUSH) == 0
        assert await client.make(WRITE, 0, data=b"stable", flags=FUA) == 0
        assert await client.make(TRIM, 4096, 8192, flags=FUA) == 0
        assert await client.make(ZEROES, 0, 1240, flags=NO_HOLE) == 0
    image = (tmp_path / "disk.img").read_bytes()
    assert image[:1240] == bytes(1240) and image[1240:4096] == data[6 : 4096 - 1234]


@pytest.mark.parametrize("flags", [0, NO_HOLE, NO_HOLE | FUA])
async def test_zeroes_without_a_hole_take_their_place_on_a_filesystem_that_is_memory(flags: int) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        image = Path(name) / "disk.img"
        image.write_bytes(b"\xff" * (1 << 20))
        async with exported(Path(name)) as (_, _, path), Client(path) as client:
            await client.begin(1 << 20)
            assert await client.make(ZEROES, 0, 1 << 20, flags=flags) == 0
            assert image.stat().st_blocks * 512 == (1 << 20 if flags else 0)
        assert image.read_bytes() == bytes(1 << 20)


@pytest.mark.parametrize("length", [1, 4096, 512 * 1024, 512 * 1024 + 1, 3_000_001, 32 << 20])
async def test_requests_of_every_size_at_once(tmp_path: Path, length: int) -> None:
    data = os.urandom(length)
    count = max(2, min(200, (8 << 20) // length))
    async with exported(tmp_path) as (_, _, path), Client(path) as client:
        await client.begin()
        for n in range(count):
            client.ask(WRITE, n, data=data, cookie=n)
        assert {(await client.answer())[:2] for _ in range(count)} == {(n, 0) for n in range(count)}
        await client.make(WRITE, 5, data=data)
        for n in range(count):
            client.ask(READ, 5, length, cookie=n)
        assert {await client.answer(length) for _ in range(count)} == {(n, 0, data) for n in range(count)}


@pytest.mark.parametrize(
    ("command", "named", "error"),
    [
        (READ, {"at": SIZE - 1, "length": 2}, EINVAL), (READ, {"at": (1 << 64) - 1, "length": 1}, EINVAL),
        (READ, {"length": (32 << 20) + 1}, EINVAL), (READ, {"length": 0xFFFFFFFF}, EINVAL),
        (READ, {"length": 1, "flags": 4}, EINVAL), (WRITE, {"at": SIZE - 1, "data": b"xx"}, ENOSPC),
        (WRITE, {"at": (1 << 64) - 1, "data": bytes(100_000)}, ENOSPC), (WRITE, {"data": b"x", "flags": 8}, EINVAL),
        (TRIM, {"at": SIZE, "length": 1}, ENOSPC), (ZEROES, {"at": 1, "length": SIZE}, ENOSPC),
        (CACHE, {}, EINVAL), (99, {"length": 1 << 31}, EINVAL), (FLUSH, {"flags": 2}, EINVAL),
    ],
)  # fmt: skip
async def test_what_cannot_be_done_is_refused_and_the_next_is_done(
    tmp_path: Path, command: int, named: dict[str, Any], error: int
) -> None:
    async with exported(tmp_path) as (_, _, path), Client(path) as client:
        await client.begin()
        client.ask(command, **named)
        assert await client.make(WRITE, data=b"next", cookie=7) == error
        assert (await client.answer())[:2] == (7, 0)
    assert (tmp_path / "disk.img").read_bytes()[:5] == b"next\0"


async def test_a_disk_that_is_read_only(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(b"x" * SIZE)
    async with exported(tmp_path, read_only=True) as (_, _, path), Client(path) as client:
        assert await client.begin() == 1 | 2 | 256
        for command, named in (WRITE, {"data": bytes(5000)}), (TRIM, {"length": 1}), (ZEROES, {"length": 1}):
            assert await client.make(command, **named) == EPERM
        assert await client.make(FLUSH) == EINVAL  # it was not offered
        client.ask(READ, 0, 3)
        assert await client.answer(3) == (7, 0, b"xxx")


@pytest.mark.parametrize("data", [
    bytes(28), struct.pack(">IHHQQI", 0x25609513, 0, WRITE, 1, 0, (32 << 20) + 1),
    struct.pack(">IHHQQI", 0x25609513, 0, WRITE, 1, 0, 0xFFFFFFFF) + bytes(1000),
])  # fmt: skip
async def test_nonsense_ends_its_own_connection_only(tmp_path: Path, data: bytes) -> None:
    async with exported(tmp_path) as (_, _, path), Client(path) as other:
        await other.begin()
        async with Client(path) as client:
            await client.begin()
            client.writer.write(data)
            assert await client.ended()
        async with Client(path) as client:
            client.writer.write(bytes(4))  # no flags of ours
            assert await client.ended()
        assert await other.make(FLUSH) == 0


async def test_half_a_request_and_silence_hold_up_nobody(tmp_path: Path) -> None:
    async with exported(tmp_path) as (_, _, path), contextlib.AsyncExitStack() as stack:
        for _ in range(CONNECTIONS - 1):
            client = await stack.enter_async_context(Client(path))
            await client.begin()
            client.ask(WRITE, 0, length=32 << 20, data=b"a little of it")
            await client.writer.drain()
        async with Client(path) as other:
            await other.begin()
            for _ in range(3):
                assert await other.make(WRITE, 4096, data=bytes(32 << 20)) == 0
            client = Client(path)  # one too many is sent away
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await client.__aenter__()
            if hasattr(client, "writer"):
                await client.__aexit__()
    async with exported(tmp_path) as (_, _, path), Client(path) as other:
        await other.begin()
        other.ask(READ, 0, 14)
        assert (await other.answer(14))[2] == bytes(14)  # half a write is none


async def test_a_client_that_reads_no_answers_is_bounded_and_holds_up_nobody(tmp_path: Path) -> None:
    """And when it reads on, every answer is the one to its question: no memory was used again too early."""
    content = os.urandom(SIZE)
    (tmp_path / "disk.img").write_bytes(content)
    async with exported(tmp_path) as (_, _, path), Client(path) as deaf, Client(path) as other:
        await deaf.begin()
        await other.begin()
        deaf.writer.transport.pause_reading()  # type: ignore[attr-defined]
        for n in range(1000):
            deaf.ask(READ, n, 100_000, cookie=n)
        for _ in range(50):
            assert await other.make(FLUSH) == 0
        deaf.writer.transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(1000):
            n, error, data = await deaf.answer(100_000)
            assert not error and data == content[n : n + 100_000]


async def test_whoever_does_not_come_to_the_point_is_cut_off(tmp_path: Path) -> None:
    clock = ManualClock()
    async with exported(tmp_path, clock) as (_, _, path), Client(path) as silent, Client(path) as busy:
        await busy.begin()
        assert await busy.make(FLUSH) == 0
        clock.turn(HANDSHAKE_SECONDS + 1)
        assert await silent.ended()
        assert await busy.make(FLUSH) == 0


async def test_a_client_that_leaves_gets_its_answers_first(tmp_path: Path) -> None:
    async with exported(tmp_path) as (_, _, path), Client(path) as client:
        await client.begin()
        client.ask(WRITE, 0, data=b"last words", flags=FUA)
        client.ask(DISC)
        client.ask(WRITE, 0, data=b"too late")
        assert (await client.answer())[:2] == (7, 0) and await client.ended()
    assert (tmp_path / "disk.img").read_bytes()[:10] == b"last words"


async def test_clients_that_vanish_leave_room_for_others(tmp_path: Path) -> None:
    async with exported(tmp_path) as (_, _, path):
        for _ in range(3 * CONNECTIONS):
            client = Client(path)
            await client.__aenter__()
            await client.begin()
            for n in range(100):
                client.ask(READ, 0, 1 << 20, cookie=n)
            client.writer.transport.abort()
            async with Client(path) as other:
                await other.begin()
                assert await other.make(WRITE, data=bytes(1 << 20)) == 0


async def test_a_disk_that_is_unplugged_says_so(tmp_path: Path) -> None:
    async with exported(tmp_path) as (host, _, path), Client(path) as client:
        await client.begin()
        await host.unplug("disk", surprise=True)
        assert await client.make(FLUSH) == ESHUTDOWN


async def test_a_disk_that_grows_is_larger_for_who_comes_then(tmp_path: Path) -> None:
    clock = ManualClock()
    async with exported(tmp_path, host_clock=clock) as (_, _, path), Client(path) as client:
        await client.begin()
        assert await client.make(ZEROES, SIZE, 4096) == ENOSPC
        os.truncate(tmp_path / "disk.img", 2 * SIZE)
        clock.turn(1)
        async with asyncio.timeout(5):
            while await client.make(ZEROES, SIZE, 4096):
                pass
        async with Client(path) as late:
            assert await late.begin(2 * SIZE)
