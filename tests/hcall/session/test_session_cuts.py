"""A link is cut anywhere, again and again: each call still has its effect once, and each answer arrives once."""

from __future__ import annotations

import enum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_ends import HELLO_HERE, HELLO_WITH_BUNDLES, sent, welcome

from hcall.messages import CALLS, REPLIES, REPLY, Hello
from hcall.session.guest import GuestSession
from hcall.session.host import HostSession
from hcall.session.states import State
from hcall.wire import Decoder

MADE, DEPTH = 20, 4


class Moment(enum.Enum):
    """When the calls that were under way at a cut become ready."""

    LOST = enum.auto()  # the guest is not back
    RELINKED = enum.auto()  # the guest is back, and has not asked again
    REPEATED = enum.auto()  # it has asked again


class World:
    """A guest that makes all its calls at once, a host that answers two thirds of them late, and the links between."""

    def __init__(self, moment: Moment, noticed: bool, cuts: list[tuple[int, int]], hello: Hello = HELLO_HERE) -> None:
        """*cuts*, one for each link: bytes to the host, bytes to the guest, one of which ends it when it has passed.

        *noticed*: the host sees the link break before the guest is back.  *hello* says whether calls share messages.
        """
        self.hello = hello
        self.moment, self.noticed, self.cuts = moment, noticed, iter(cuts)
        self.guest = GuestSession[int]()
        self.host = HostSession(DEPTH)
        self.effects: list[int] = []
        self.answers: list[tuple[int, object]] = []
        self.late: list[tuple[int, int, int, int, int]] = []  # slot, seq, call; its place in a bundle of so many, or 0
        self.passed = [0, 0]  # bytes to the host and to the guest, over all links
        self.late_at_cuts: list[int] = []
        self.made = False

    def run(self) -> None:
        self.link()
        while len(self.answers) < MADE:
            if not (self.to_host() or self.to_guest()):
                self.finish()
        while self.to_host() or self.to_guest():  # what is still to come must be nothing
            pass

    def link(self) -> None:
        """The guest connects; the first time, and after each cut."""
        greeted = self.host if self.host.state is State.GREETING else HostSession(DEPTH)
        assert greeted.greet(self.guest.greet(self.hello)) == self.hello
        resumed = greeted is not self.host
        if resumed:
            self.host.resume(self.hello.features)
            if self.moment is Moment.RELINKED:
                self.finish_all()
        self.room = list(next(self.cuts, (1 << 60, 1 << 60)))
        self.welcome = welcome(DEPTH, resumed, self.hello.features)
        self.asked = Decoder()  # reads along what the host gets
        self.may_hear: set[int] = set()  # seq of the calls that came on this link and were not answered on it

    def cut(self) -> None:
        self.late_at_cuts.append(len(self.late))
        if self.noticed:
            self.host.lose()
        if self.moment is Moment.LOST:
            self.finish_all()
        self.guest.lose()
        self.link()

    def finish(self) -> None:
        """The newest call under way becomes ready, so that the oldest waits long and answers change places."""
        self.answer(*self.late.pop())

    def answer(self, slot: int, seq: int, call: int, place: int, count: int) -> None:
        if count:
            self.host.reply_some(slot, seq, count, place, [0], [f"answer {call}"])
        else:
            self.host.reply(slot, seq, 0, f"answer {call}")

    def finish_all(self) -> None:
        while self.late:
            self.finish()

    def pass_bytes(self, way: int, data: bytes) -> bytes:
        """As much of *data* as the link still carries."""
        data = data[: self.room[way]]
        self.room[way] -= len(data)
        self.passed[way] += len(data)
        return data

    def to_host(self) -> bool:
        data = b"".join(self.guest.out)
        self.guest.out.clear()
        part = self.pass_bytes(0, data)
        for message in self.asked.feed(part):
            assert isinstance(message, tuple)
            self.may_hear.add(message[2])
        for kind, slot, seq, _, _, args, _ in self.host.receive(part):
            calls = [call for (call,) in args] if kind == CALLS else [*args]
            count = len(calls) if kind == CALLS else 0
            for place, call in enumerate(calls):
                self.effects.append(call)
                if call % 3:
                    self.late.append((slot, seq, call, place, count))
                else:
                    self.answer(slot, seq, call, place, count)
        assert self.host.broken is None
        if not self.room[0]:
            self.cut()
        return bool(data)

    def to_guest(self) -> bool:
        data, self.welcome = self.welcome + b"".join(self.host.out), b""
        for message in sent(self.host):
            assert message[0] in (REPLY, REPLIES) and message[2] in self.may_hear  # else it was not asked on this link
            if message[0] == REPLY:
                self.may_hear.remove(message[2])  # or was answered on it
        answers, _ = self.guest.receive(self.pass_bytes(1, data))
        self.answers += [(call, value) for call, _, value in answers]
        if self.guest.state is State.READY and not self.made:
            self.made = True
            for call in range(MADE):
                if self.hello.features:
                    self.guest.queue(9, 0x10010 + call // 4, (call,), (), call)  # four in a bundle
                else:
                    self.guest.call(9, 0x10010, (call,), (), call)
            assert not self.guest.pack()
        if not self.room[1]:
            self.cut()
        return bool(data)

    def check(self) -> None:
        assert self.effects == list(range(MADE))  # once, and in the order in which they were made
        assert sorted(self.answers) == [(call, f"answer {call}") for call in range(MADE)]
        assert self.guest.busy == 0 and self.host.calls == MADE and (self.hello.features or not self.may_hear)


def lengths(hello: Hello) -> list[int]:
    """How many bytes pass each way when nothing is cut."""
    world = World(Moment.REPEATED, True, [], hello)
    world.run()
    world.check()
    return world.passed


@pytest.mark.parametrize("hello", [HELLO_HERE, HELLO_WITH_BUNDLES], ids=["calls", "bundles"])
@pytest.mark.parametrize("moment", Moment)
@pytest.mark.parametrize("noticed", [True, False])
@pytest.mark.parametrize("way", [0, 1], ids=["to the host", "to the guest"])
@pytest.mark.spec("R-3", "R-4", "R-7")
def test_a_link_is_cut_at_every_byte(moment: Moment, noticed: bool, way: int, hello: Hello) -> None:
    late = []
    for n in range(1, lengths(hello)[way] + 1):
        world = World(moment, noticed, [(n, 1 << 60) if way == 0 else (1 << 60, n)], hello)
        world.run()
        world.check()
        late += world.late_at_cuts
    # Else the cuts met nothing.  Bytes to the guest are an answer, whose call is no longer late.
    assert len(late) > 4 * MADE and max(late) >= DEPTH - way


@settings(max_examples=300)
@given(
    st.sampled_from(Moment),
    st.booleans(),
    st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), max_size=12),
    st.sampled_from([HELLO_HERE, HELLO_WITH_BUNDLES]),
)
def test_links_are_cut_again_and_again(
    moment: Moment, noticed: bool, cuts: list[tuple[int, int]], hello: Hello
) -> None:
    world = World(moment, noticed, cuts, hello)
    world.run()
    world.check()
