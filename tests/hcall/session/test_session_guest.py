"""The guest's end of a session: slots and backlog, what cannot be sent, and that no waiter is ever forgotten."""

from __future__ import annotations

import contextlib

import pytest
from session_ends import DEPTHS, HELLO_HERE, LAST_WORD, UNFIT, Guest, deep, ready_guest, ready_host, sent, welcome

from hcall.errors import BadArgument, Status
from hcall.messages import ACK, CALL, END, HELLO, IRQ, REPLY, WELCOME
from hcall.session.states import State
from hcall.wire import encode


def call(guest: Guest, waiter: str, arg: object = None) -> None:
    guest.call(9, 0x10010, (arg,), (), waiter)


def places(guest: Guest) -> list[tuple[int, int]]:
    """(slot, seq) of the calls that wait to be sent, which are taken out."""
    messages = sent(guest)
    assert all(message[0] == CALL for message in messages)
    return [(message[1], message[2]) for message in messages]


def answer(guest: Guest, slot: int, seq: int) -> list[str]:
    """The waiters that the answer of one call wakes."""
    answers, _ = guest.receive(encode((REPLY, slot, seq, 0, None)))
    return [waiter for waiter, _, _ in answers]


@pytest.mark.spec("S-1", "S-2")
def test_slots_come_into_use_in_order_and_the_latest_freed_comes_next() -> None:
    guest = ready_guest(slots=4)
    for waiter in "abc":
        call(guest, waiter)
    assert places(guest) == [(0, 1), (1, 2), (2, 3)]
    assert answer(guest, 0, 1) + answer(guest, 2, 3) == ["a", "c"]
    for waiter in "def":
        call(guest, waiter)
    assert places(guest) == [(2, 4), (0, 5), (3, 6)] and guest.busy == 4


def test_more_calls_than_slots_wait_and_go_out_in_their_order() -> None:
    guest = ready_guest(slots=2)
    for waiter in "abcde":
        call(guest, waiter)
    assert places(guest) == [(0, 1), (1, 2)] and guest.busy == 2
    assert answer(guest, 1, 2) == ["b"] and places(guest) == [(1, 3)]
    answers, _ = guest.receive(encode((REPLY, 0, 1, 0, None)) + encode((REPLY, 1, 3, 0, None)))
    assert [waiter for waiter, _, _ in answers] == ["a", "c"]
    assert [seq for _, seq in places(guest)] == [4, 5]
    assert guest.end() == ["d", "e"]


@pytest.mark.parametrize("welcomed", [True, False])
@pytest.mark.spec("H-1")
def test_calls_made_without_a_link_go_out_with_the_welcome(welcomed: bool) -> None:
    guest = ready_guest(slots=2) if welcomed else Guest()
    if welcomed:
        guest.lose()
    call(guest, "a")
    guest.greet(HELLO_HERE)
    for waiter in "bc":
        call(guest, waiter)
    assert not guest.out
    guest.receive(welcome(2, resumed=welcomed))
    assert places(guest) == [(0, 1), (1, 2)]
    assert answer(guest, 0, 1) == ["a"] and places(guest) == [(0, 3)]


@pytest.mark.spec("R-3")
def test_unanswered_calls_are_sent_again_unchanged_in_the_order_of_seq() -> None:
    guest = ready_guest(slots=3)
    for waiter in "abc":
        call(guest, waiter, waiter)
    first = b"".join(guest.out)
    answer(guest, 0, 1)
    call(guest, "d", "d")  # the newest call in the lowest slot
    newest = b"".join(guest.out).removeprefix(first)
    guest.lose()
    assert not guest.out
    guest.greet(HELLO_HERE)
    guest.receive(welcome(3, resumed=True))
    b_and_c = first[len(first) // 3 :]  # the three calls are of one length
    assert b"".join(guest.out) == b_and_c + newest


@pytest.mark.spec("R-7")
def test_half_a_message_dies_with_its_link() -> None:
    guest = ready_guest()
    call(guest, "a")
    guest.receive(encode((REPLY, 0, 1, 0, None))[:3])
    assert guest.partial
    guest.lose()
    assert not guest.partial
    guest.greet(HELLO_HERE)
    guest.receive(welcome(resumed=True))
    assert answer(guest, 0, 1) == ["a"]


@pytest.mark.parametrize("value", UNFIT.values(), ids=UNFIT)
@pytest.mark.spec("E-6")
def test_a_call_that_cannot_be_sent_takes_no_slot_and_no_seq(value: object) -> None:
    guest = ready_guest(slots=1)
    with pytest.raises(BadArgument):
        call(guest, "bad", value)
    with pytest.raises(BadArgument):
        guest.call(9, 0x10010, (), (value,), "bad")
    assert not guest.out and guest.busy == 0
    call(guest, "good")
    assert places(guest) == [(0, 1)]
    assert guest.end() == ["good"]


@pytest.mark.parametrize("levels", DEPTHS)
def test_a_call_of_many_levels_is_sent_or_takes_nothing(levels: int) -> None:
    guest, host = ready_guest(), ready_host()
    with contextlib.suppress(BadArgument):
        call(guest, "deep", deep(levels))
    taken = guest.busy
    call(guest, "good")
    assert [message[1:3] for message in host.receive(b"".join(guest.out))][taken:] == [(taken, taken + 1)]
    assert host.broken is None


def test_a_call_that_cannot_be_sent_is_answered_when_its_turn_comes() -> None:
    guest = ready_guest(slots=1)
    for waiter, value in [("a", 1), ("bad", "x" * 257), ("worse", object()), ("b", 2)]:
        call(guest, waiter, value)
    answers, _ = guest.receive(encode((REPLY, 0, 1, 0, None)))
    assert [(waiter, status) for waiter, status, _ in answers] == [
        ("a", Status.OK), ("bad", Status.BAD_ARGUMENT), ("worse", Status.BAD_ARGUMENT),
    ]  # fmt: skip
    assert type(answers[1][2]) is str
    assert places(guest) == [(0, 1), (0, 2)]


def test_what_a_guest_sends_at_the_limit_is_taken_by_a_host() -> None:
    guest, host = ready_guest(), ready_host()
    guest.call(9, 0x10010, ("x" * 256, (0,) * 64, -(1 << 63), (1 << 64) - 1), (bytes(4096),) * 3, "a")
    (message,) = host.receive(b"".join(guest.out))
    assert host.broken is None and message[5][0] == "x" * 256 and message[6] == (bytes(4096),) * 3


@pytest.mark.parametrize("resumed", [True, False])
@pytest.mark.spec("R-10")
def test_a_host_that_forgot_the_session_ends_it(resumed: bool) -> None:
    guest = ready_guest()
    call(guest, "a")
    guest.lose()
    guest.greet(HELLO_HERE)
    if resumed:
        guest.receive(welcome(resumed=True))
        assert places(guest) == [(0, 1)]
    else:
        guest.receive(welcome(resumed=False))
        assert guest.broken is not None and not guest.out
    assert guest.end() == ["a"]


@pytest.mark.spec("I-8", "S-4")
def test_interrupts_and_answers_of_one_read_are_told_apart() -> None:
    guest = ready_guest()
    call(guest, "a")
    call(guest, "b")
    data = [(IRQ, 9, 0, 1), (REPLY, 1, 2, Status.BUSY, "not now"), (IRQ, 9, 1, 7), (REPLY, 0, 1, 0, (1, b"x"))]
    answers, interrupts = guest.receive(b"".join(map(encode, data)))
    assert answers == [("b", Status.BUSY, "not now"), ("a", 0, (1, b"x"))]
    assert interrupts == [(IRQ, 9, 0, 1), (IRQ, 9, 1, 7)]


def test_an_acknowledgement_is_only_sent_on_a_link() -> None:
    guest = ready_guest()
    guest.acknowledge(9, 0, 1)
    assert sent(guest) == [(ACK, 9, 0, 1)]
    guest.lose()
    guest.acknowledge(9, 0, 2)
    guest.greet(HELLO_HERE)
    guest.acknowledge(9, 0, 3)
    guest.receive(welcome(resumed=True))
    assert not guest.out


@pytest.mark.spec("X-1", "X-2")
def test_the_hosts_last_word_comes_after_the_answers_before_it() -> None:
    guest = ready_guest(slots=2)
    for waiter in "abc":
        call(guest, waiter)
    answers, _ = guest.receive(encode((REPLY, 0, 1, 0, "one")) + encode(LAST_WORD) + encode((REPLY, 1, 2, 0, "two")))
    assert answers == [("a", 0, "one")]
    assert guest.last == LAST_WORD and guest.state is State.ENDED
    assert guest.end() == ["b", "c"] and guest.end() == []


# Slot 0 waits for the answer of call 1, slot 1 of call 2.
WRONG: list[object] = [
    (REPLY, 0, 2, 0, None), (REPLY, 1, 1, 0, None), (REPLY, 2, 3, 0, None), (REPLY, -1, 1, 0, None),
    (REPLY, False, 1, 0, None), (REPLY, 0.0, 1, 0, None), (REPLY, 0, True, 0, None), (REPLY, 0, 1.0, 0, None),
    (REPLY, "0", 1, 0, None), (REPLY, {}, 1, 0, None), (REPLY, ({},), 1, 0, None), (REPLY, None, 1, 0, None),
    (REPLY, 0, 1, False, None), (REPLY, 0, 1, "OK", None), (REPLY, 0, 1, None, None),
    (REPLY, 0, 1, 0), (REPLY, 0, 1, 0, None, None), (True, 0, 1, 0, None), (1.0, 0, 1, 0, None),
    (IRQ, 9, 0), (IRQ, 9, 0, 1, 1), (IRQ, 9, False, 1), (IRQ, "9", 0, 1), (IRQ, 9, 0, 1.0), (2.0, 9, 0, 1),
    (END, 0, "over", 1), (END, 0, b"over", 1, 1), (END, True, "over", 1, 1), (END,),
    (WELCOME, 1, 0, 1, 4, True), (CALL, 0, 1, 16, 9, (), ()), (ACK, 9, 0, 1), (HELLO, "hcall", 1, 1, 0, "", b"", ()),
    (7,), ({}, 1), ((), 1), (), 5, None, "REPLY", {"REPLY": 1}, False, "x" * 257, (bytes(4096),) * 4,
]  # fmt: skip


@pytest.mark.spec("E-8", "S-4")
def test_what_breaks_a_rule_is_a_violation_after_what_came_before() -> None:
    before, after = encode((REPLY, 2, 3, 0, None)) + encode((IRQ, 9, 0, 1)), encode((REPLY, 1, 2, 0, None))
    for wrong in WRONG:
        guest = ready_guest(slots=3)
        for waiter in "abcd":
            call(guest, waiter)
        answers, interrupts = guest.receive(before + encode(wrong) + after)
        assert guest.broken is not None and guest.broken.status is Status.BAD_ARGUMENT, wrong
        assert answers == [("c", 0, None)] and interrupts == [(IRQ, 9, 0, 1)], wrong
        assert sorted(guest.end()) == ["a", "b", "d"], wrong  # no waiter is forgotten


@pytest.mark.parametrize(
    "shape",
    [(WELCOME, 1, 0, 1, 4), (WELCOME, 1, 0, 1, 4, 1), (WELCOME, 1, 0, 1, True, False), (WELCOME, 1, 0, 1, 0, False),
     (WELCOME, 1, 0, 1, -1, False), (WELCOME, 1, 0, 1, 1 << 62, False)],
    ids=repr,
)  # fmt: skip
@pytest.mark.spec("H-6")
def test_a_welcome_of_another_shape_is_refused(shape: tuple[object, ...]) -> None:
    """Without a slot every call would wait for ever; a number without bound would take all memory."""
    guest = Guest()
    guest.greet(HELLO_HERE)
    guest.receive(encode(shape))
    assert guest.broken is not None and not guest.out
