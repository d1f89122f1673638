"""A printer whose jobs lie on a filesystem that answers late: each is there whole, once, or reported as failed."""

from __future__ import annotations

import asyncio
import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from moving import Hand, until
from port_end import SECONDS
from slow_files import CREATE, FLUSH, LINK, READ, RELEASE, WRITE, SlowFiles, slow_files

from hcall.errors import IoError, NoSpace, WouldBlock
from hostd.backings.spool import Spool
from hostd.devices.printer import Printer

MUCH = bytes(range(256)) * 1024


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowFiles]:
    with slow_files(tmp_path) as files:
        yield files


def printer(slow: SlowFiles, spool: str = "spool:jobs") -> Hand:
    return Hand(lambda: Printer(spool=Spool.parse(spool, slow.folder)))


async def there(slow: SlowFiles) -> dict[str, bytes]:
    """All files of the spool, hidden or not."""

    def look() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted((slow.folder / "jobs").iterdir())}

    return await asyncio.to_thread(look)


async def written(hand: Hand, data: bytes) -> None:
    async with asyncio.timeout(SECONDS):
        while data:
            try:
                data = data[hand.write(data) :]
            except WouldBlock:
                await asyncio.sleep(0)


async def outcome(hand: Hand) -> tuple[int, str]:
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                number, said = hand.call("outcome")
                return number, said
            except WouldBlock:
                await asyncio.sleep(0)


async def stopped(hand: Hand) -> None:
    """And all that was to be done is done."""
    order = hand.device.spool._order
    hand.stop()
    await until(lambda: order.is_idle)


@pytest.mark.parametrize("op", [CREATE, WRITE, FLUSH, LINK])
async def test_no_step_of_a_job_is_waited_for_and_the_job_is_there_when_that_is_told(slow: SlowFiles, op: int) -> None:
    hand = printer(slow)
    slow.hold(op)
    assert [hand.write(b"one "), hand.write(b"two")] == [4, 3]
    assert hand.call("finish") == 1
    await until(lambda: slow.waits(op))
    with pytest.raises(WouldBlock):
        hand.call("outcome")
    slow.release()
    assert await outcome(hand) == (1, "")
    await written(hand, b"next")
    hand.call("finish")
    assert await outcome(hand) == (2, "")
    await until(lambda: hand.device.spool.is_ready)
    assert await there(slow) == {"job-000001": b"one two", "job-000002": b"next"}
    await stopped(hand)


async def test_what_a_slow_spool_takes_is_bounded_and_comes_in_order(slow: SlowFiles) -> None:
    hand = printer(slow)
    slow.hold(CREATE)
    sent = 0
    with pytest.raises(WouldBlock):
        while sent < len(MUCH):
            sent += hand.write(MUCH[sent : sent + 10_000])
    assert sent == 128 * 1024  # half of it in the device
    slow.release()
    await written(hand, MUCH[sent:])
    hand.call("finish")
    assert await outcome(hand) == (1, "")
    await stopped(hand)
    assert await there(slow) == {"job-000001": MUCH}


@pytest.mark.parametrize("op", [CREATE, WRITE])
async def test_a_job_that_cannot_be_written_fails_for_whoever_writes_it(slow: SlowFiles, op: int) -> None:
    hand = printer(slow)
    slow.hold(op)
    slow.fail(op, errno.ENOSPC)
    hand.write(b"lost ")
    await until(lambda: slow.waits(op))
    hand.write(b"as well")
    slow.release()
    await until(lambda: hand.device._broken is not None)
    with pytest.raises(NoSpace):
        hand.write(b"more")
    with pytest.raises(NoSpace):
        hand.call("finish")
    slow.fail(op, 0)
    await written(hand, b"good")
    assert hand.call("finish") == 1
    assert await outcome(hand) == (1, "")
    await stopped(hand)
    assert await there(slow) == {"job-000001": b"good"}


@pytest.mark.parametrize("op", [WRITE, FLUSH, LINK])
async def test_a_job_that_was_finished_and_fails_then_is_told_so(slow: SlowFiles, op: int) -> None:
    hand = printer(slow)
    slow.hold(op)
    slow.fail(op, errno.EIO)
    hand.write(b"lost")
    hand.call("finish")
    await until(lambda: slow.waits(op))
    slow.release()
    number, said = await outcome(hand)
    assert number == 1 and said
    slow.fail(op, 0)
    await stopped(hand)
    assert await there(slow) == {}


async def test_a_reset_leaves_no_half_job_and_guests_that_begin_and_go_make_no_heap_of_work(slow: SlowFiles) -> None:
    hand = printer(slow)
    slow.hold(CREATE)
    for _ in range(100):
        hand.write(b"half")
        hand.call("soft_reset")
    await until(lambda: slow.waits(CREATE))
    assert hand.device.spool._order._under_way == 3  # it is made, written and removed
    slow.release()
    await written(hand, b"whole")
    hand.call("finish")
    assert await outcome(hand) == (1, "")
    hand.write(b"half")
    await stopped(hand)
    assert await there(slow) == {"job-000001": b"whole"}


async def test_a_soft_reset_says_of_no_job_that_is_there_that_it_was_dropped(slow: SlowFiles) -> None:
    hand = printer(slow)
    slow.hold(FLUSH, LINK)
    hand.write(b"one")
    hand.call("finish")
    await until(lambda: slow.waits(FLUSH))
    hand.call("soft_reset")
    assert await outcome(hand) == (1, "dropped by a soft reset")
    slow.release(FLUSH)
    await written(hand, b"two")
    hand.call("finish")
    await until(lambda: slow.waits(LINK))
    hand.call("soft_reset")  # too late
    with pytest.raises(WouldBlock):
        hand.call("outcome")
    slow.release()
    assert await outcome(hand) == (2, "")
    await stopped(hand)
    assert await there(slow) == {"job-000001": b"two"}


@pytest.mark.parametrize("op", [CREATE, WRITE, FLUSH, LINK])
async def test_another_life_goes_on_with_a_job_that_is_under_way(slow: SlowFiles, op: int) -> None:
    hand = printer(slow)
    slow.hold(op)
    hand.write(b"one ")
    if op in (FLUSH, LINK):
        hand.call("finish")
    await until(lambda: slow.waits(op))
    hand.move()
    if op in (CREATE, WRITE):
        hand.write(b"two")
        hand.move()
        hand.call("finish")
        slow.hold(FLUSH)
        slow.release(op)
        await until(lambda: slow.waits(FLUSH))
        for _ in range(10):  # what the other lives had to say has come
            await asyncio.sleep(0)
        with pytest.raises(WouldBlock):
            hand.call("outcome")
    slow.release()
    assert await outcome(hand) == (1, "")
    await stopped(hand)
    assert list(await there(slow)) == ["job-000001"]
    assert (await there(slow))["job-000001"] == (b"one two" if op in (CREATE, WRITE) else b"one ")


async def test_another_life_hears_of_a_job_that_failed(slow: SlowFiles) -> None:
    hand = printer(slow)
    slow.hold(WRITE)
    hand.write(b"lost")
    await until(lambda: slow.waits(WRITE))
    hand.move()
    slow.fail(WRITE, errno.EIO)
    slow.release()
    await until(lambda: hand.device._broken is not None)
    with pytest.raises(IoError):
        hand.call("finish")
    await stopped(hand)
    assert await there(slow) == {}


async def test_another_life_hears_that_a_job_could_not_land(slow: SlowFiles) -> None:
    hand = printer(slow)
    slow.hold(LINK)
    hand.write(b"lost")
    hand.call("finish")
    await until(lambda: slow.waits(LINK))
    hand.move()
    slow.fail(LINK, errno.EIO)
    slow.release()
    assert await outcome(hand) == (1, "Input/output error")
    await stopped(hand)
    assert await there(slow) == {}


@pytest.mark.parametrize("op", [WRITE, READ])
async def test_a_job_for_a_print_queue_may_lie_on_a_slow_filesystem(
    slow: SlowFiles, op: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(slow.folder))
    jobs: list[bytes] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        jobs.append(await reader.read())
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        hand = printer(slow, f"socket://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        slow.hold(op)
        sent = hand.write(MUCH[:60_000])
        if op == READ:
            await written(hand, MUCH[sent:])
        hand.call("finish")
        await until(lambda: slow.waits(op))
        slow.release()
        assert await outcome(hand) == (1, "")
        await until(lambda: hand.device.spool.is_ready)
        closed = slow.done.count(RELEASE)
        hand.write(b"half")
        await stopped(hand)
        await until(lambda: slow.done.count(RELEASE) > closed)
    assert jobs == [MUCH if op == READ else MUCH[:60_000]]
