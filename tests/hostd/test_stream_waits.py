"""The vuart's calls that wait, by themselves: order, bounds, the end, and what they mean for the others."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipe import RX, SIZE, Answer, Guest, Pipe
from raw import memory_of

from hcall.errors import BadArea, IoError, Reset, WouldBlock
from hcall.formats.vuart import Param
from hostd.device import Data, Later, Room
from hostd.stream import MOST, Stream, first

TX_READY, RX_READY = "tx_ready", "rx_ready"


@pytest.fixture
def guest() -> Guest:
    return Guest()


@pytest.mark.spec("STR-7")
def test_a_read_waits_for_bytes_and_takes_those_that_are_there(guest: Guest) -> None:
    waiting = guest.waits_for(10)
    assert waiting.outcome is None and guest.pipe.asked == 1  # the model was asked for some
    guest.pipe.send(b"abc")
    assert waiting.outcome == b"abc"
    guest.pipe.send(b"defgh")
    assert guest.waits_for(3).outcome == b"def"
    assert guest.waits_for(0).outcome == b""
    assert guest.read(10) == b"gh"


@pytest.mark.spec("STR-7")
def test_reads_that_wait_are_answered_in_their_order(guest: Guest) -> None:
    waiting = [guest.waits_for(count) for count in (3, 4, 5)]
    assert guest.pipe.send(b"abcde") == 5
    assert [each.outcome for each in waiting] == [b"abc", b"de", None]
    guest.pipe.send(b"fghijklmno")
    assert waiting[2].outcome == b"fghij" and guest.read(10) == b"klmno"


@pytest.mark.spec("STR-8")
def test_what_comes_for_a_read_that_waits_is_told_whatever_the_trigger(guest: Guest) -> None:
    guest.set(Param.RX_TRIGGER, SIZE - 1000)
    guest.waits_for(10)
    guest.pipe.send(b"few")
    assert guest.counts[RX_READY] == 1 and guest.get(Param.RX_BYTES) == 0
    guest.set(Param.INTERRUPT_MASK, 7 & ~RX)
    guest.waits_for(10)
    guest.pipe.send(b"few")
    assert guest.counts[RX_READY] == 1


@pytest.mark.spec("STR-7")
def test_a_write_waits_until_all_of_it_fits(guest: Guest) -> None:
    assert guest.waits_with(b"a" * 100).outcome == 100
    waiting = [guest.waits_with(b"b" * SIZE), guest.waits_with(b"c" * 50)]
    guest.pipe.takes = 99
    guest.pipe.transmit()
    assert [each.outcome for each in waiting] == [None, None] and guest.get(Param.TX_BYTES) == 1
    guest.pipe.takes = 1
    guest.pipe.transmit()
    assert [each.outcome for each in waiting] == [SIZE, None]
    guest.pipe.takes = 1 << 20
    guest.pipe.transmit()
    assert waiting[1].outcome == 50
    assert guest.pipe.taken == b"a" * 100 + b"b" * SIZE + b"c" * 50


@pytest.mark.spec("STR-7")
def test_of_a_write_that_is_larger_than_the_buffer_as_much_is_taken(guest: Guest) -> None:
    assert guest.waits_with(bytes(SIZE + 1)).outcome == SIZE
    waiting = guest.waits_with(bytes(SIZE + 1))
    guest.pipe.takes = 1 << 20
    guest.pipe.transmit()
    assert waiting.outcome == SIZE and len(guest.pipe.taken) == 2 * SIZE


@pytest.mark.spec("STR-8")
def test_while_a_write_waits_there_is_no_room_for_others(guest: Guest) -> None:
    guest.waits_with(b"a" * 1000)
    waiting = guest.waits_with(b"b" * SIZE)
    before = guest.counts[TX_READY]
    with pytest.raises(WouldBlock):
        guest.write(b"c")
    with pytest.raises(WouldBlock, match=f"{1000 + SIZE} bytes wait"):
        guest.pipe.flushed()
    assert guest.counts[TX_READY] == before
    guest.pipe.takes = 1000
    guest.pipe.transmit()
    assert waiting.outcome == SIZE and guest.counts[TX_READY] == before  # the buffer is full now
    guest.pipe.takes = SIZE
    guest.pipe.transmit()
    guest.pipe.flushed()
    assert guest.counts[TX_READY] > before and guest.write(b"c") == 1


@pytest.mark.spec("STR-8")
def test_tx_ready_comes_when_the_last_write_that_waited_is_taken(guest: Guest) -> None:
    guest.waits_with(b"a" * 1000)
    guest.waits_with(b"b" * (SIZE - 500))
    with pytest.raises(WouldBlock):
        guest.write(b"c")
    guest.pipe.takes = 1000
    guest.pipe.transmit()
    assert guest.counts[TX_READY] == 1 and guest.write(b"c") == 1


@pytest.mark.spec("STR-4", "STR-7")
def test_the_end_is_told_to_all_that_wait(guest: Guest) -> None:
    guest.waits_with(b"a")
    reading, writing = [guest.waits_for(5), guest.waits_for(5)], [guest.waits_with(bytes(SIZE)) for _ in range(2)]
    guest.pipe.hang_up()
    assert [each.outcome for each in reading] == [b"", b""]
    assert [type(each.outcome) for each in writing] == [IoError, IoError]
    assert guest.waits_for(5).outcome == b""
    with pytest.raises(IoError):
        guest.waits_with(b"x")


def test_the_end_comes_after_what_is_there(guest: Guest) -> None:
    guest.pipe.send(b"last")
    guest.pipe.hang_up()
    assert [guest.waits_for(10).outcome for _ in range(2)] == [b"last", b""]


@pytest.mark.spec("S-10")
def test_those_that_are_given_up_take_nothing_and_are_not_in_the_way(guest: Guest) -> None:
    guest.waits_with(b"a")
    reading, writing = [guest.waits_for(5) for _ in range(3)], [guest.waits_with(bytes(SIZE - n)) for n in range(3)]
    for each in (reading[1], writing[0]):
        assert isinstance(each.later, Later)
        each.later.abandon()
        assert isinstance(each.outcome, Reset)
    guest.pipe.send(b"12345678")
    assert [each.outcome for each in (reading[0], reading[2])] == [b"12345", b"678"]
    guest.pipe.takes = 1 << 20
    guest.pipe.transmit()
    assert [each.outcome for each in writing[1:]] == [SIZE - 1, SIZE - 2]


@pytest.mark.spec("STR-6", "S-10")
def test_a_reset_leaves_nobody_waiting(guest: Guest) -> None:
    guest.waits_with(b"a")
    waiting = [guest.waits_for(5), guest.waits_with(bytes(SIZE))]
    guest.site.reset()
    assert [type(each.outcome) for each in waiting] == [Reset, Reset]
    guest.pipe.send(b"new")
    assert guest.read(10) == b"new"


class Spring(Pipe):
    """Has bytes at its source, which it gives when it is asked, or is told to send ahead."""

    compatible = "test,spring"
    source = b""

    def fetch(self, into: Room) -> int:
        count = into.put(self.source)
        self.source = self.source[count:]
        return count

    def drained(self) -> None:
        self.flow()

    def flow(self) -> None:
        while self.source and (room := self.awaited) is not None:
            self.filled(self.fetch(room))
        if self.source and (space := self.ahead):
            ahead, self.source = self.source[:space], self.source[space:]
            self.send(ahead)


class GuestOfSpring(Guest):
    pipe: Spring

    def __init__(self) -> None:
        super().__init__(Spring)


@pytest.mark.spec("STR-9")
def test_what_a_guest_that_waits_does_not_ask_for_stays_where_it_is() -> None:
    guest = GuestOfSpring()
    assert guest.waits_for(3).outcome is None
    guest.pipe.source = b"0123456789"
    guest.pipe.flow()
    assert guest.pipe.source == b"3456789" and guest.get(Param.RX_BYTES) == 0
    assert guest.waits_for(3).outcome == b"345"
    guest.pipe.flow()
    assert guest.pipe.source == b"6789"


@pytest.mark.parametrize("how", ["read", "trigger"])
@pytest.mark.spec("STR-9")
def test_a_guest_that_wants_to_be_told_again_is(how: str) -> None:
    guest = GuestOfSpring()
    waiting = guest.waits_for(3)
    guest.pipe.source = b"0123"
    guest.pipe.flow()
    assert waiting.outcome == b"012"
    if how == "read":
        assert guest.read(1) == b"3"  # at once, rather than WouldBlock with a byte at hand
        with pytest.raises(WouldBlock):
            guest.read(1)
        before = guest.counts[RX_READY]
        guest.pipe.source = b"4567"
        guest.pipe.flow()
    else:
        before = guest.counts[RX_READY]
        guest.set(Param.RX_TRIGGER, SIZE - 1)
    assert guest.get(Param.RX_BYTES) and not guest.pipe.source
    assert guest.counts[RX_READY] == before + 1


def test_the_next_guest_is_told_again() -> None:
    guest = GuestOfSpring()
    guest.waits_for(3)
    guest.site.reset()
    guest.pipe.source = b"typed"
    guest.pipe.flow()
    assert guest.get(Param.RX_BYTES) == 5


def test_room_is_filled_from_the_start_as_far_as_a_turn_has_time() -> None:
    views = [memoryview(bytearray(count)) for count in (0, 5, MOST)]
    assert first(views) is views[1] and len(first(views[2:])) == MOST
    assert len(first([memoryview(bytearray(MOST + 1))])) == MOST
    with pytest.raises(ValueError, match="no room"):
        first(views[:1])


def test_of_many_writes_that_waited_some_are_taken_in_each_turn(guest: Guest) -> None:
    guest.waits_with(b"a")
    waiting = [guest.waits_with(bytes(SIZE)) for _ in range(10)]
    guest.pipe.takes = 1 << 30
    guest.pipe.transmit()
    assert sum(each.outcome is not None for each in waiting) == MOST // SIZE
    assert waiting[0].outcome == SIZE and guest.waits_with(b"z").outcome is None
    for _ in range(3):
        guest.clock.turn(0)
    assert all(each.outcome == SIZE for each in waiting) and len(guest.pipe.taken) == 10 * SIZE + 2


def test_what_waits_in_the_device_may_be_forgotten_and_what_waits_for_it_comes(guest: Guest) -> None:
    guest.waits_with(b"a" * SIZE)
    waiting = guest.waits_with(b"b")
    guest.pipe.forget()
    guest.pipe.takes = 10
    guest.clock.turn(0)
    assert waiting.outcome == 1 and guest.pipe.taken == b"b"


def test_who_reads_or_writes_in_a_way_of_its_own_does_not_wait_in_another() -> None:
    class Careful(Stream):
        compatible = "test,careful"

        def write(self, data: Data, at: int) -> int:
            return super().write(data, at)

    class More(Careful):
        pass

    class Waits(Stream):
        compatible = "test,careful"

        def write(self, data: Data, at: int) -> int:
            return super().write(data, at)

        def wait_write(self, data: Data) -> int | Later[int]:
            return super().write(data, 0)

    names = [{handler.name for handler in model.declares.handlers if handler.waits} for model in (Careful, More, Waits)]
    assert names == [{"wait_read"}, {"wait_read"}, {"wait_read", "wait_write"}]


SIZES = st.sampled_from([1, 10, 1000, SIZE - 1, SIZE])
STEPS = st.lists(st.tuples(st.sampled_from(["write", "wait", "take", "give up"]), SIZES), max_size=30)


@given(STEPS)
@pytest.mark.spec("S-7", "STR-7")
def test_all_that_was_taken_is_passed_on_in_order_and_once(steps: list[tuple[str, int]]) -> None:
    guest = Guest()
    expected, given = b"", 0
    waiting: list[tuple[Answer, bytes]] = []
    for what, size in [*steps, ("take", 1 << 30)]:
        given += 1
        data = bytes([given]) * min(size, SIZE)
        if what == "write":
            try:
                expected += data[: guest.write(data)]
            except WouldBlock:
                continue
            assert not any(answer.outcome is None for answer, _ in waiting)
        elif what == "wait":
            answer = guest.waits_with(data)
            waiting.append((answer, data))
            if answer.outcome is not None:
                expected += data
        elif what == "give up":
            for answer, _ in [each for each in waiting if each[0].outcome is None][:1]:
                assert isinstance(answer.later, Later)
                answer.later.abandon()
        else:
            before = [each for each in waiting if each[0].outcome is None]
            guest.pipe.takes += size
            guest.pipe.transmit()
            for _ in range(30):
                guest.clock.turn(0)
            taken = [answer.outcome for answer, _ in before]
            assert all(now is not None or later is None for now, later in pairwise(taken))
            expected += b"".join(data for answer, data in before if answer.outcome is not None)
    assert guest.pipe.taken == expected


@pytest.mark.spec("STR-7")
def test_what_waits_is_in_no_more_pieces_than_a_turn_ends(guest: Guest) -> None:
    guest.waits_with(b"a")
    for count in (16, 17):
        data = memory_of().data((bytes(SIZE // 16),) * count)
        with contextlib.nullcontext() if count == 16 else pytest.raises(BadArea, match="16 pieces"):
            assert isinstance(guest.pipe.wait_write(data), Later)


def test_a_write_that_waits_keeps_none_of_the_host_memory(guest: Guest) -> None:
    guest.waits_with(b"a")
    data = memory_of().data((bytes(SIZE),))
    guest.pipe.wait_write(data)
    assert guest.pipe.waiting == 1
