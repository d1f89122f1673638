"""All guests of a host: who is let in, who comes back, and who has been away too long."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import itertools
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeAlias

from hcall.clock import Clock, timeout
from hcall.errors import Busy, NotAllowed, Status
from hcall.kernel import processors
from hcall.messages import Hello
from hcall.saved import Saved, check
from hcall.session.host import HostSession
from hcall.spin import Awake
from hcall.text import cut

from ..calls.filters import Filter
from ..calls.limits import Limits
from ..calls.memory import Lent, Region
from ..calls.shares import ARRIVING, DESCRIPTORS, GREETINGS, GUESTS, LINKS, Purse, Shares
from ..lanes.socket.anteroom import Anteroom
from ..lanes.socket.greeting import Greeting
from ..lanes.socket.link import Link
from ..lanes.socket.listener import Listener
from ..lanes.socket.peer import Peer, peer
from ..lanes.socket.porter import Porter
from ..tree.complaints import Users
from ..tree.tree import Tree
from .attended import Attended
from .guest import Guest, printable
from .policy import Policy
from .turns import Chores, Once, Turns

HELLO_SECONDS: Final = 5.0  # from connect to a complete HELLO
MESSAGE_SECONDS: Final = 5.0  # from the first byte of a message to its last
UNREAD_SECONDS: Final = 10.0  # that a guest may leave its answers unread
RESUME_SECONDS: Final = 30.0  # that a guest may be without a link
CLOSE_SECONDS: Final = 2.0  # for the last bytes to go out
SWEEP_SECONDS: Final = 1.0  # one sweep for all these, not a timer for each guest


class Came(enum.Enum):
    """What became of a guest."""

    ATTACHED, UNLINKED, RESUMED, ENDED = "attach", "unlink", "resume", "end"


#: Hears of each guest that comes or goes, and why, if it has ended.
GuestWatcher: TypeAlias = Callable[[Came, Guest, str], None]


class _Put(NamedTuple):
    """A filter in front of everybody."""

    make: Callable[[Guest], Filter]
    outs: dict[Guest, Callable[[], None]]  # of those that have not ended

    def on(self, guest: Guest) -> None:
        self.outs[guest] = guest.put(self.make(guest))


class Guests:
    """The guests, their links, and the listener that they come by."""

    def __init__(
        self, tree: Tree, limits: Limits, clock: Clock, epoch: int, policy: Policy, files: int,
        spin: bool = False,
    ) -> None:  # fmt: skip
        """*files* are those that the process may have open; with *spin* it looks again before it sleeps."""
        self.policy = policy
        self.tree, self.limits, self.clock, self.epoch = tree, limits, clock, epoch
        self.loop = asyncio.get_running_loop()
        self.awake = Awake(processors.spin(clock.time), self.loop.call_soon) if spin else None
        self.by_token: dict[bytes, Guest] = {}
        self.by_number: dict[int, Guest] = {}
        self._last = 0  # number of a guest
        self.links: set[Link] = set()
        self.greetings: set[Greeting] = set()
        self._anterooms: dict[int, Anteroom] = {}  # of each user who came
        self.changed = asyncio.Event()  # somebody came or went
        self._connecting: set[asyncio.Task[None]] = set()
        self._leaving = 0  # guests that ended while calls of theirs were under way
        self._listener: Listener | None = None
        self._put: list[_Put] = []  # filters in front of everybody
        self.watchers: dict[object, GuestWatcher] = {}
        self.attended = Attended(clock)
        self.time = self.attended.time
        self._users = Users(clock)
        self.complain = self._users.say
        self._sweeper = self.attended.call_later(SWEEP_SECONDS, self._sweep)
        self.turns = Turns(clock.time)
        self.chores = Chores(self.turns)
        tree.chore = self.chores.add
        self.porter = Porter(clock, self.time, self.changed)
        self.shares = Shares(limits, files)

    def listen(self, listener: socket.socket) -> None:
        """Let guests in by *listener*, which is closed at the end."""
        self._listener = Listener(listener, self.clock, self._accepted)

    def _accepted(self, sock: socket.socket) -> None:
        begun, who = self.turns.time(), peer(sock)
        greeting = Greeting(self, sock, Purse(self.shares.of(who.uid)))
        try:
            greeting.purse.take(GREETINGS)
            greeting.purse.take(ARRIVING)
            if not self.policy.may_come(who):
                raise NotAllowed(f"the machine's policy has no rule for user {who.uid}")
        except (Busy, NotAllowed) as error:
            greeting.refuse(error.status, str(error))
        self.turns.of(who.uid).charge(begun, self.turns.time())

    def anteroom(self, uid: int) -> Anteroom:
        """Where those of the user *uid* wait who have not said HELLO."""
        room = self._anterooms.get(uid)
        if room is None:
            room = self._anterooms[uid] = Anteroom(self.loop, self.turns.of(uid).do, self.turns.time)
        return room

    def put(self, make: Callable[[Guest], Filter]) -> Callable[[], None]:
        """Put a filter in front of each guest, those that come later too; what takes them out again."""
        put = _Put(make, {})
        self._put.append(put)
        for guest in self.by_token.values():
            put.on(guest)

        def take_out() -> None:
            self._put.remove(put)
            for out in put.outs.values():
                out()

        return take_out

    def admit(self, hello: Hello, session: HostSession, peer: Peer, lent: Sequence[Lent]) -> tuple[Guest, bool]:
        """The guest of *hello* and *peer*, new, or known by its token; and whether it was known.

        *lent* is its memory, in the order of its regions, and is the guest's, or freed.  Raises NotAllowed, BadArea or
        Busy.
        """
        rest = list(lent)
        try:
            return self._admit(hello, session, peer, rest)
        finally:
            for each in rest:
                if isinstance(each, Region):
                    self.porter.free(each, lambda: None)

    def _admit(self, hello: Hello, session: HostSession, peer: Peer, lent: list[Lent]) -> tuple[Guest, bool]:
        """The same; what is left of *lent* was not taken."""
        guest = self.by_token.get(hello.token)
        if guest is not None:
            brought = {region.identity for region in lent if isinstance(region, Region)}
            if peer.uid != guest.uid or len(brought) != len(lent) or brought != {*guest.identity}:
                raise NotAllowed("this token is another guest's: its user and memory are not yours")
            self._obey(guest, peer)
            self._unwatch(guest)
            self._lend(guest, hello, lent)
            self._tell(Came.RESUMED, guest)
            guest.resume(session.features)
            return guest, True
        rights = self.policy.rights(peer, printable(hello.name))
        user, purse = self.turns.of(peer.uid), Purse(self.shares.of(peer.uid))
        guest = Guest(
            self.next_number(), hello.name, hello.token, peer, session, self.tree, self.limits, self.clock, user, purse,
            rights, self.porter,
        )  # fmt: skip
        try:
            purse.take(GUESTS)
            purse.take(DESCRIPTORS, LINKS)
            self._lend(guest, hello, lent)
        except BaseException:
            purse.close()
            raise
        guest.identity = guest.account.memory.identity
        self._enter(guest)
        self._users.say(guest.uid, f"guest {guest.name!r} is here", logging.INFO)
        self._tell(Came.ATTACHED, guest)
        self.changed.set()
        return guest, False

    def next_number(self) -> int:
        """A number that no guest of the host has, in all its lives."""
        self._last += 1
        return self._last

    async def obey(self, policy: Policy) -> None:
        """*policy* is what holds from now on, for those who are here, too: for all of them at the end of this."""
        self.policy = policy
        await self.chores.do(self._all_obey())

    def _all_obey(self) -> Iterator[None]:
        for guest in list(self.by_token.values()):
            if self.by_token.get(guest.token) is guest:
                with contextlib.suppress(NotAllowed):
                    self._obey(guest, guest.peer)
            yield

    def _obey(self, guest: Guest, peer: Peer) -> None:
        try:
            guest.obey(self.policy, peer)
        except NotAllowed as error:
            self.end(guest, error.status, str(error))
            raise

    def _enter(self, guest: Guest) -> None:
        for put in self._put:
            put.on(guest)
        guest.breaks = self.broke
        self.by_token[guest.token] = self.by_number[guest.number] = guest

    def _tell(self, what: Came, guest: Guest, why: str = "") -> None:
        for watcher in list(self.watchers.values()):
            watcher(what, guest, why)

    def _lend(self, guest: Guest, hello: Hello, lent: list[Lent]) -> None:
        """The guest has the memory of *hello*, unless it had it before: off *lent*.  Raises BadArea or Busy."""
        memory = guest.account.memory
        if memory.version:
            return
        try:
            for start, size, *_ in hello.regions:
                memory.add(start, size, lent.pop(0))
        except BaseException:
            memory.close()
            raise

    def save(self) -> Saved:
        """What `restore` needs, when no call is under way."""
        return {"version": 1, "last": self._last, "guests": [guest.save() for guest in self.by_token.values()]}

    def restore(self, saved: Saved) -> None:
        """The guests of another life of the host are away, and may come back.  Raises ValueError."""
        check(saved, 1)
        self._last = saved["last"]
        for each in saved["guests"]:
            user, purse = self.turns.of(each["uid"]), Purse(self.shares.of(each["uid"]))
            guest = Guest.restore(each, self.tree, self.limits, self.clock, user, purse, self.porter)
            purse.owe(GUESTS)
            purse.owe(DESCRIPTORS, LINKS)
            guest.lane.lost_at = self.time()
            self._enter(guest)
        for _ in self._all_obey():
            pass

    def connect(self, link: Link, sock: socket.socket) -> None:
        """Give *sock* to *link*."""

        async def connect() -> None:
            try:
                await self.loop.connect_accepted_socket(lambda: link, sock)
            except OSError:
                sock.close()
                link.connection_lost(None)

        task = self.loop.create_task(connect())
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    def unlinked(self, link: Link) -> None:
        """*link* is gone."""
        self.links.discard(link)
        self.changed.set()

    def lost(self, guest: Guest) -> None:
        """The link of *guest* broke.  Unless it is gone for good, it may come back."""
        guest.lane.lose(self.time())
        self._soon(guest.uid, partial(self._look_after, guest))

    def _soon(self, uid: int, does: Callable[[], object]) -> None:
        """*does* is work of the user's: many of its guests may go at once."""
        self.turns.of(uid).do(Once(does))

    def _look_after(self, guest: Guest) -> None:
        """It has no link, unless it came back, or has ended meanwhile."""
        lane = guest.lane
        if lane.link is not None or self.by_token.get(guest.token) is not guest:
            return
        if lane.detached or lane.is_dead():
            self.end(guest, Status.RESET, "the guest is gone")
            return
        self._tell(Came.UNLINKED, guest)
        if lane.fd_lane is not None:
            # The kernel closes a dead process's descriptors one by one: the lane's turn may come after the link's.
            self.loop.add_reader(lane.fd_lane, self._lane_readable, guest)

    def _lane_readable(self, guest: Guest) -> None:
        self._unwatch(guest)  # once: it may be a descriptor that came, which nobody takes now
        if guest.lane.link is None and guest.lane.is_dead():
            self.end(guest, Status.RESET, "the guest is gone")

    def _unwatch(self, guest: Guest) -> None:
        if guest.lane.fd_lane is not None:
            self.loop.remove_reader(guest.lane.fd_lane)

    def end(self, guest: Guest, status: Status, text: str) -> None:
        """The session of *guest* is over; nothing of it can be resumed."""
        if self.by_token.get(guest.token) is not guest:  # it has ended before; another may have its token now
            return
        del self.by_token[guest.token], self.by_number[guest.number]
        self._users.say(guest.uid, f"guest {guest.name!r}: {text}", logging.INFO)
        self._unwatch(guest)
        self._leaving += 1
        guest.purse.give(GUESTS)
        guest.end(status, cut(text), self._left)
        for put in self._put:
            put.outs.pop(guest, None)  # answers that are still to come are seen, too
        self._tell(Came.ENDED, guest, text)
        self.changed.set()

    def expel(self, number: int, text: str) -> None:
        """A device wants a guest reset: soon, since a call of it may be under way.  It may be long gone."""
        guest = self.by_number.get(number)
        if guest is not None:
            self.complain(guest.uid, f"guest {guest.name!r} is reset: {text}")
            self.loop.call_soon(self.end, guest, Status.RESET, text)

    def broke(self, guest: Guest, text: str) -> None:
        """*guest* broke a rule of a lane: it ends, soon, since it may be its turn."""
        self.loop.call_soon(self.end, guest, Status.BAD_ARGUMENT, text)

    def _left(self) -> None:
        self._leaving -= 1
        self.changed.set()

    def _sweep(self) -> None:
        now = self.time()
        for greeting in [greeting for greeting in self.greetings if now - greeting.since > HELLO_SECONDS]:
            self._soon(greeting.uid, partial(greeting.late, HELLO_SECONDS))
        for link in list(self.links):
            link.look()
            if link.closing_since is not None and now - link.closing_since > CLOSE_SECONDS:
                link.abort()
            if link.full_since is not None and now - link.full_since > UNREAD_SECONDS:
                link.abort()
            if link.partial_since is not None and now - link.partial_since > MESSAGE_SECONDS:
                link.late(f"a message took longer than {MESSAGE_SECONDS:.0f} s")
        for guest in list(self.by_token.values()):
            lost_at = guest.lane.lost_at
            if lost_at is not None and (now - lost_at > RESUME_SECONDS or guest.lane.is_dead()):
                self._soon(guest.uid, partial(self._give_up, guest))
        self.porter.again()
        watched = {guest: regions for guest in self.by_token.values() if (regions := guest.account.memory.watched)}
        if watched:
            self.porter.look(itertools.chain(*watched.values()), partial(self._looked, list(watched)))
        self._sweeper = self.attended.call_later(SWEEP_SECONDS, self._sweep)

    def _looked(self, guests: list[Guest]) -> None:
        """At their memory."""
        for guest in guests:
            try:
                guest.account.memory.look()
            except Busy as error:
                self.end(guest, error.status, str(error))

    def _give_up(self, guest: Guest) -> None:
        if guest.lane.link is None:  # else it came back meanwhile
            self.end(guest, Status.RESET, "the guest did not come back")

    async def close(self) -> None:
        """End all sessions, every call answered, and wait until the last bytes are out: a few seconds at most."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._sweeper.cancel()
        self.attended.close()
        for greeting in list(self.greetings):
            greeting.refuse(Status.RESET, "the host is shutting down")
        if self._connecting:
            await asyncio.wait(self._connecting)
        with contextlib.suppress(TimeoutError):  # a call that is stuck in a worker thread is not waited for
            async with timeout(self.clock, CLOSE_SECONDS):
                self._leaving += len(self.by_token)
                for guest in self.by_token.values():
                    guest.let_go(self._left)
                await self.wait_for(lambda: not self._leaving)
        for guest in list(self.by_token.values()):
            self.end(guest, Status.RESET, "the host is shutting down")
        try:
            async with timeout(self.clock, CLOSE_SECONDS):
                await self.wait_for(lambda: not self.links)
        except TimeoutError:
            for link in list(self.links):
                link.abort()
            await self.wait_for(lambda: not self.links)
        await self.porter.end(CLOSE_SECONDS)
        self._users.close()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until *condition* holds, which can change only when somebody comes or goes."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()
