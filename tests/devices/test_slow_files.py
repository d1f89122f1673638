"""Files of the host's on a filesystem that answers late, or not: the loop never waits for it, and nothing is lost."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from moving import Hand, until
from slow_files import RELEASE, WRITE, SlowFiles, slow_files

from hcall.errors import IoError, WouldBlock
from hostd.backings.named import AnyBacking
from hostd.devices.console import Console
from hostd.devices.hid import Hid

MUCH = bytes(range(256)) * 1024


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowFiles]:
    with slow_files(tmp_path) as files:
        yield files


def console(slow: SlowFiles) -> Hand:
    return Hand(lambda: Console(backing=AnyBacking.parse("file:log", slow.folder)))


async def stopped(slow: SlowFiles, hand: Hand) -> None:
    """And its file is closed."""
    closed = slow.done.count(RELEASE)
    hand.stop()
    await until(lambda: slow.done.count(RELEASE) > closed)


def content(path: Path) -> bytes:
    return path.read_bytes()


async def settled(hand: Hand) -> None:
    """As a guest waits for `sync`, but without interrupts."""
    while True:
        try:
            hand.call("sync")
            return
        except WouldBlock:
            await asyncio.sleep(0)


async def test_a_log_is_taken_at_once_and_written_only_when_it_is(slow: SlowFiles) -> None:
    hand = console(slow)
    slow.hold(WRITE)
    assert [hand.write(b"one "), hand.write(b"two "), hand.write(b"three")] == [4, 4, 5]
    await until(lambda: slow.waits(WRITE))
    with pytest.raises(WouldBlock, match="13 bytes wait"):
        hand.call("sync")
    slow.release()
    await settled(hand)
    assert await asyncio.to_thread(content, slow.folder / "log") == b"one two three"
    await stopped(slow, hand)


async def test_what_a_slow_log_takes_is_bounded_and_comes_in_order(slow: SlowFiles) -> None:
    hand = console(slow)
    slow.hold(WRITE)
    sent = 0
    with pytest.raises(WouldBlock):
        while sent < len(MUCH):
            sent += hand.write(MUCH[sent : sent + 10_000])
    assert sent == 128 * 1024  # half of it in the device
    slow.release()
    while sent < len(MUCH):
        try:
            sent += hand.write(MUCH[sent : sent + 10_000])
        except WouldBlock:
            await asyncio.sleep(0)
    await settled(hand)
    assert await asyncio.to_thread(content, slow.folder / "log") == MUCH
    await stopped(slow, hand)


async def test_an_error_that_comes_late_comes_to_whoever_wrote(slow: SlowFiles) -> None:
    hand = console(slow)
    slow.hold(WRITE)
    assert hand.write(b"lost") == 4
    hand.write(b"as well")
    slow.fail(WRITE, errno.ENOSPC)
    slow.release()
    await until(lambda: hand.device.hung_up)
    with pytest.raises(IoError, match="11 bytes have not"):
        hand.call("sync")
    with pytest.raises(IoError):
        hand.write(b"more")
    slow.fail(WRITE, 0)
    hand.reset()
    hand.write(b"of the next guest")
    await settled(hand)
    assert await asyncio.to_thread(content, slow.folder / "log") == b"of the next guest"
    await stopped(slow, hand)


async def test_a_log_that_is_unplugged_is_written_to_its_end(slow: SlowFiles) -> None:
    hand = console(slow)
    slow.hold(WRITE, RELEASE)
    hand.write(b"one ")
    hand.write(b"two")
    hand.stop()  # at once
    await until(lambda: slow.waits(WRITE))
    slow.release(WRITE)
    await until(lambda: slow.waits(RELEASE))
    slow.release()
    assert await asyncio.to_thread(content, slow.folder / "log") == b"one two"


async def test_another_life_writes_after_what_the_one_before_it_had_taken(slow: SlowFiles) -> None:
    hand = console(slow)
    slow.hold(WRITE)
    hand.write(b"one ")
    hand.write(b"two ")
    await until(lambda: slow.waits(WRITE))
    hand.move()
    hand.write(b"three ")
    with pytest.raises(WouldBlock, match="14 bytes wait"):
        hand.call("sync")
    hand.move()
    hand.write(b"four")
    slow.release()
    await settled(hand)
    assert await asyncio.to_thread(content, slow.folder / "log") == b"one two three four"
    await stopped(slow, hand)


async def test_another_life_hears_of_an_error_of_the_one_before_it(slow: SlowFiles) -> None:
    hand = console(slow)
    slow.hold(WRITE)
    hand.write(b"lost")
    await until(lambda: slow.waits(WRITE))
    hand.move()
    slow.fail(WRITE, errno.EIO)
    slow.release()
    await until(lambda: hand.device.hung_up)
    hand.move()
    with pytest.raises(IoError, match="4 bytes have not"):
        hand.call("sync")
    slow.fail(WRITE, 0)
    hand.reset()
    hand.write(b"new")
    await settled(hand)
    assert await asyncio.to_thread(content, slow.folder / "log") == b"new"
    await stopped(slow, hand)


async def test_lamps_that_cannot_be_written_are_the_end_of_what_stands_behind_a_keyboard(slow: SlowFiles) -> None:
    hand = Hand(lambda: Hid(events=AnyBacking.parse("file:leds", slow.folder)))
    slow.hold(WRITE)
    slow.fail(WRITE, errno.EIO)
    hand.call("set_led", 0, True)
    await until(lambda: slow.waits(WRITE))
    assert not hand.device._gone
    slow.release()
    await until(lambda: hand.device._gone)
    await stopped(slow, hand)


async def test_the_disk_of_this_machine_is_written_at_once(tmp_path: Path) -> None:
    hand = Hand(lambda: Console(backing=AnyBacking.parse("file:log", tmp_path)))
    hand.write(b"here")
    assert (tmp_path / "log").read_bytes() == b"here"
    hand.stop()
