"""What each user of the host has of it, and may have: whoever asks for more than a share is refused, not the others.

A user is a uid, the daemon's own and root's like any.  What is counted has a total, and one user may have a share of
it, `[limits] share`, but always as much as one guest may have: so that no user can take all that there is.  Descriptors
have a reserve beside that, which no guest is given: connections that are greeted, and may be guests that come back,
the control socket, and the daemon's own files.  The last of each sort is kept for users who have no more of it than one
guest may have: two at their shares leave something for a third.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from hcall.errors import Busy

from .limits import Limits

GUESTS: Final = "guests"
GREETINGS: Final = "greetings"  # connections without a guest: their HELLO has not come yet
DESCRIPTORS: Final = "descriptors"  # that guests have: sockets, lanes, memory
ARRIVING: Final = "arriving descriptors"  # of greetings: their sockets, and what HELLO brings
LENT: Final = "bytes of memory lent"
UNFILLED: Final = "bytes of memory lent without pages"
OPENS: Final = "open devices"
CONFIGURED: Final = "configured devices"
OURS: Final = 128  # descriptors of the daemon's own: devices, control connections, the interpreter
_KEPT: Final = 16  # one part of so many is for those who have little
LINKS: Final = 2  # a guest's socket and fd lane


class Bound(NamedTuple):
    """Of one sort of thing."""

    total: int  # what all users may have
    share: int  # what one user may have
    one: int  # what one guest may have
    limit: str  # where that is said, for people


class Shares:
    """What there is, and who has how much of it."""

    def __init__(self, limits: Limits, files: int) -> None:
        """*files* are those that the process may have open."""
        of_guests = files - OURS
        arriving = max(limits.regions + LINKS, of_guests // 4)

        def bound(total: int, one: int, limit: str) -> Bound:
            """*one* guest may have that much, whatever the share is."""
            return Bound(max(total, one), max(one, -(-total * limits.share // 100)), one, f"[limits] {limit}")

        self.bounds: Final = {
            GUESTS: bound(limits.guests, 1, "guests"),
            GREETINGS: bound(limits.greetings, 1, "greetings"),
            DESCRIPTORS: bound(of_guests - arriving, limits.regions + LINKS, "share, and ulimit -n"),
            ARRIVING: bound(arriving, limits.regions + LINKS, "share, and ulimit -n"),
            LENT: bound(limits.lent, limits.memory, "lent"),
            UNFILLED: bound(limits.unfilled, limits.sparse, "unfilled"),
            OPENS: bound(limits.opens, limits.handles, "opens"),
            CONFIGURED: bound(limits.opens, limits.handles, "opens"),
        }
        self.used: Counter[str] = Counter()  # by all
        self._users: dict[int, Share] = {}

    def of(self, uid: int) -> Share:
        """What the user *uid* has."""
        share = self._users.get(uid)
        if share is None:
            share = self._users[uid] = Share(self, uid)
        return share

    @property
    def users(self) -> list[Share]:
        """Those that have something, or had."""
        return list(self._users.values())


class Share:
    """What one user has."""

    __slots__ = ("_of", "uid", "used")

    def __init__(self, of: Shares, uid: int) -> None:
        self._of, self.uid = of, uid
        self.used: Counter[str] = Counter()

    def take(self, what: str, count: int = 1) -> None:
        """*count* more of *what*.  Raises Busy, with a sentence that says which limit it is, and takes nothing."""
        bound, has = self._of.bounds[what], self.used[what]
        if self._of.used[what] + count > bound.total:
            raise Busy(f"this host has at most {bound.total} {what}, for all users: {bound.limit}")
        if has + count > bound.share:
            raise Busy(f"user {self.uid} has {has} {what}, and may have {bound.share} of {bound.total}: {bound.limit}")
        kept = bound.total // _KEPT if has + count > bound.one else 0
        if self._of.used[what] + count > bound.total - kept:
            raise Busy(f"the last {kept} of {bound.total} {what} are for users who have fewer: {bound.limit}")
        self.owe(what, count)

    def owe(self, what: str, count: int = 1) -> None:
        """*count* more of *what*, which are there already, whatever the bounds are."""
        self.used[what] += count
        self._of.used[what] += count

    def give(self, what: str, count: int = 1) -> None:
        """*count* of what was taken are given back."""
        self.used[what] -= count
        self._of.used[what] -= count
        assert self.used[what] >= 0, what


class Purse:
    """What one guest, or one greeting, has of its user's share."""

    __slots__ = ("share", "used")

    def __init__(self, share: Share) -> None:
        self.share = share
        self.used: dict[str, int] = {}

    def take(self, what: str, count: int = 1) -> None:
        """See `Share.take`."""
        self.share.take(what, count)
        self.used[what] = self.used.get(what, 0) + count

    def owe(self, what: str, count: int = 1) -> None:
        """See `Share.owe`."""
        self.share.owe(what, count)
        self.used[what] = self.used.get(what, 0) + count

    def give(self, what: str, count: int = 1) -> None:
        """See `Share.give`."""
        self.share.give(what, count)
        self.used[what] -= count

    def close(self) -> None:
        """Give all back."""
        for what, count in self.used.items():
            self.share.give(what, count)
        self.used.clear()
