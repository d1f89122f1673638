"""The vuart by itself: buffers, triggers, mask and end, each against the rule and not against the code."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pipe import DISCONNECT, RX, SIZE, TX, VECTORS, Guest, Pipe
from raw import memory_of, plugged

from hcall.clock import ManualClock
from hcall.errors import BadArgument, IoError, WouldBlock
from hcall.formats.vuart import Param
from hostd.calls.vectors import Vectors


@pytest.fixture
def guest() -> Guest:
    return Guest()


def counts(rx_ready: int = 0, tx_ready: int = 0, disconnected: int = 0) -> dict[str, int]:
    return {"rx_ready": rx_ready, "tx_ready": tx_ready, "disconnected": disconnected}


@pytest.mark.parametrize("waiting", [1, 2, 4096, SIZE])
@pytest.mark.spec("STR-3")
def test_rx_ready_comes_when_so_few_bytes_are_free(guest: Guest, waiting: int) -> None:
    guest.set(Param.RX_TRIGGER, SIZE - waiting)
    guest.pipe.send(bytes(waiting - 1))
    assert guest.counts == counts()
    guest.pipe.send(b"x")
    assert guest.counts == counts(rx_ready=1)
    guest.pipe.send(b"y")  # still true: nothing new
    assert guest.counts == counts(rx_ready=1)
    while guest.get(Param.RX_BYTES) >= waiting:
        guest.read(4096)
    guest.pipe.send(bytes(SIZE))
    assert guest.counts == counts(rx_ready=2)


@pytest.mark.parametrize("free", [1, 2, 4096, SIZE])
@pytest.mark.spec("STR-3")
def test_tx_ready_comes_when_so_many_bytes_may_be_written(guest: Guest, free: int) -> None:
    guest.set(Param.TX_TRIGGER, free)
    assert guest.write(bytes(SIZE)) == SIZE
    guest.pipe.takes = free - 1
    guest.pipe.transmit()
    assert guest.counts == counts() and guest.get(Param.TX_BYTES) == SIZE - free + 1
    guest.pipe.takes = 1
    guest.pipe.transmit()
    assert guest.counts == counts(tx_ready=1)


def test_the_triggers_at_first_are_one_byte_of_room_and_one_byte_that_waits(guest: Guest) -> None:
    assert (guest.get(Param.TX_TRIGGER), guest.get(Param.RX_TRIGGER)) == (1, 65535)
    assert guest.get(Param.INTERRUPT_MASK) == TX | RX | DISCONNECT
    assert guest.get(Param.RX_BUF_SIZE) == guest.get(Param.TX_BUF_SIZE) == SIZE


@pytest.mark.parametrize(
    ("bit", "name", "become_true"),
    [
        (TX, "tx_ready", lambda guest: None),  # there is room from the start
        (RX, "rx_ready", lambda guest: guest.pipe.send(b"x")),
        (DISCONNECT, "disconnected", lambda guest: guest.pipe.hang_up()),
    ],
)
@pytest.mark.spec("STR-3", "STR-5")
def test_a_masked_condition_is_told_once_it_is_enabled(
    guest: Guest, bit: int, name: str, become_true: Callable[[Guest], object]
) -> None:
    guest.set(Param.INTERRUPT_MASK, 0)
    become_true(guest)
    assert guest.counts == counts() and guest.get(Param.INTERRUPT_STATUS) & bit
    guest.set(Param.INTERRUPT_MASK, bit)
    assert guest.counts == counts(**{name: 1})
    guest.set(Param.INTERRUPT_MASK, bit)  # it was enabled already
    assert guest.counts == counts(**{name: 1})
    guest.set(Param.INTERRUPT_MASK, 0)
    guest.set(Param.INTERRUPT_MASK, bit)
    assert guest.counts == counts(**{name: 2})


@pytest.mark.parametrize("mask", [0, TX | RX | DISCONNECT])
def test_the_status_shows_what_is_true_enabled_or_not(guest: Guest, mask: int) -> None:
    guest.set(Param.INTERRUPT_MASK, mask)
    assert guest.get(Param.INTERRUPT_STATUS) == TX
    guest.pipe.send(b"x")
    assert guest.get(Param.INTERRUPT_STATUS) == TX | RX
    guest.write(bytes(SIZE))
    assert guest.get(Param.INTERRUPT_STATUS) == RX
    guest.pipe.hang_up()
    assert guest.get(Param.INTERRUPT_STATUS) == TX | RX | DISCONNECT


@pytest.mark.parametrize(
    ("param", "value"),
    [(0, 0), (0, SIZE + 1), (0, -1), (1, -1), (1, SIZE), (2, -1), (2, 8), (8, 0), (-1, 0), (1 << 40, 1)]
    + [(param, 1) for param in range(3, 8)],
)
@pytest.mark.spec("STR-5")
def test_a_parameter_out_of_range_is_refused_and_changes_nothing(guest: Guest, param: int, value: int) -> None:
    before = [guest.pipe.get_param(each) for each in range(8)]
    with pytest.raises(BadArgument):
        guest.pipe.set_param(param, value)
    assert [guest.pipe.get_param(each) for each in range(8)] == before
    if not 0 <= param < 8:
        with pytest.raises(BadArgument):
            guest.pipe.get_param(param)


@pytest.mark.parametrize(("param", "value"), [(0, 1), (0, SIZE), (1, 0), (1, SIZE - 1), (2, 0), (2, 7)])
def test_a_parameter_at_the_edge_of_its_range_is_taken(guest: Guest, param: int, value: int) -> None:
    guest.pipe.set_param(param, value)
    assert guest.pipe.get_param(param) == value


@pytest.mark.spec("STR-1", "STR-2")
def test_counts_are_short_before_a_call_would_block(guest: Guest) -> None:
    assert guest.write(bytes(SIZE - 10)) == SIZE - 10
    assert guest.write(bytes(100)) == 10
    with pytest.raises(WouldBlock):
        guest.write(b"x")
    assert guest.pipe.send(bytes(SIZE - 10)) == SIZE - 10
    assert guest.pipe.send(b"0123456789abc") == 10 and guest.pipe.space == 0
    assert guest.read(SIZE - 10) == bytes(SIZE - 10)
    assert guest.read(100) == b"0123456789"
    with pytest.raises(WouldBlock):
        guest.read(1)
    assert guest.pipe.asked == 2  # the model was asked for more after each read


@pytest.mark.spec("S-7")
def test_what_could_not_go_on_at_once_goes_in_order_later(guest: Guest) -> None:
    guest.pipe.takes = 3
    assert guest.write(b"abcdef") == 6 and guest.write(b"ghi") == 3
    guest.pipe.takes = 100
    guest.pipe.transmit()
    assert guest.pipe.taken == b"abcdefghi" and guest.get(Param.TX_BYTES) == 0


def test_a_write_of_far_too_much_is_short_and_copies_no_more_than_a_buffer(guest: Guest) -> None:
    pieces = memory_of().data((b"x" * 40_000,) * 1000)
    guest.pipe.takes = 100
    tracemalloc.start()
    assert guest.pipe.write(pieces, 0) == SIZE
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * SIZE  # of 40 MB
    assert guest.get(Param.TX_BYTES) == SIZE - 100 and guest.pipe.taken == b"x" * 100


def test_what_the_model_takes_at_once_is_not_kept(guest: Guest) -> None:
    guest.pipe.takes = 2 * SIZE
    assert [guest.write(b"a" * SIZE), guest.write(b""), guest.write(b"b" * SIZE)] == [SIZE, 0, SIZE]
    assert guest.pipe.taken == b"a" * SIZE + b"b" * SIZE and guest.get(Param.TX_BYTES) == 0
    assert guest.counts == counts()


def test_what_is_written_as_the_other_end_goes_stays_where_it_is(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest.pipe, "written", lambda data: guest.pipe.hang_up() or 0)
    assert guest.write(b"lost") == 4
    assert guest.get(Param.TX_BYTES) == 4 and guest.counts == counts(rx_ready=1, disconnected=1)


@pytest.mark.spec("STR-4")
def test_the_end_wakes_a_guest_that_waits_for_room(guest: Guest) -> None:
    guest.write(bytes(SIZE))
    with pytest.raises(WouldBlock):
        guest.write(b"x")
    guest.pipe.hang_up()
    assert guest.counts == counts(rx_ready=1, tx_ready=1, disconnected=1)
    with pytest.raises(IoError):
        guest.write(b"x")


@pytest.mark.spec("STR-1", "STR-2", "STR-4")
def test_the_end_comes_after_what_waits_and_stays(guest: Guest) -> None:
    guest.write(b"will not be sent")
    guest.pipe.send(b"last words")
    guest.pipe.hang_up()
    assert guest.counts == counts(rx_ready=1, disconnected=1)
    assert [guest.read(5) for _ in range(4)] == [b"last ", b"words", b"", b""]
    with pytest.raises(IoError):
        guest.write(b"x")
    guest.pipe.takes = 100
    guest.pipe.transmit()
    assert guest.get(Param.TX_BYTES) == 16  # what could not be sent any more
    assert guest.pipe.taken == b"" and guest.counts == counts(rx_ready=1, disconnected=1)


def test_the_end_wakes_a_guest_that_waits_for_more_bytes_than_will_come(guest: Guest) -> None:
    guest.set(Param.RX_TRIGGER, SIZE - 1000)
    guest.pipe.send(b"few")
    assert guest.counts == counts()
    guest.pipe.hang_up()
    assert guest.counts == counts(rx_ready=1, disconnected=1)


@pytest.mark.parametrize(
    "use",
    [
        lambda guest: guest.read(1),
        lambda guest: guest.write(bytes(SIZE)),
        lambda guest: guest.set(Param.RX_TRIGGER, 5),
        lambda guest: guest.set(Param.INTERRUPT_MASK, 0),
    ],
)
@pytest.mark.spec("STR-6")
def test_reset_leaves_nothing_of_a_guest(guest: Guest, use: Callable[[Guest], object]) -> None:
    guest.pipe.send(b"secret")
    use(guest)
    guest.pipe.hang_up()
    guest.site.reset()
    assert [guest.pipe.get_param(param) for param in range(8)] == [1, 65535, 7, SIZE, 0, SIZE, 0, TX]
    with pytest.raises(WouldBlock):
        guest.read(1)
    guest.pipe.takes = 100
    guest.pipe.transmit()
    assert guest.pipe.taken == b""


def test_reset_leaves_nothing_to_the_next_that_came_while_a_guest_only_waited(guest: Guest) -> None:
    guest.pipe.send(b"secret")
    guest.site.reset()
    with pytest.raises(WouldBlock):
        guest.read(100)
    guest.pipe.hang_up()
    guest.site.reset()
    with pytest.raises(WouldBlock):
        guest.read(100)


@pytest.mark.spec("STR-6")
def test_reset_keeps_what_came_before_anybody_looked(guest: Guest) -> None:
    guest.site.live.clear()
    guest.pipe.send(b"boot ")
    guest.site.reset()
    guest.pipe.send(b"messages")
    guest.pipe.hang_up()
    guest.site.reset()
    assert [guest.read(100), guest.read(100)] == [b"boot messages", b""]


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.spec("STR-3")
def test_what_is_true_when_a_guest_is_ready_is_told_once(ended: bool) -> None:
    pipe = Pipe()
    site = plugged(pipe)
    pipe.start()
    pipe.send(b"boot messages")
    if ended:
        pipe.hang_up()  # nobody could be told: no handle is open
    site.reset()
    vectors = Vectors(lambda vector, count: None)
    site.live[vectors] = None
    pipe.ready()
    pipe.set_param(Param.INTERRUPT_MASK, TX | RX | DISCONNECT)
    counted = {name: vectors.count(pipe.declares.irqs.index(name)) for name in VECTORS}
    assert counted == counts(rx_ready=1, tx_ready=1, disconnected=ended)


LENGTHS = st.sampled_from([0, 1, 2, 100, SIZE - 1, SIZE])
STEPS = st.one_of(
    st.tuples(st.sampled_from(["send", "read", "write", "take"]), LENGTHS),
    st.tuples(st.just("mask"), st.integers(0, 7)),
    st.tuples(st.just("tx"), LENGTHS.filter(bool)),
    st.tuples(st.just("rx"), st.sampled_from([0, 1, 100, SIZE - 2, SIZE - 1])),
    st.tuples(st.just("hang up"), st.just(0)),
)


@given(st.lists(STEPS, max_size=30))
@pytest.mark.spec("STR-3", "STR-5")
def test_an_interrupt_counts_whenever_condition_and_mask_become_true_together(steps: list[tuple[str, int]]) -> None:
    guest = Guest()
    waits_rx = waits_tx = 0
    tx_trigger, rx_trigger, mask, closed = 1, SIZE - 1, 7, False
    told = [False, True, False]  # RX, TX, DISCONNECT: room at first is nothing new
    expected = [0, 0, 0]
    for what, value in steps:
        if what == "send" and not closed:
            waits_rx += guest.pipe.send(bytes(value))
        elif what == "read" and (waits_rx or closed):
            waits_rx -= len(guest.read(value))
        elif what == "write" and not closed and waits_tx < SIZE:
            waits_tx += guest.write(bytes(value))
        elif what == "take" and not closed:
            guest.pipe.takes = value
            guest.pipe.transmit()
            waits_tx = max(0, waits_tx - value)
            guest.pipe.takes = 0
        elif what == "mask":
            guest.set(Param.INTERRUPT_MASK, mask := value)
        elif what == "tx":
            guest.set(Param.TX_TRIGGER, tx_trigger := value)
        elif what == "rx":
            guest.set(Param.RX_TRIGGER, rx_trigger := value)
        elif what == "hang up":
            guest.pipe.hang_up()
            closed = True
        true = [SIZE - waits_rx <= rx_trigger or closed, SIZE - waits_tx >= tx_trigger or closed, closed]
        for n, bit in enumerate((RX, TX, DISCONNECT)):
            now = true[n] and bool(mask & bit)
            expected[n] += now and not told[n]
            told[n] = now
        assert guest.counts == counts(*expected)
        assert (guest.get(Param.RX_BYTES), guest.get(Param.TX_BYTES)) == (waits_rx, waits_tx)


def test_a_model_that_takes_parts_gets_one_in_each_turn() -> None:
    class Parts(Pipe):
        part = 1000

    pipe = Parts()
    site = plugged(pipe, clock=(clock := ManualClock()))
    pipe.start()
    site.live[Vectors(lambda vector, count: None)] = None
    pipe.takes = 1 << 20
    assert pipe.write(memory_of().data((bytes(range(250)) * 10,)), 0) == 2500
    assert (len(pipe.taken), pipe.waiting) == (1000, 1500)
    assert pipe.write(memory_of().data((b"more",)), 0) == 4
    pipe.transmit()
    assert len(pipe.taken) == 1000  # whatever happens meanwhile
    saved = pipe.save()
    clock.turn(0)
    assert pipe.taken == bytes(range(250)) * 10 + b"more" and not pipe.waiting

    other = Parts()
    plugged(other, clock=clock)
    other.start()
    other.takes = 1 << 20
    other.load(saved)
    assert not other.taken
    clock.turn(0)
    assert other.taken == pipe.taken[1000:]
