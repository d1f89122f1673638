"""What one user may have of the host: who is at a bound is refused, with a sentence, and nobody else loses anything."""

from __future__ import annotations

import pytest

from hcall.errors import Busy
from hostd.calls.limits import Limits
from hostd.calls.shares import ARRIVING, DESCRIPTORS, GREETINGS, GUESTS, LENT, OPENS, OURS, Shares

ONE, OTHER, THIRD = 1000, 1001, 1002


def test_a_user_has_no_more_than_a_share() -> None:
    shares = Shares(Limits(guests=10), 1024)
    shares.of(ONE).take(GUESTS, 5)
    with pytest.raises(Busy, match=r"user 1000 has 5 guests, and may have 5 of 10: \[limits\] guests"):
        shares.of(ONE).take(GUESTS)
    shares.of(OTHER).take(GUESTS, 5)
    shares.of(ONE).give(GUESTS)
    shares.of(ONE).take(GUESTS)


def test_root_is_a_user_like_any() -> None:
    shares = Shares(Limits(guests=10), 1024)
    with pytest.raises(Busy, match="user 0 has 0 guests, and may have 5 of 10"):
        shares.of(0).take(GUESTS, 6)


def test_all_users_have_no_more_than_there_is() -> None:
    shares = Shares(Limits(guests=3, share=50), 1024)
    shares.of(ONE).take(GUESTS, 2)
    shares.of(OTHER).take(GUESTS)
    with pytest.raises(Busy, match=r"this host has at most 3 guests, for all users: \[limits\] guests"):
        shares.of(OTHER).take(GUESTS)
    assert shares.of(OTHER).used[GUESTS] == 1 and shares.used[GUESTS] == 3


def test_what_is_refused_is_not_taken() -> None:
    shares = Shares(Limits(), 1024)
    with pytest.raises(Busy):
        shares.of(ONE).take(LENT, 1 << 50)
    assert not shares.used[LENT] and not shares.of(ONE).used[LENT]


@pytest.mark.parametrize("files", [1, 200, 1024, 1 << 20])
@pytest.mark.parametrize("regions", [1, 64])
def test_one_guest_may_have_what_a_guest_may_have_whatever_the_share_is(files: int, regions: int) -> None:
    limits = Limits(share=1, guests=1, greetings=1, opens=1, lent=4096, regions=regions)
    one = Shares(limits, files).of(ONE)
    for what, count in {GUESTS: 1, GREETINGS: 1, DESCRIPTORS: regions + 2, ARRIVING: regions + 2,
                        OPENS: limits.handles, LENT: limits.memory}.items():  # fmt: skip
        one.take(what, count)


def test_descriptors_of_guests_leave_some_for_those_who_come_and_for_the_daemon() -> None:
    bounds = Shares(Limits(unfilled=1 << 30), 1024).bounds
    assert bounds[DESCRIPTORS].total + bounds[ARRIVING].total == 1024 - OURS
    assert bounds[ARRIVING].total == (1024 - OURS) // 4
    assert all(bound.share <= -(-bound.total // 2) for bound in bounds.values())


def test_what_is_there_already_counts_whatever_the_bounds_are() -> None:
    one = Shares(Limits(guests=10), 1024).of(ONE)
    one.owe(GUESTS, 6)
    with pytest.raises(Busy, match="user 1000 has 6 guests, and may have 5 of 10"):
        one.take(GUESTS)
    one.give(GUESTS, 6)
    one.take(GUESTS)


def test_two_users_at_their_shares_leave_something_for_a_third() -> None:
    limits = Limits(guests=32, unfilled=1 << 40)
    shares = Shares(limits, 1024)
    for what, bound in shares.bounds.items():
        shares.of(ONE).take(what, bound.share)
        kept = f"the last {bound.total // 16} of {bound.total} {what} are for users who have fewer: "
        with pytest.raises(Busy, match=kept):
            for _ in range(bound.share // bound.one + 1):
                shares.of(OTHER).take(what, bound.one)
    for what, count in {GUESTS: 1, GREETINGS: 1, DESCRIPTORS: 4, ARRIVING: 4, OPENS: limits.handles,
                        LENT: limits.memory}.items():  # fmt: skip
        shares.of(THIRD).take(what, count)
    with pytest.raises(Busy, match="the last 2 of 32 guests"):
        shares.of(THIRD).take(GUESTS)
