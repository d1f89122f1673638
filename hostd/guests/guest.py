"""One guest: who it is, what it has, and its lanes.  It outlives a lost link."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from hcall.clock import Clock
from hcall.errors import BadArea, BadArgument, Status
from hcall.numbers import CLASS_SHIFT, CORE
from hcall.saved import Saved, check
from hcall.session.host import HostSession
from hcall.session.states import State

from ..calls.account import Account
from ..calls.dispatch import Answer, Bodies, Dispatch, Dispatcher, each
from ..calls.filters import Filter, Hint, chain, chain_hints
from ..calls.limits import Limits
from ..calls.memory import Identity, Lending, Region
from ..calls.shares import Purse
from ..lanes.ring.rings import Rings, as_eventfd
from ..lanes.socket.lane import SocketLane
from ..lanes.socket.peer import Peer
from ..lanes.socket.porter import Porter
from ..model.blame import Misbehaved
from ..tree.complaints import Complaints
from ..tree.tree import Tree
from .policy import Policy, Rights
from .turns import TURN, Steps, User, Works

T = TypeVar("T")


def printable(name: str) -> str:
    """*name*, as it may go to terminals."""
    if name.isprintable():
        return name
    return "".join(letter if letter.isprintable() else "?" for letter in name)


class Guest:
    """The owner of an account, whose lanes take turns."""

    __slots__ = ("__weakref__", "_clock", "_complaints", "_dispatcher", "_filters", "_porter", "_rings", "_time",
                 "_user", "_waiting", "account", "acknowledge", "breaks", "dispatch", "had", "hint", "identity", "lane",
                 "name", "number", "opens", "peer", "purse", "rights", "sees", "token")  # fmt: skip

    def __init__(self, number: int, name: str, token: bytes, peer: Peer, session: HostSession, tree: Tree,
                 limits: Limits, clock: Clock, user: User, purse: Purse, rights: Rights,
                 porter: Porter) -> None:  # fmt: skip
        """No other guest of the host, in all its lives, has the *number*; *user* and *purse* are its user's."""
        self.number = number
        self.name = printable(name)
        self.purse, self._porter = purse, porter
        self.token, self.peer, self._clock, self._time = token, peer, clock, clock.time
        self.identity: tuple[Identity, ...] = ()  # the memory of its HELLO
        self._have(rights)
        self._complaints: Complaints | None = None
        self.account = Account(tree, limits, self)
        self.acknowledge = self.account.acknowledge
        self.lane = SocketLane(session, self, clock.time)
        self._rings: Rings | None = None
        self.breaks: Callable[[Guest, str], None] = lambda guest, text: None  # what ends one that breaks a rule
        self._user, self.had = user, 0.0
        self._waiting: list[Works] = []  # lanes, say, with work for the guest's next turn: few, and seldom any
        self._filters: tuple[Filter, ...] = ()
        self._dispatcher = Dispatcher(self.account)
        self.dispatch: Dispatch = self._dispatcher.dispatch
        self.hint: Hint = self.lane.hint

    # What outlives the daemon.

    def save(self) -> Saved:
        """What `restore` needs, when no call is under way."""
        return {
            "version": 1, "number": self.number, "name": self.name, "token": self.token, "uid": self.uid,
            "groups": list(self.peer.groups), "rights": self.rights.save(),
            "identity": [list(each) for each in self.identity], "session": self.lane.session.save(),
            "account": self.account.save(),
        }  # fmt: skip

    @classmethod
    def restore(cls, saved: Saved, tree: Tree, limits: Limits, clock: Clock, user: User, purse: Purse,
                porter: Porter) -> Guest:  # fmt: skip
        """The guest as it was, without a link and its memory, which it brings again.  Raises ValueError."""
        check(saved, 1)
        session = HostSession.restore(saved["session"])
        peer, rights = Peer(saved["uid"], tuple(saved["groups"])), Rights.restore(saved["rights"])
        guest = cls(saved["number"], saved["name"], saved["token"], peer, session, tree, limits, clock, user, purse,
                    rights, porter)  # fmt: skip
        guest.identity = tuple(map(tuple, saved["identity"]))
        guest.account.restore(saved["account"])
        return guest

    # What it may do.

    def obey(self, policy: Policy, peer: Peer) -> None:
        """*policy* is what holds from now on, and *peer* who it is.  Raises NotAllowed, and then it has to go."""
        rights, before, saw = policy.rights(peer, self.name), self.rights, self.sees
        self.peer = peer
        self._have(rights)
        if rights != before:
            self.go_on(self.lane.batch(partial(self.account.revise, saw)))

    def _have(self, rights: Rights) -> None:
        self.rights, self.sees, self.opens = rights, rights.sees, rights.opens

    @property
    def complaints(self) -> Complaints:
        """What went wrong for it that no device did: seldom anything."""
        if self._complaints is None:
            self._complaints = Complaints(f"guest {self.name!r}", self._clock)
        return self._complaints

    @property
    def uid(self) -> int:
        """Its user."""
        return self.peer.uid

    # Filters.

    def put(self, new: Filter) -> Callable[[], None]:
        """Put *new* in front of all that is there; what takes it out again."""
        self._chain((new, *self._filters))

        def take_out() -> None:
            at = self._filters.index(new)
            self._chain(self._filters[:at] + self._filters[at + 1 :])

        return take_out

    def _chain(self, filters: tuple[Filter, ...]) -> None:
        self._filters = filters
        self.dispatch = chain(self._filters, self._dispatcher.dispatch)
        self.hint = chain_hints(self._filters[::-1], self.lane.hint)

    def each(self, number: int, handle: int, bodies: Bodies) -> Iterator[Answer]:
        """See `calls.dispatch.each`."""
        if self._filters:
            return each(self.dispatch, number, handle, bodies)
        return self._dispatcher.each(number, handle, bodies)

    # Turns.

    def due(self, lane: Works) -> None:
        """*lane* has work: it is done now, unless the guest, or its user, has had its turn and waits for the next."""
        waiting, user = self._waiting, self._user
        if not waiting:
            now = self._time()
            if user.free <= now and not user.queue:
                left = lane.work(now, now + TURN)
                # As `User.charge`, which each call would pay for.
                used, least = lane.ended - now, now - TURN
                user.used += used
                free = user.free
                user.free = (free if free > least else least) + used * (2 + len(user.others))
                if not left:
                    return
            if not waiting:  # else it has come to wait meanwhile
                user.enter(self)
        if lane not in waiting:
            waiting.append(lane)

    def work(self, until: float) -> bool:
        """See `Worker`: its lanes, one after the other."""
        waiting = self._waiting
        while waiting:
            lane = waiting[0]
            left = lane.work(self._time(), until)
            if lane in waiting:  # else the guest has ended meanwhile
                waiting.remove(lane)
                if left:
                    waiting.append(lane)
            if left:
                break
        return bool(waiting)

    def may_repeat(self, number: int, handle: int) -> bool:
        """Whether a call that may have been made can be made again: it is marked so, or of the core."""
        hold = self.account.holds.get(handle)
        return number >> CLASS_SHIFT == 0 or (hold is not None and hold.plugged.may_repeat(number))

    def overran(self, number: int, handle: int, seconds: float) -> None:
        """The call *number* took longer than a turn."""
        hold = self.account.holds.get(handle)
        if number >> CLASS_SHIFT and hold is not None:
            hold.plugged.long_calls.note(hold.plugged.name_of(number), seconds)
        else:
            self.account.tree.long_calls.note(CORE.get(number, "an unknown call"), seconds)

    def misfit(self, number: int, handle: int, value: object) -> None:
        """*value*, the answer of the call *number*, is none: no message carries it."""
        caller = self.account.holds.get(handle) or self.account
        caller.complain(number, Misbehaved(f"its answer does not fit a message: {reprlib.repr(value)}"))

    # What its account asks of it.

    def lend(self, number: int, start: int, size: int, offset: int | None, then: Lending) -> None:
        """See `Owner`."""
        self._porter.check(self.uid)
        self.lane.lend(number, start, size, offset, then)

    def free(self, region: Region, then: Callable[[], None]) -> None:
        """See `Owner`."""
        self._porter.free(region, then)

    def carry(self, does: Callable[[], T], then: Callable[[T], None]) -> None:
        """See `lanes.lane.Carried`."""
        self._porter.carry(self.uid, does, then)

    def detach(self, then: Callable[[], None]) -> None:
        """It has said DETACH: its devices are given back, and *then* follows; the loss of its link is its end."""
        self.lane.detached = True
        self.let_go(then)

    @property
    def rings(self) -> Rings:
        """See `Owner`: made when they are used first."""
        if self._rings is None:
            self._rings = Rings(self, self.account, self._time)
        return self._rings

    def eventfd(self, number: int, then: Callable[[int | BadArea | BadArgument], None]) -> None:
        """See `lanes.ring.lane.Rung`."""
        self._porter.check(self.uid)
        self.lane.take(number, as_eventfd, then)

    def broke(self, text: str) -> None:
        """See `lanes.ring.lane.Rung`."""
        self.breaks(self, text)

    # Its life.

    def stop(self, then: Callable[[], None]) -> None:
        """All its lanes take nothing more; *then* follows when all that was taken is answered."""
        rings = self._rings
        self.lane.stop(then if rings is None else partial(rings.stop, then))

    def resume(self, features: int) -> None:
        """It came back on a new link, with these *features*; what it may have lost is given again."""
        self.lane.resume(features)
        self.account.relink()

    def let_go(self, then: Callable[[], None]) -> None:
        """Give back all devices, every call answered; *then* follows when none is under way any more."""
        self.go_on(self.lane.batch(partial(self.account.close, then)))

    def go_on(self, steps: Iterator[None]) -> None:
        """See `Owner`."""
        self.due(Steps(steps, self._time, self.lane.batch))

    def end(self, status: Status, text: str, then: Callable[[], None] = lambda: None) -> None:
        """Say the last word and give back all devices; *then* follows when no call is under way any more."""
        if self.lane.session.state is State.ENDED:
            then()
            return

        def forget() -> None:
            self.account.memory.close(self.purse.close)
            then()

        if self._complaints is not None:
            self._complaints.settle(last=True)
        self._waiting.clear()
        self.let_go(forget)
        self.lane.end(status, text)
