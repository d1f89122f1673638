"""Interrupts in another life of the host: none is lost, and a guest that knows higher counts hears the next one."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcall.saved import Saved
from hostd.calls.vectors import LEAP, Vectors

STEPS = {
    "fire": lambda vectors, vector: vectors.fire(vector),
    "acknowledge": lambda vectors, vector: vectors.acknowledge(vector, vectors.count(vector)),
    "acknowledge less": lambda vectors, vector: vectors.acknowledge(vector, vectors.count(vector) - 1),
    "mask": lambda vectors, vector: vectors.set_mask(1 << vector),
    "unmask": lambda vectors, vector: vectors.set_mask(0),
    "relink": lambda vectors, vector: vectors.relink(),
}
steps = st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 3)), max_size=12)


def made() -> tuple[Vectors, list[tuple[int, int]]]:
    """Vectors, and the hints that they give."""
    hints: list[tuple[int, int]] = []
    return Vectors(lambda *hint: hints.append(hint)), hints


def restored(old: Vectors) -> tuple[Vectors, list[tuple[int, int]]]:
    saved: Saved = msgpack.unpackb(msgpack.packb(old.save()))
    new, hints = made()
    new.restore(saved)
    assert hints == []  # there is no link
    return new, hints


@given(steps, steps, st.integers(1, 3))
@pytest.mark.spec("R-13")
def test_counters_leap_ahead_and_go_on(before: list[tuple[str, int]], after: list[tuple[str, int]], lives: int) -> None:
    old, _ = made()
    for step, vector in before:
        STEPS[step](old, vector)
    new, hints = restored(old)
    for _ in range(lives - 1):
        new, hints = restored(new)
    assert [new.count(n) for n in range(5)] == [old.count(n) + lives * LEAP for n in range(5)] and new.mask == old.mask
    raised = {n for n in range(4) if old.count(n)}
    new.relink()
    assert {vector for vector, _ in hints} == {n for n in raised if not new.mask >> n & 1}
    assert all(count == new.count(vector) for vector, count in hints)
    # From here on it is as any other: one that fired as often, and of which nothing was acknowledged.
    fresh, expected = made()
    for vector in raised:
        for _ in range(old.count(vector)):
            fresh.fire(vector)
    fresh.set_mask(new.mask)
    fresh.relink()
    for step, vector in after:
        if "acknowledge" in step and not fresh.count(vector):
            continue  # of what was never raised
        hints.clear()
        expected.clear()
        STEPS[step](new, vector)
        STEPS[step](fresh, vector)
        assert sorted(hints) == sorted((vector, count + lives * LEAP) for vector, count in expected)


@pytest.mark.parametrize("vector", [0, 7])
@pytest.mark.spec("R-13")
def test_a_guest_that_knows_higher_counts_than_were_saved_hears_the_next_interrupt(vector: int) -> None:
    old, hints = made()
    old.fire(0)
    saved = old.save()
    for _ in range(1000):  # after it was saved: the guest sees them, and acknowledges
        old.fire(vector)
        old.acknowledge(vector, old.count(vector))
    known = old.count(vector)
    new, hints = made()
    new.restore(saved)
    new.relink()
    new.acknowledge(vector, known)
    new.fire(vector)
    assert hints[-1][0] == vector and hints[-1][1] > known


def test_what_was_never_raised_gives_no_hint() -> None:
    old, _ = made()
    old.set_mask(2)
    new, hints = restored(old)
    new.relink()
    assert hints == [] and new.set_mask(0) == 2
    new.acknowledge(3, LEAP)
    assert hints == []
    new.fire(3)
    assert hints == [(3, LEAP + 1)]


def test_what_another_version_saved_is_refused() -> None:
    vectors, _ = made()
    with pytest.raises(ValueError, match="another version"):
        vectors.restore(vectors.save() | {"version": 2})
