"""The queue of an input device against the plainest model there is: everything that was sent, in a list."""

from __future__ import annotations

from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.errors import BadArgument, WouldBlock
from hcall.formats.input import DROPPED, EV_KEY, EV_MSC, EV_REL, Event, Packet, Packets
from hostd.backings.parts.event_queue import QUEUE, EventQueue

A, B, LEFT = 30, 48, 0x110
X, Y, WHEEL = 0, 1, 8
Segment: TypeAlias = "tuple[tuple[Event, ...], dict[int, int]]"  # edges of one packet, and the motion after them


def key(code: int, value: int) -> Packet:
    return Packet(1, (Event(EV_MSC, 4, code), Event(EV_KEY, code, value)))


def motion(**axes: int) -> Packet:
    return Packet(1, tuple(Event(EV_REL, {"x": X, "y": Y, "wheel": WHEEL}[name], n) for name, n in axes.items()))


KEYS = st.builds(key, st.sampled_from([A, B, LEFT]), st.sampled_from([0, 1, 2]))
MOTION = st.dictionaries(
    st.sampled_from(["x", "y", "wheel"]), st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(-3, 3), min_size=1
).map(lambda axes: motion(**axes))
BOTH = st.builds(lambda a, b: Packet(1, a.events + b.events), MOTION, KEYS)  # a click while it moves
STEPS = st.lists(KEYS | MOTION | BOTH | st.integers(72, 500), max_size=60)


def segments(packets: list[Packet]) -> list[Segment]:
    """What must survive: every edge in its order, and the sum of the motion between edges."""
    found: list[Segment] = [((), {})]
    for packet in packets:
        edges = tuple(event for event in packet.events if event.type == EV_KEY)
        sums = dict(found[-1][1])
        if edges:
            found.append((edges, sums := {}))
        for event in packet.events:
            if event.type == EV_REL:
                sums[event.code] = sums.get(event.code, 0) + event.value
        found[-1] = (found[-1][0], {code: total for code, total in sums.items() if total})
    return found


def news(packets: list[Packet]) -> list[Packet]:
    """What the kernel passes on: changes, and repeats of what is down."""
    down: set[int] = set()
    passed = []
    for packet in packets:
        events = []
        for event in packet.events:
            if event.type == EV_KEY:
                changes = event.code in down if event.value == 2 else (event.code in down) != bool(event.value)
                if event.value == 1:
                    down.add(event.code)
                elif event.value == 0:
                    down.discard(event.code)
                if not changes:
                    continue
            events.append(event)
        passed.append(packet._replace(events=tuple(events)))
    return passed


def take(queue: EventQueue, room: int = 1 << 20) -> list[Packet]:
    return Packets().feed(queue.take(room))


def drain(queue: EventQueue) -> list[Packet]:
    found = []
    while True:
        try:
            found += take(queue)
        except WouldBlock:
            return found


@given(STEPS)
@pytest.mark.spec("HID-5")
def test_every_edge_comes_in_its_order_with_the_motion_between(steps: list[Packet | int]) -> None:
    queue = EventQueue()
    sent: list[Packet] = []
    received: list[Packet] = []
    for step in steps:
        if isinstance(step, Packet):
            sent.append(step)
            queue.put(step)
        else:  # the guest reads so many bytes: 72 or more, a packet of two
            try:
                received += take(queue, max(step, 24 * 6))
            except WouldBlock:
                assert segments(received) == segments(news(sent))
    received += drain(queue)
    assert segments(received) == segments(news(sent))
    assert queue.known == down_after(sent)


def down_after(packets: list[Packet]) -> set[int]:
    """The keys that are down in the end."""
    last = {event.code: event.value for packet in packets for event in packet.events
            if event.type == EV_KEY and event.value != 2}  # fmt: skip
    return {code for code, value in last.items() if value}


@given(st.lists(KEYS, max_size=30), st.lists(KEYS, max_size=30))
@pytest.mark.spec("HID-3", "HID-4")
def test_after_an_overflow_the_state_is_told_and_what_comes_then_follows_it(
    before: list[Packet], after: list[Packet]
) -> None:
    sent = [*before, *(key(B, n % 2) for n in range(QUEUE)), *after]
    queue = EventQueue()
    for packet in sent:
        queue.put(packet)
    assert take(queue) == [Packet(1, (DROPPED,))]
    down = set(queue.known)
    for event in (event for packet in drain(queue) for event in packet.events):
        if event.type == EV_KEY and event.value != 2:
            assert (event.code in down) != bool(event.value), "an edge that is none after that state"
            down ^= {event.code}
    assert down == queue.known == down_after(sent)


def test_a_full_queue_is_emptied_and_says_so_once() -> None:
    queue = EventQueue()
    fits = QUEUE // 3  # two events and a report each
    for n in range(fits):
        assert queue.put(key(A, (n + 1) % 2))
    assert queue.room < 3
    assert len(drain(queue)) == fits
    for n in range(fits, 3 * fits + 1):
        queue.put(key(A, (n + 1) % 2))
    packets = drain(queue)
    assert packets[0].dropped and not any(packet.dropped for packet in packets[1:])
    assert queue.room == QUEUE


def test_motion_never_fills_the_queue() -> None:
    queue = EventQueue()
    for _ in range(10 * QUEUE):
        queue.put(motion(x=3, y=-2))
    assert drain(queue) == [motion(x=30 * QUEUE, y=-20 * QUEUE)]


def test_motion_there_and_back_is_none() -> None:
    queue = EventQueue()
    queue.put(motion(x=5))
    queue.put(motion(x=-5))
    with pytest.raises(WouldBlock):
        queue.take(4096)
    assert queue.room == QUEUE


def test_motion_that_has_been_read_is_not_added_to() -> None:
    queue = EventQueue()
    queue.put(motion(x=1))
    assert take(queue) == [motion(x=1)]
    queue.put(motion(x=2))
    assert take(queue) == [motion(x=2)]


def test_sums_stop_where_a_record_has_no_more_room() -> None:
    queue = EventQueue()
    most = (1 << 31) - 1
    for n in (most, 1, most - 1, 5, -most, -most - 1):
        queue.put(motion(x=n))
    assert drain(queue) == [motion(x=most), motion(x=most), motion(x=5 - most), motion(x=-most - 1)]


@pytest.mark.parametrize("room", [0, 1, 24, 71])
@pytest.mark.spec("HID-1")
def test_a_packet_is_never_cut_and_stays_if_there_is_no_room(room: int) -> None:
    queue = EventQueue()
    queue.put(key(A, 1))
    with pytest.raises(BadArgument, match="72 bytes"):
        queue.take(room)
    assert queue.known == set() and take(queue, 72) == [key(A, 1)] and queue.known == {A}


@pytest.mark.spec("HID-1")
def test_read_gives_all_whole_packets_that_fit() -> None:
    queue = EventQueue()
    for n in range(10):
        queue.put(key(A, (n + 1) % 2))
    assert [len(take(queue, 4 * 72 + 71)), len(take(queue, 1 << 20))] == [4, 6]


@pytest.mark.parametrize(
    "packet", [key(A, 0), key(A, 2), motion(x=0), Packet(1, ()), Packet(1, (Event(EV_MSC, 4, 1),))]
)
def test_what_changes_nothing_is_no_event(packet: Packet) -> None:
    queue = EventQueue()
    assert not queue.put(packet)
    with pytest.raises(WouldBlock):
        queue.take(4096)
