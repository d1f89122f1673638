"""A session that is restored in another life of the host answers what comes again exactly as the old one would have."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from session_ends import call, ready_host, sent

from hcall.saved import Saved
from hcall.session.host import HostSession
from hcall.session.states import State
from hcall.wire import encode

SLOTS = 4


class Guest:
    """What a guest remembers: its calls by slot, each as it was sent, and which are answered."""

    def __init__(self) -> None:
        self.seq = 0
        self.calls: dict[int, tuple[Any, ...]] = {}
        self.answered: set[int] = set()

    def next_call(self, slot: int) -> tuple[Any, ...]:
        self.seq += 1
        self.answered.discard(slot)
        self.calls[slot] = call(slot, self.seq)
        return self.calls[slot]

    def free(self) -> list[int]:
        """The slots that its next call may have."""
        return [*self.answered, *([len(self.calls)] if len(self.calls) < SLOTS else [])]


def carried(saved: Saved) -> Saved:
    """As it comes out of a file."""
    found: Saved = msgpack.unpackb(msgpack.packb(saved))
    assert found == saved
    return found


def lived(data: st.DataObject) -> tuple[HostSession, Guest]:
    """A session after some calls, answers, lost links and resumes."""
    host, guest = ready_host(SLOTS), Guest()
    for _ in range(data.draw(st.integers(0, 12))):
        todo = (
            ["relink"] + ["call"] * 3 * bool(guest.free()) + ["answer"] * 2 * (len(guest.answered) < len(guest.calls))
        )
        step = data.draw(st.sampled_from(todo))
        if step == "call":
            slot = data.draw(st.sampled_from(guest.free()))
            assert len(host.receive(encode(guest.next_call(slot)))) == 1
        elif step == "answer":
            slot = data.draw(st.sampled_from(sorted(guest.calls.keys() - guest.answered)))
            host.reply(slot, guest.calls[slot][2], data.draw(st.sampled_from([0, 3])), f"answer {guest.seq}")
            guest.answered.add(slot)
        else:
            host.lose()
            host.resume()
    host.out.clear()
    return host, guest


@settings(max_examples=300)
@given(st.data())
@pytest.mark.spec("R-2", "R-4")
def test_a_restored_session_goes_on_as_the_old_one(data: st.DataObject) -> None:
    old, guest = lived(data)
    new = HostSession.restore(carried(old.save()))
    assert new.state is State.LOST and new.calls == old.calls
    if data.draw(st.booleans()):  # taken from what was restored it is the same
        new = HostSession.restore(carried(new.save()))
    old.lose()
    unanswered = {message[2]: message for slot, message in guest.calls.items() if slot not in guest.answered}
    assert new.begun == unanswered.keys()
    for lives in range(2):
        old.resume()
        new.resume()
        again = sorted((message for message in guest.calls.values()), key=lambda message: message[2])
        kept = [message for message in again if data.draw(st.booleans())]  # the guest has the other answers
        bytes_again = b"".join(map(encode, kept))
        assert old.receive(bytes_again) == []
        made = new.receive(bytes_again)
        assert made == [message for message in kept if message[2] in unanswered]  # each once, in the order of seq
        assert new.broken is None is old.broken and sent(new) == sent(old)
        for message in made:
            del unanswered[message[2]]
            for host in (old, new):
                host.reply(message[1], message[2], 0, "late")
            guest.answered.add(message[1])
            assert sent(new) == sent(old) != []
        if not lives:
            old.lose()
            new.lose()
    for slot in guest.free():
        message = guest.next_call(slot)
        assert old.receive(encode(message)) == [message] == new.receive(encode(message))
        for host in (old, new):
            host.reply(slot, guest.seq, 0, "new")
        assert sent(new) == sent(old) != []


@pytest.mark.parametrize("wrong", [(1, 1), (0, 3), (2, 2), (4, 2), (0, 0)])
def test_a_restored_session_takes_no_other_calls_than_the_old_one(wrong: tuple[int, int]) -> None:
    old = ready_host(SLOTS)
    old.receive(encode(call(0, 1)))
    old.reply(0, 1, 0, "one")
    new = HostSession.restore(carried(old.save()))
    new.resume()
    assert new.receive(encode(call(*wrong))) == [] and new.broken is not None


def test_what_was_under_way_is_made_again_once_and_is_known_as_such() -> None:
    old = ready_host(SLOTS)
    old.receive(encode(call(0, 1)) + encode(call(1, 2)))
    new = HostSession.restore(carried(old.save()))
    assert new.begun == {1, 2}
    new.resume()
    assert new.receive(encode(call(0, 1))) == [call(0, 1)] and not new.out
    new.lose()
    new.resume()
    assert new.receive(encode(call(0, 1)) + encode(call(1, 2))) == [call(1, 2)]  # the first one is at work
    new.reply(0, 1, 0, "one")
    assert sent(new) == [(1, 0, 1, 0, "one")]
    assert new.receive(encode(call(0, 3))) == [call(0, 3)] and 3 not in new.begun


@pytest.mark.parametrize("change", [{"version": 1}, {"version": None}, {"version": "1"}])
def test_what_another_version_saved_is_refused(change: Saved) -> None:
    with pytest.raises(ValueError, match="another version"):
        HostSession.restore(ready_host().save() | change)
    with pytest.raises(ValueError, match="another version"):
        HostSession.restore({})
