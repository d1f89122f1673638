"""A recording on a filesystem that answers late: it is replayed whole, and nobody waits for it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from input_ends import A, key
from moving import Hand, until
from port_end import SECONDS
from slow_files import READ, RELEASE, SlowFiles, slow_files

from hcall.clock import ManualClock
from hcall.errors import WouldBlock
from hcall.formats.input import RECORD
from hostd.devices.hid import Hid

COUNT = 300  # packets of two records: more than a few reads
TAPE = b"".join(packet._replace(at=n * 1_000_000).encode() for n, packet in enumerate(key(A, *([1, 0] * (COUNT // 2)))))


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowFiles]:
    with slow_files(tmp_path) as files:
        (files.folder / "tape").write_bytes(TAPE)
        yield files


def keyboard(slow: SlowFiles, timed: bool = False, clock: ManualClock | None = None) -> Hand:
    return Hand(lambda: Hid(replay=slow.folder / "tape", timed=timed), clock)


async def stopped(slow: SlowFiles, hand: Hand) -> None:
    closed = slow.done.count(RELEASE)
    hand.stop()
    await until(lambda: slow.done.count(RELEASE) > closed)


async def got(hand: Hand, count: int) -> bytes:
    """So many bytes of events."""
    data = b""
    async with asyncio.timeout(SECONDS):
        while len(data) < count:
            try:
                data += hand.read()
            except WouldBlock:
                await asyncio.sleep(0)
    return data


def codes(data: bytes) -> list[tuple[int, ...]]:
    """Type, code and value of each record."""
    return [RECORD.unpack_from(data, at)[2:] for at in range(0, len(data), RECORD.size)]


async def test_it_comes_whole_to_each_guest_and_another_life_goes_on(slow: SlowFiles) -> None:
    slow.hold(READ)
    hand = keyboard(slow)
    await until(lambda: slow.waits(READ))
    with pytest.raises(WouldBlock):
        hand.read()
    slow.release()
    first = await got(hand, len(TAPE) // 3)
    slow.hold(READ)
    hand.move()
    await until(lambda: slow.waits(READ))
    slow.release()
    assert codes(first + await got(hand, len(TAPE) - len(first))) == codes(TAPE)
    with pytest.raises(WouldBlock):
        hand.read()
    hand.reset()
    assert codes(await got(hand, len(TAPE))) == codes(TAPE)
    await stopped(slow, hand)


async def test_guests_that_come_and_go_make_no_heap_of_work_and_get_it_from_its_beginning(slow: SlowFiles) -> None:
    hand = keyboard(slow)
    slow.hold(READ)
    for _ in range(100):
        hand.reset()
    assert hand.device._recording._order._under_way == 1
    slow.release()
    assert codes(await got(hand, len(TAPE))) == codes(TAPE)
    await stopped(slow, hand)


async def test_each_event_has_its_time_though_it_is_read_late(slow: SlowFiles) -> None:
    clock = ManualClock()
    slow.hold(READ)
    hand = keyboard(slow, timed=True, clock=clock)
    await until(lambda: slow.waits(READ))
    clock.turn(10.5)
    slow.release()
    size = len(TAPE) // COUNT
    assert codes(await got(hand, 11 * size)) == codes(TAPE[: 11 * size])  # those of the seconds 0 to 10
    with pytest.raises(WouldBlock):
        hand.read()
    for second in range(11, COUNT):
        clock.turn(1)
        assert codes(await got(hand, size)) == codes(TAPE[second * size : (second + 1) * size])
    await stopped(slow, hand)


async def test_a_recording_that_cannot_be_read_ends_there(slow: SlowFiles, caplog: pytest.LogCaptureFixture) -> None:
    slow.hold(READ)
    slow.fail(READ, errno.EIO)
    hand = keyboard(slow)
    slow.release()
    await until(lambda: hand.device._recording.is_over)
    assert "tape: [Errno 5] Input/output error" in caplog.text
    slow.fail(READ, 0)
    hand.reset()
    assert codes(await got(hand, len(TAPE))) == codes(TAPE)
    await stopped(slow, hand)
