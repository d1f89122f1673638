"""Calls that share a message: what goes together, answers in parts, and what either end may not say."""

from __future__ import annotations

from typing import Any

import pytest
from session_ends import HELLO_HERE, HELLO_WITH_BUNDLES, UNFIT, Guest, ready_guest, ready_host, sent, welcome

from hcall.errors import ProtocolViolation, Status
from hcall.messages import CALL, CALLS, REPLIES, REPLY
from hcall.session.host import HostSession
from hcall.wire import MAX_MESSAGE, Decoder, encode

READ, HANDLE = 0x10001, 9
PAGE = (0x4000_0000, 4096, 1)
Answers = list[tuple[str, int, Any]]


def guest_with(count: int, args: tuple[Any, ...] = (0,), areas: tuple[Any, ...] = ((16,),) * 99) -> Guest:
    """One that has queued so many calls, "0" and so on, each with its areas, and packed them."""
    guest = ready_guest(hello=HELLO_WITH_BUNDLES)
    for n in range(count):
        guest.queue(HANDLE, READ, args, areas[n], str(n))
    assert guest.pack() == []
    return guest


def host_with(count: int) -> HostSession:
    """One that has got a bundle of so many calls in slot 0."""
    host = ready_host(hello=HELLO_WITH_BUNDLES)
    message = bundle(0, 1, count)
    assert host.receive(encode(message)) == [message]
    return host


def bundle(slot: int, seq: int, count: int) -> tuple[Any, ...]:
    return (CALLS, slot, seq, READ, HANDLE, ((),) * count, ((),) * count)


def heard(guest: Guest, *messages: object) -> Answers:
    answers, _ = guest.receive(b"".join(map(encode, messages)))
    return answers


# What a guest sends.


@pytest.mark.spec("G-1")
def test_equal_calls_share_a_message_and_others_do_not() -> None:
    guest = ready_guest(hello=HELLO_WITH_BUNDLES)
    for handle, number, arg in [(9, 1, 0), (9, 1, 1), (9, 2, 2), (8, 2, 3), (8, 2, 4), (8, 2, 5)]:
        guest.queue(handle, number, (arg,), (16,), str(arg))
    assert not guest.out  # until they are packed
    guest.pack()
    assert sent(guest) == [
        (CALLS, 0, 1, 1, 9, ((0,), (1,)), ((16,), (16,))),
        (CALL, 1, 2, 2, 9, (2,), (16,)),
        (CALLS, 2, 3, 2, 8, ((3,), (4,), (5,)), ((16,), (16,), (16,))),
    ]
    assert guest.busy == 3
    assert heard(guest, (REPLIES, 2, 3, 0, 0, (b"3", b"4", b"5")), (REPLY, 1, 2, 0, b"2")) == [
        ("3", 0, b"3"), ("4", 0, b"4"), ("5", 0, b"5"), ("2", 0, b"2"),
    ]  # fmt: skip
    assert sorted(guest.end()) == ["0", "1"]


@pytest.mark.spec("H-5")
def test_without_the_feature_each_call_has_its_message() -> None:
    guest = ready_guest()
    for n in range(3):
        guest.queue(HANDLE, READ, (), (16,), str(n))
    guest.pack()
    assert [message[0] for message in sent(guest)] == [CALL] * 3


def test_a_call_made_at_once_does_not_overtake_those_that_are_queued() -> None:
    guest = ready_guest(hello=HELLO_WITH_BUNDLES)
    guest.queue(HANDLE, READ, (0,), (), "0")
    guest.call(HANDLE, READ, (1,), (), "1")
    guest.queue(HANDLE, READ, (2,), (), "2")
    guest.pack()
    assert [message[5] for message in sent(guest)] == [(0,), (1,), (2,)]


@pytest.mark.spec("G-2", "E-6")
@pytest.mark.parametrize(
    ("count", "areas", "most"),
    [(150, (16,), 64), (10, (4096,), 3), (10, (bytes(4096),), 3), (150, (PAGE,), 64), (150, (), 64)],
    ids=["calls", "room", "data", "memory", "no areas"],
)
def test_no_more_go_together_than_fit_a_message_either_way(count: int, areas: tuple[Any, ...], most: int) -> None:
    guest = guest_with(count, areas=(areas,) * count)
    messages = sent(guest)
    sizes = [len(message[5]) if message[0] == CALLS else 1 for message in messages]
    assert max(sizes) <= most and sum(sizes) + sum(len(each.waiters) for each in guest.queued) == count
    assert all(len(encode(message)) <= MAX_MESSAGE for message in messages)
    assert len(messages) < count / 2 or count == 10


@pytest.mark.parametrize("value", UNFIT.values(), ids=UNFIT)
@pytest.mark.parametrize("where", ["argument", "area", "within an area"])
def test_what_cannot_be_sent_is_told_to_its_own_caller(value: object, where: str) -> None:
    guest = ready_guest(hello=HELLO_WITH_BUNDLES)
    for n in range(5):
        args: tuple[Any, ...] = (value,) if where == "argument" and n == 2 else (0,)
        wrong = (value,) if where == "area" else ((value, 1, 1),)
        guest.queue(HANDLE, READ, args, wrong if where != "argument" and n == 2 else (PAGE,), str(n))
    ((waiter, status, text),) = guest.pack()
    assert waiter == "2" and status == Status.BAD_ARGUMENT and "cannot be sent" in text
    decoder = Decoder()
    messages: list[Any] = decoder.feed(b"".join(guest.out))
    assert decoder.broken is None  # a host takes all the others
    assert sum(len(message[5]) if message[0] == CALLS else 1 for message in messages) == 4


def test_calls_that_nobody_waits_for_any_more_are_left_out_if_they_had_to_wait() -> None:
    given_up: set[str] = set()
    guest = Guest(given_up.__contains__)
    guest.greet(HELLO_WITH_BUNDLES)
    guest.receive(welcome(slots=1, features=HELLO_WITH_BUNDLES.features))
    guest.call(HANDLE, READ, (), (), "first")
    for n in range(4):
        guest.queue(HANDLE, READ, (n,), (), str(n))
    guest.pack()
    given_up |= {"0", "2"}
    assert heard(guest, (REPLY, 0, 1, 0, None)) == [("first", 0, None)]
    assert sent(guest)[1:] == [(CALLS, 0, 2, READ, HANDLE, ((1,), (3,)), ((), ()))]


def test_the_memory_of_a_call_is_in_use_until_that_call_is_answered() -> None:
    guest = guest_with(3, areas=tuple(((4096 * n, 4096, 1),) for n in range(3)))
    assert [guest.uses(4096 * n, 4096) for n in range(4)] == [True, True, True, False]
    heard(guest, (REPLIES, 0, 1, 1, 0, (4096,)))
    assert [guest.uses(4096 * n, 4096) for n in range(4)] == [True, False, True, False]


# Answers in parts.


@pytest.mark.spec("G-4", "G-5")
def test_a_late_answer_holds_up_no_other_and_frees_the_slot_with_the_last() -> None:
    guest, host = guest_with(4), host_with(4)
    host.reply_some(0, 1, 4, 0, [0], [b"a"])
    host.reply_some(0, 1, 4, 2, [0, 3], [b"c", "no"])
    messages = sent(host)
    assert messages == [(REPLIES, 0, 1, 0, 0, (b"a",)), (REPLIES, 0, 1, 2, (0, 3), (b"c", "no"))]
    assert heard(guest, *messages) == [("0", 0, b"a"), ("2", 0, b"c"), ("3", 3, "no")]
    assert guest.busy == 1 and guest.end() == ["1"]
    host.receive(encode(bundle(0, 2, 1)))
    assert host.broken is not None  # the slot still waits
    host = host_with(4)
    for at in (3, 1, 0, 2):
        host.reply_some(0, 1, 4, at, [0], [at])
    host.receive(encode(bundle(0, 2, 1)))
    assert host.broken is None


@pytest.mark.spec("G-5", "R-4")
def test_what_was_answered_before_a_cut_is_answered_again_and_counts_once() -> None:
    guest, host = guest_with(3), host_with(3)
    host.reply_some(0, 1, 3, 0, [0, 0], [b"a", b"b"])
    assert len(heard(guest, *sent(host))) == 2
    guest.lose()
    guest.greet(HELLO_WITH_BUNDLES)
    host.resume(HELLO_WITH_BUNDLES.features)
    assert guest.receive(welcome(resumed=True, features=HELLO_WITH_BUNDLES.features)) == ([], [])
    assert host.receive(b"".join(guest.out)) == []  # it is not made again
    host.reply_some(0, 1, 3, 2, [0], [b"c"])
    assert heard(guest, *sent(host)) == [("2", 0, b"c")]
    assert guest.busy == 0


def test_a_saved_session_knows_which_calls_of_a_bundle_it_had_answered() -> None:
    host = host_with(4)
    host.reply_some(0, 1, 4, 1, [0, 0], [b"b", b"c"])
    host.out.clear()
    restored = HostSession.restore(host.save())
    assert restored.calls == 4 and restored.begun == {1}
    restored.resume(HELLO_WITH_BUNDLES.features)
    assert restored.receive(encode(bundle(0, 1, 4))) == [bundle(0, 1, 4)]  # for those that are left
    assert [*restored.unanswered(0, 4)] == [0, 3]
    assert sent(restored) == [(REPLIES, 0, 1, 1, 0, (b"b", b"c"))]


@pytest.mark.spec("G-6")
def test_calls_that_were_not_made_go_again_alone_and_so_do_their_like() -> None:
    guest = guest_with(4)
    guest.out.clear()
    assert heard(guest, (REPLIES, 0, 1, 0, (0, 5, None, None), (b"a", "no", None, None))) == [
        ("0", 0, b"a"), ("1", 5, "no"),
    ]  # fmt: skip
    assert [message[:4] for message in sent(guest)] == [(CALL, 0, 2, READ), (CALL, 1, 3, READ)]
    for n in range(2):
        guest.queue(HANDLE, READ, (n,), (16,), f"more {n}")
    guest.pack()
    assert [message[0] for message in sent(guest)] == [CALL, CALL]


@pytest.mark.parametrize("value", UNFIT.values(), ids=UNFIT)
def test_an_answer_that_no_message_carries_spoils_no_other(value: object) -> None:
    host, guest = host_with(4), guest_with(4, areas=((),) * 4)
    assert host.reply_some(0, 1, 4, 0, [0, 0, 0, 0], [1, b"x", value, None]) == [2]
    answers = heard(guest, *sent(host))
    assert answers[:2] == [("0", 0, 1), ("1", 0, b"x")] and answers[3] == ("3", 0, None)
    assert answers[2][:2] == ("2", Status.INTERNAL)


def test_answers_too_long_for_one_message_come_in_several() -> None:
    host, guest = host_with(9), guest_with(9, areas=((),) * 9)
    values = [bytes([n]) * 4000 for n in range(9)]
    assert host.reply_some(0, 1, 9, 0, [0] * 9, [*values]) == []
    messages = sent(host)
    assert all(len(encode(message)) <= MAX_MESSAGE for message in messages)
    assert heard(guest, *messages) == [(str(n), 0, value) for n, value in enumerate(values)]


# What neither may say.

WRONG_CALLS = [
    (CALLS, 0, 1, READ, HANDLE, (), ()), (CALLS, 0, 1, READ, HANDLE, ((),), ()), (CALLS, 0, 1, READ, HANDLE, (), ((),)),
    (CALLS, 0, 1, READ, HANDLE, (0,), ((),)), (CALLS, 0, 1, READ, HANDLE, ((),), (0,)),
    (CALLS, 0, 1, READ, HANDLE, (b"",), ((),)), (CALLS, 0, 1, READ, HANDLE, ((), None), ((), ())),
    (CALLS, 0, 1, READ, HANDLE, ((), ()), ((),)), (CALLS, 0, 1, READ, HANDLE, None, ()),
    (CALLS, 0, 1, READ, HANDLE, ((),)),
    (CALLS, 0, 2, READ, HANDLE, ((),), ((),)), (CALLS, 1, 1, READ, HANDLE, ((),), ((),)),
    (CALLS, 0, True, READ, HANDLE, ((),), ((),)), (CALLS, 0, 1, None, HANDLE, ((),), ((),)),
]  # fmt: skip


@pytest.mark.spec("G-1", "G-3")
def test_what_is_no_bundle_ends_the_session() -> None:
    for wrong in WRONG_CALLS:
        host = ready_host(hello=HELLO_WITH_BUNDLES)
        assert host.receive(encode(wrong)) == [] and host.broken is not None, wrong
        assert host.broken.status is Status.BAD_ARGUMENT and host.calls == 0 and not host.out
    host = ready_host(hello=HELLO_HERE)
    assert host.receive(encode(bundle(0, 1, 2))) == [] and host.broken is not None  # it was not agreed on


@pytest.mark.spec("G-3")
def test_a_bundle_may_have_one_call_and_64() -> None:
    for count in (1, 64):
        assert host_with(count).calls == count


WRONG_REPLIES = [
    (REPLIES, 1, 1, 0, 0, (b"",)), (REPLIES, 0, 2, 0, 0, (b"",)), (REPLIES, 0, 1, -1, 0, (b"",)),
    (REPLIES, 0, 1, 4, 0, (b"",)), (REPLIES, 0, 1, 2, 0, (b"",) * 3), (REPLIES, 0, 1, 0, 0, ()),
    (REPLIES, 0, 1, 0, 0, None), (REPLIES, 0, 1, 0, 1, (b"",)), (REPLIES, 0, 1, 0, (0,), (b"", b"")),
    (REPLIES, 0, 1, 0, ("0",), (b"",)), (REPLIES, 0, 1, 0, (True,), (b"",)), (REPLIES, 0, 1, 0, False, (b"",)),
    (REPLIES, 0, 1, 0, 0, (bytes(17),)), (REPLIES, 0, 1, 0, 0, (b"", 16)), (REPLIES, 0, 1, 0, (0, 5), (None, "")),
    (REPLIES, False, 1, 0, 0, (b"",)), (REPLIES, 0, 1.0, 0, 0, (b"",)), (REPLIES, 0, 1, None, 0, (b"",)),
    (REPLIES, 0, 1, 0, 0), (REPLIES, 0, 1, 0, 0, (b"",), 0), (REPLY, 0, 1, 0, b""),
]  # fmt: skip


@pytest.mark.spec("G-4", "S-4")
@pytest.mark.parametrize("wrong", WRONG_REPLIES, ids=repr)
def test_what_is_no_answer_to_a_bundle_is_a_violation(wrong: tuple[Any, ...]) -> None:
    guest = guest_with(4)
    guest.receive(encode(wrong))
    assert isinstance(guest.broken, ProtocolViolation), wrong
    assert set(guest.end()) >= {"2", "3"}  # nobody is forgotten


@pytest.mark.parametrize(("area", "bad"), [(PAGE, 4097), (PAGE, -1), (PAGE, True), (PAGE, b""), (PAGE, None)])
def test_a_count_for_which_there_is_no_room_is_a_violation(area: tuple[int, int, int], bad: object) -> None:
    for values in [(4096, bad), (bad,)]:
        guest = guest_with(2, areas=((area,),) * 2)
        guest.receive(encode((REPLIES, 0, 1, 0, 0, values)))
        assert guest.broken is not None
    written = guest_with(2, areas=(((0x4000_0000, 4096, 0),),) * 2)
    assert heard(written, (REPLIES, 0, 1, 0, 0, (bad, bad))) == [("0", 0, bad), ("1", 0, bad)]  # the driver looks at it


@pytest.mark.spec("G-7")
def test_a_host_cannot_take_bundles_back_while_one_is_unanswered() -> None:
    guest = guest_with(2)
    guest.lose()
    guest.greet(HELLO_WITH_BUNDLES)
    guest.receive(welcome(resumed=True))
    assert guest.broken is not None
    assert guest.end() == ["0", "1"]
