"""Whatever bytes come, a session ends by its own violation or takes only what docs/protocol.md allows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from session_ends import HELLO_HERE, HELLO_WITH_BUNDLES, LAST_WORD, call, ready_guest, ready_host, welcome

from hcall.errors import ProtocolViolation
from hcall.messages import ACK, CALL, CALLS, END, IRQ, MAX_SLOTS, REPLIES, REPLY, VERSION, WELCOME, Hello
from hcall.session.host import HostSession
from hcall.session.states import State
from hcall.wire import Decoder, encode

U64 = range(1 << 64)
I64 = range(-(1 << 63), 1 << 64)
edges = st.sampled_from([-(1 << 63), -1, 0, 1, 2, 3, 31, 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
scalars = st.none() | st.booleans() | edges | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(scalars, inner, max_size=3), max_leaves=8
)
lists = st.lists(anything, max_size=3)
small = st.integers(0, 4)
near = st.one_of(
    st.tuples(st.just(CALL), small, small, edges, edges, lists, lists),
    st.tuples(st.just(REPLY), small, small, small, anything),
    st.tuples(st.just(CALLS), small, small, edges, edges, st.lists(lists, max_size=3), st.lists(lists, max_size=3)),
    st.tuples(st.just(REPLIES), small, small, small, small | st.lists(small | st.none(), max_size=3), lists),
    st.tuples(st.sampled_from([ACK, IRQ]), edges, small, edges),
    st.tuples(st.just(WELCOME), small, edges, edges, edges, st.booleans()),
    st.tuples(st.just(END), edges, st.text(max_size=5), edges, edges),
    st.just(tuple(HELLO_HERE)),
)


@st.composite
def almost(draw: st.DrawFn) -> list[Any]:
    """A message, or one with a place that is changed, left out or added."""
    message = list(draw(near))
    for _ in range(draw(st.integers(0, 1))):
        at = draw(st.integers(0, len(message)))
        message[at : at + draw(st.integers(0, 1))] = draw(st.lists(anything, max_size=1))
    return message


@st.composite
def rubbish(draw: st.DrawFn) -> bytes:
    """Messages, some bytes of which are changed, lost or added."""
    data = bytearray(b"".join(encode(message) for message in draw(st.lists(almost() | anything, max_size=4))))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(data)


def is_call(message: Any) -> bool:
    kind, slot, seq, number, handle, args, areas = message
    numbers = (kind, slot, seq, number, handle)
    if kind == CALLS:
        assert len(args) == len(areas) > 0 and {*map(type, args + areas)} == {tuple}
    return (
        kind in (CALL, CALLS)
        and {*map(type, numbers)} == {int}
        and type(args) is type(areas) is tuple
        and handle in I64
    )


def is_ack(message: Any) -> bool:
    return len(message) == 4 and {*map(type, message)} == {int} and message[0] == ACK and min(message[2:]) >= 0


def ends(messages: list[Any]) -> bytes:
    return b"".join(map(encode, messages))


parts = st.sampled_from([1, 2, 7, 1 << 20])


@settings(max_examples=400)
@given(st.lists(almost(), max_size=4).map(ends) | rubbish(), parts)
@example(encode((ACK, 1, -1, 1)), 1)
@example(encode((ACK, 1, 0, -1)), 1)
@pytest.mark.spec("E-3", "E-7")
def test_a_host_takes_calls_and_acks_and_nothing_else(data: bytes, part: int) -> None:
    host, taken = ready_host(hello=HELLO_WITH_BUNDLES), 0
    for at in range(0, len(data), part):
        for message in host.receive(data[at : at + part]):
            assert is_ack(message) or (len(message) == 7 and is_call(message))
            taken += 0 if len(message) != 7 else len(message[5]) if message[0] == CALLS else 1
        if host.broken is not None:
            assert isinstance(host.broken, ProtocolViolation) and str(host.broken)
            break
    assert host.calls == taken and not host.out and host.state is State.READY


@settings(max_examples=400)
@given(st.lists(almost(), max_size=4).map(ends) | rubbish(), parts)
@pytest.mark.spec("E-8", "K-1")
def test_a_guest_takes_what_a_host_may_say_and_nothing_else(data: bytes, part: int) -> None:
    guest = ready_guest(hello=HELLO_WITH_BUNDLES)
    guest.call(9, 0x10010, (0,), (), "call 0")
    for n in range(1, 4):
        guest.queue(9, 0x10010, (n,), (), f"call {n}")
    guest.pack()
    answered = []
    for at in range(0, len(data), part):
        answers, interrupts = guest.receive(data[at : at + part])
        answered += [waiter for waiter, *_ in answers]
        assert all(type(status) is int for _, status, _ in answers)
        assert all(len(irq) == 4 and irq[0] == IRQ and {*map(type, irq)} == {int} for irq in interrupts)
        if guest.broken is not None:
            assert isinstance(guest.broken, ProtocolViolation) and str(guest.broken)
            break
    assert (guest.state is State.ENDED) == (guest.last is not None)
    assert len({*answered}) == len(answered)
    assert sorted([*answered, *guest.end()]) == [f"call {n}" for n in range(4)]  # each is answered, or waits on


@settings(max_examples=400)
@given(st.lists(almost(), min_size=1, max_size=2).map(ends) | rubbish(), parts)
@example(encode((4.0, *HELLO_HERE[1:])), 1)
@pytest.mark.spec("H-2")
def test_a_host_is_greeted_by_a_hello_and_nothing_else(data: bytes, part: int) -> None:
    host, hello = HostSession(), None
    try:
        for at in range(0, len(data), part):
            hello = host.greet(data[at : at + part]) if hello is None else hello
    except ProtocolViolation:
        assert host.state is State.GREETING
        return
    if hello is None:
        assert host.state is State.GREETING
        return
    assert [*map(type, hello)] == [int, str, int, int, int, str, bytes, tuple] and hello == Hello.check(tuple(hello))
    assert hello.lowest <= VERSION <= hello.highest and hello.features in U64 and len(hello.token) == 16


@settings(max_examples=200)
@given(almost())
def test_a_guest_is_welcomed_or_refused_and_nothing_else(message: list[Any]) -> None:
    guest = ready_guest()
    guest.lose()
    guest.greet(HELLO_HERE)
    assert guest.receive(encode(message)) == ([], [])
    if guest.broken is None and guest.state is State.READY:
        kind, version, features, epoch, slots, resumed = message
        assert (kind, version, resumed) == (WELCOME, VERSION, True)
        assert features in U64 and 0 < epoch < 1 << 15 and 0 < slots <= MAX_SLOTS
    elif guest.broken is None:
        assert message[0] == END and guest.state is State.ENDED


@pytest.mark.parametrize(
    ("message", "good"), [((ACK, -1, 0, 1), True), ((ACK, 9, -1, 1), False), ((ACK, 9, 0, -1), False)]
)
@pytest.mark.spec("I-3")
def test_a_handle_that_never_was_does_no_harm_and_other_numbers_are_not_negative(message: object, good: bool) -> None:
    host = ready_host()
    assert len(host.receive(encode(message))) == good and (host.broken is None) == good


@pytest.mark.parametrize("levels", [61, 62, 63])
def test_a_call_of_too_many_levels_ends_the_session(levels: int) -> None:
    """Its own two are counted."""
    host, data = ready_host(), b"\x97\x00\x00\x01\x10\x09\x91" + b"\x91" * (levels - 1) + b"\x90" + b"\x90"
    taken = host.receive(encode((ACK, 9, 0, 1)) + data)
    assert len(taken) == 1 + (levels < 63) and (host.broken is None) == (levels < 63)


def test_what_the_decoder_gives_is_what_the_session_was_told() -> None:
    """The last word, a call and a welcome, each cut anywhere, are one message each."""
    for data in (encode(LAST_WORD), encode(call(0, 1)), welcome()):
        for at in range(len(data)):
            decoder = Decoder()
            assert len(decoder.feed(data[:at]) + decoder.feed(data[at:])) == 1
