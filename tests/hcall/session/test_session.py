"""Both ends of a session by their tables of what may happen when; the host's rules of slots and repeats."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from session_ends import DEPTHS, HELLO_HERE, LAST_WORD, UNFIT, Guest, Session, call, deep, ready_host, sent, welcome

from hcall.errors import ProtocolViolation, Status
from hcall.messages import ACK, CALL, END, IRQ, REPLY, VERSION, WELCOME, Welcome
from hcall.session.guest import GuestSession
from hcall.session.host import HostSession
from hcall.session.states import GUEST_MOVES, HOST_MOVES, Event, State
from hcall.wire import Decoder, encode

# Where each event leads, "." = nowhere.  Written from docs/protocol.md, not from the code.
HOST_TABLE = """
          LINK   HELLO  WELCOME CALL   REPLY  IRQ    ACK    RESUME LOSS   END
IDLE      .      .      .       .      .      .      .      .      .      .
GREETING  .      READY  .       .      .      .      .      .      ENDED  ENDED
READY     .      .      .       READY  .      .      READY  READY  LOST   ENDED
LOST      .      .      .       .      .      .      .      READY  .      ENDED
ENDED     .      .      .       .      .      .      .      .      .      .
"""
GUEST_TABLE = """
          LINK     HELLO  WELCOME CALL   REPLY  IRQ    ACK    RESUME LOSS   END
IDLE      GREETING .      .       .      .      .      .      .      .      ENDED
GREETING  .        .      READY   .      .      .      .      .      IDLE   ENDED
READY     .        .      .       .      READY  READY  .      .      IDLE   ENDED
LOST      .        .      .       .      .      .      .      .      .      .
ENDED     .        .      .       .      .      .      .      .      .      .
"""


def host_in(state: State) -> HostSession:
    """A host's session that came to *state* by what really happens."""
    if state is State.GREETING:
        return HostSession(4)
    host = ready_host()
    if state is State.LOST:
        host.lose()
    elif state is State.ENDED:
        host.end(LAST_WORD)
    return host


def guest_in(state: State) -> Guest:
    """The same for a guest's; one that is ready has made a call."""
    guest = Guest()
    if state is not State.IDLE:
        guest.greet(HELLO_HERE)
    if state is State.READY:
        guest.receive(welcome())
        guest.call(9, 0x10010, (), (), "waiter")
    elif state is State.ENDED:
        guest.end()
    return guest


def receive(message: object, session: Session) -> None:
    session.receive(encode(message))
    if session.broken is not None:
        raise session.broken


MESSAGES: dict[Event, object] = {
    Event.HELLO: HELLO_HERE,
    Event.WELCOME: Welcome(WELCOME, VERSION, 0, 1, 4, False),
    Event.CALL: call(0, 1),
    Event.REPLY: (REPLY, 0, 1, 0, None),
    Event.IRQ: (IRQ, 9, 0, 1),
    Event.ACK: (ACK, 9, 0, 1),
    Event.END: LAST_WORD,
}
HOST_HAPPENINGS: dict[Event, Callable[[HostSession], object]] = {
    **{event: partial(receive, message) for event, message in MESSAGES.items()},
    Event.HELLO: lambda host: host.greet(encode(HELLO_HERE)),
    Event.RESUME: HostSession.resume,
    Event.LOSS: HostSession.lose,
    Event.END: lambda host: host.end(LAST_WORD),
}
GUEST_HAPPENINGS: dict[Event, Callable[[Guest], object]] = {
    **{event: partial(receive, message) for event, message in MESSAGES.items()},
    Event.LINK: lambda guest: guest.greet(HELLO_HERE),
    Event.LOSS: GuestSession.lose,
}


def table(text: str) -> dict[tuple[State, Event], State]:
    head, *rows = [line.split() for line in text.strip().splitlines()]
    assert head == [event.name for event in Event] and [row[0] for row in rows] == [state.name for state in State]
    return {
        (State[row[0]], event): State[to] for row in rows for event, to in zip(Event, row[1:], strict=True) if to != "."
    }


def seen(session: Session) -> tuple[object, ...]:
    """All that shows of a session."""
    return session.state, list(session.out), session.calls if isinstance(session, HostSession) else session.busy


def check_move(session: Session, happen: Callable[[Any], object], to: State | None) -> None:
    before = seen(session)
    if to is None:
        with pytest.raises(ProtocolViolation) as caught:
            happen(session)
        assert caught.value.status is Status.BAD_ARGUMENT
        assert seen(session) == before
    else:
        happen(session)
        assert session.state is to


def test_the_tables_are_what_the_protocol_says() -> None:
    assert table(HOST_TABLE) == HOST_MOVES
    assert table(GUEST_TABLE) == GUEST_MOVES


@pytest.mark.parametrize("state", State)
def test_a_move_follows_the_table_or_changes_nothing(state: State) -> None:
    session: Session
    for event in Event:
        for session, text in ((HostSession(), HOST_TABLE), (Guest(), GUEST_TABLE)):
            session.state = state
            check_move(session, partial(move, event), table(text).get((state, event)))


def move(event: Event, session: Session) -> None:
    session.move(event)


@pytest.mark.parametrize("state", [State.GREETING, State.READY, State.LOST, State.ENDED])
def test_what_happens_to_a_host_follows_the_table(state: State) -> None:
    for event, happen in HOST_HAPPENINGS.items():
        check_move(host_in(state), happen, table(HOST_TABLE).get((state, event)))


@pytest.mark.parametrize("state", [State.IDLE, State.GREETING, State.READY, State.ENDED])
def test_what_happens_to_a_guest_follows_the_table(state: State) -> None:
    for event, happen in GUEST_HAPPENINGS.items():
        check_move(guest_in(state), happen, table(GUEST_TABLE).get((state, event)))


# The greeting.


def test_hello_comes_byte_by_byte_and_counts_once() -> None:
    host, data = HostSession(), encode(HELLO_HERE)
    got = [host.greet(data[n : n + 1]) for n in range(len(data))]
    assert got == [None] * (len(data) - 1) + [HELLO_HERE]
    assert host.state is State.READY and not host.partial


@pytest.mark.parametrize("after", [encode(call(0, 1)), encode(HELLO_HERE), encode(call(0, 1))[:1], b"\xc1"])
@pytest.mark.parametrize("whole", [True, False])
def test_nothing_follows_hello(after: bytes, whole: bool) -> None:
    host, data = HostSession(), encode(HELLO_HERE)
    if not whole:
        assert host.greet(data[:5]) is None
        data = data[5:]
    with pytest.raises(ProtocolViolation, match="before WELCOME"):
        host.greet(data + after)
    assert host.state is State.GREETING


@pytest.mark.parametrize("data", [b"\xc1", encode(5), encode(call(0, 1)), b"GET / HTTP/1.1\r\n"])
def test_what_is_no_hello_is_refused(data: bytes) -> None:
    host = HostSession()
    with pytest.raises(ProtocolViolation):
        host.greet(data)
    assert host.state is State.GREETING


# Slots, on the host.  Slot 0 was used and answered by call 1, slot 1 waits for the answer of call 2.


def host_with_two_calls() -> HostSession:
    host = ready_host(slots=4)
    assert host.receive(encode(call(0, 1)) + encode(call(1, 2))) == [call(0, 1), call(1, 2)]
    host.reply(0, 1, 0, "one")
    assert sent(host) == [(REPLY, 0, 1, 0, "one")]
    return host


@pytest.mark.parametrize("slot", [0, 2])
@pytest.mark.spec("S-1", "S-2", "S-3")
def test_a_new_call_takes_an_answered_slot_or_the_next_unused(slot: int) -> None:
    host = host_with_two_calls()
    assert host.receive(encode(call(slot, 3))) == [call(slot, 3)]
    assert host.broken is None and host.calls == 3 and not host.out


@pytest.mark.spec("S-2")
def test_slots_come_into_use_in_order_and_end_at_their_number() -> None:
    host = ready_host(slots=3)
    assert len(host.receive(b"".join(encode(call(n, n + 1)) for n in range(4)))) == 3
    assert host.broken is not None and host.calls == 3


WRONG: list[object] = [
    call(3, 3), call(4, 3), call(64, 3), call(-1, 3), call(-2, 3), call(1 << 63, 3),  # out of turn, out of range
    call(1, 3),  # still waits
    call(0, 4), call(2, 4), call(0, 0), call(0, 2), call(0, -1), call(1, 1), call(0, (1 << 64) - 1),  # no such seq
    call(0, 1), call(1, 2),  # repeated, but the link is the same
    call(False, 3), call(0, 3.0), call(0.0, 3), call(0, 3, number=True), call(0, 3, handle=False), call("0", 3),
    call(0, None), call((), 3), (False, 0, 3, 16, 9, (), ()), (0.0, 0, 3, 16, 9, (), ()),
    (CALL, 0, 3, 16, 9, None, ()), (CALL, 0, 3, 16, 9, b"", ()), (CALL, 0, 3, 16, 9, (), {}), (CALL, 0, 3, 9, 9, (), 1),
    (CALL, 0, 3, 16, 9, ()), (CALL, 0, 3, 16, 9, (), (), 0), (7, 0, 3, 16, 9, (), ()), ({}, 0, 3, 16, 9, (), ()),
    (ACK, 9, 0), (ACK, 9, 0, 1, 1), (ACK, 9, 0, True), (ACK, 9, 0.0, 1), (ACK, "9", 0, 1), (ACK, {}, 0, 1),
    (3.0, 9, 0, 1), (IRQ, 9, 0, 1), (REPLY, 0, 2, 0, None), Welcome(WELCOME, 1, 0, 1, 4, False), HELLO_HERE, LAST_WORD,
    (), 5, None, "CALL", b"", True, {"CALL": 0}, -1.5,
]  # fmt: skip


@pytest.mark.spec("E-7", "S-3")
def test_what_breaks_a_rule_ends_the_session_after_what_came_before() -> None:
    for wrong in WRONG:
        host, ack = host_with_two_calls(), (ACK, 9, 0, 1)
        assert host.receive(encode(ack) + encode(wrong) + encode(call(2, 3))) == [ack], wrong
        assert host.broken is not None and host.broken.status is Status.BAD_ARGUMENT, wrong
        assert host.calls == 2 and not host.out, wrong


def test_calls_before_bytes_that_are_no_message_are_still_given() -> None:
    host = ready_host()
    assert host.receive(encode(call(0, 1)) + b"\xc1" + encode(call(1, 2))) == [call(0, 1)]
    assert host.broken is not None


def test_half_a_message_shows_until_it_is_whole() -> None:
    host, data = ready_host(), encode(call(0, 1))
    assert host.receive(data[:4]) == [] and host.partial
    assert host.receive(data[4:]) == [call(0, 1)] and not host.partial


@pytest.mark.spec("R-4")
def test_a_repeat_on_a_new_link_is_answered_once() -> None:
    host = host_with_two_calls()
    host.resume()
    assert host.receive(encode(call(0, 1)) + encode(call(1, 2)) + encode(call(2, 3))) == [call(2, 3)]
    assert sent(host) == [(REPLY, 0, 1, 0, "one")]
    host.reply(1, 2, 0, "two")
    assert sent(host) == [(REPLY, 1, 2, 0, "two")]


@pytest.mark.parametrize(("slot", "seq"), [(0, 1), (1, 2)])
@pytest.mark.spec("R-5")
def test_a_second_repeat_on_one_link_is_a_violation_and_on_the_next_link_is_none(slot: int, seq: int) -> None:
    host = host_with_two_calls()
    host.lose()
    for _ in range(2):
        host.resume()
        assert host.receive(encode(call(slot, seq))) == [] and host.broken is None
        answered = sent(host)
        assert answered == ([(REPLY, 0, 1, 0, "one")] if slot == 0 else [])
    assert host.receive(encode(call(slot, seq))) == [] and host.broken is not None
    assert not host.out


@pytest.mark.parametrize(("slot", "seq"), [(0, 2), (1, 1), (2, 2), (-2, 1), (-1, 2), (0, 0)])
def test_only_the_call_of_a_slot_can_be_repeated_in_it(slot: int, seq: int) -> None:
    host = host_with_two_calls()
    host.resume()
    assert host.receive(encode(call(slot, seq))) == [] and host.broken is not None
    assert not host.out


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.spec("R-6")
def test_a_late_answer_waits_until_its_call_is_repeated(lost: bool) -> None:
    host = host_with_two_calls()
    if lost:  # else the guest is back before anybody saw that the link broke
        host.lose()
        host.reply(1, 2, 0, "two")
        host.resume()
    else:
        host.resume()
        host.reply(1, 2, 0, "two")
    assert not host.out
    host.receive(encode(call(1, 2)))
    assert sent(host) == [(REPLY, 1, 2, 0, "two")]


@pytest.mark.parametrize("seq", [1, 3])
@pytest.mark.spec("S-5")
def test_a_slot_that_was_used_again_answers_its_old_call_no_more(seq: int) -> None:
    host = host_with_two_calls()
    host.resume()
    assert host.receive(encode(call(0, 3))) == [call(0, 3)]
    host.reply(0, 3, 0, "three")
    assert sent(host) == [(REPLY, 0, 3, 0, "three")]
    assert host.receive(encode(call(0, seq))) == [] and host.broken is not None


@pytest.mark.parametrize("value", UNFIT.values(), ids=UNFIT)
def test_an_answer_that_does_not_fit_is_internal(value: object) -> None:
    """The guest's decoder must take whatever the host says, or nothing it sends: else its session would end."""
    host, decoder = ready_host(), Decoder()
    host.receive(encode(call(0, 1)))
    host.reply(0, 1, 0, value)
    (answer,) = decoder.feed(b"".join(host.out))
    assert isinstance(answer, tuple) and answer[:4] == (REPLY, 0, 1, Status.INTERNAL) and type(answer[4]) is str


@pytest.mark.parametrize("levels", DEPTHS)
def test_an_answer_of_many_levels_is_sent_or_internal(levels: int) -> None:
    host, decoder = ready_host(), Decoder()
    host.receive(encode(call(0, 1)))
    host.reply(0, 1, 0, deep(levels))
    (answer,) = decoder.feed(b"".join(host.out))
    assert isinstance(answer, tuple)
    assert (answer[3], type(answer[4])) in {(Status.OK, tuple), (Status.INTERNAL, str)}


def test_an_interrupt_and_the_last_word_go_out_in_their_order() -> None:
    host = ready_host()
    host.interrupt(9, 3, 1 << 40)
    host.end(LAST_WORD)
    assert sent(host) == [(IRQ, 9, 3, 1 << 40), (END, Status.RESET, "over", VERSION, VERSION)]
