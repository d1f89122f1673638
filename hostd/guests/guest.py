"""One guest: its session, what it has open, and the link of the moment.  It outlives a lost link."""

from __future__ import annotations

import asyncio
import os
import reprlib
import select
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol
from weakref import ref

from hcall.clock import Clock
from hcall.errors import BadArgument, ProtocolViolation, Status
from hcall.kernel import descriptors
from hcall.messages import CALL, Hello, end
from hcall.numbers import MAX_VECTORS
from hcall.session.host import HostSession
from hcall.session.states import READY, Message, State

from ..calls.account import Account
from ..calls.dispatch import Dispatch, Dispatcher
from ..calls.limits import Limits
from ..calls.memory import Identity
from ..model.blame import Misbehaved
from ..tree.complaints import Complaints
from ..tree.tree import Tree

_FD_BYTES: Final = 4  # a datagram of the fd lane: the id, little-endian, and one descriptor
_LANE_READS: Final = 1024  # more datagrams than the lane holds; a guest that never stops sending is not waited for
_TURN_SECONDS: Final = 0.005  # of one guest's calls, and one call more: others wait meanwhile


class Connection(Protocol):
    """What carries a guest's session for the moment."""

    partial_since: float | None  # when a message began that has not ended

    def write(self, out: list[bytes]) -> None:
        """Send all of *out*, in one write, and empty it."""

    def close(self) -> None:
        """Close when what was written has gone out."""

    def abort(self) -> None:
        """Cut it."""


class Guest:
    """Takes a link's bytes, makes the calls in them, and answers in one write."""

    __slots__ = ("__weakref__", "_batching", "_calls", "_time", "account", "complaints", "detached", "dispatch",
                 "expel", "fd_lane", "identity", "link", "lost_at", "name", "sees", "session", "token",
                 "uid")  # fmt: skip

    def __init__(self, hello: Hello, session: HostSession, uid: int, tree: Tree, limits: Limits,
                 expel: Callable[[ref[Guest], str], None], clock: Clock) -> None:  # fmt: skip
        """*expel*(guest, text) ends its session, for a device that resets it, and may keep that long after its end."""
        self._time = clock.time
        self.name = "".join(letter if letter.isprintable() else "?" for letter in hello.name)  # it goes to terminals
        self.token, self.uid, self.session = hello.token, uid, session
        self.expel = partial(expel, ref(self))
        self.sees: Callable[[str], bool] | None = None
        self.complaints = Complaints(f"guest {self.name!r}", clock)
        self.account = Account(tree, limits, self)
        self.dispatch: Dispatch = Dispatcher(self.account).dispatch
        self.identity: set[Identity] = set()  # the memory of its HELLO
        self.fd_lane: socket.socket | None = None
        self.link: Connection | None = None
        self.lost_at: float | None = None
        self.detached = False
        self._batching = False
        self._calls: deque[Message] = deque()  # that came, and have not been made: no more than there are slots

    def receive(self, data: bytes) -> ProtocolViolation | None:
        """The bytes of a link; what is wrong with them."""
        session, calls = self.session, self._calls
        waits = bool(calls)
        for message in session.receive(data):
            if message[0] == CALL:
                calls.append(message)
            elif 0 <= message[2] < MAX_VECTORS:
                self.account.acknowledge(message[1], message[2], message[3])
            else:
                session.broken = ProtocolViolation(f"there is no vector {message[2]}")
                break
        if not waits:
            self._work()
        return session.broken

    def _work(self) -> None:
        """Make the calls that came; those that there is no time for when the other guests had their turn."""
        session, dispatch, calls = self.session, self.dispatch, self._calls
        time = self._time
        until = time() + _TURN_SECONDS
        self._batching = True
        try:
            while calls:
                _, slot, seq, number, handle, args, areas = calls.popleft()
                answer = dispatch(number, handle, args, areas)
                if isinstance(answer, tuple):
                    status, value = answer
                    if not session.reply(slot, seq, status, value):
                        self._blame(number, handle, value)
                else:
                    answer.then(partial(self._answer, slot, seq, number, handle))
                if calls and time() > until:
                    asyncio.get_running_loop().call_soon(self._work)
                    break
        finally:
            self._batching = False
        if session.out:
            self.flush()

    def flush(self) -> None:
        """Write what waits, in one piece."""
        if self.link is not None:
            self.link.write(self.session.out)

    def attach(self, link: Connection) -> None:
        """*link* carries the session from now on."""
        self.link = link
        self.lost_at = None

    def resume(self) -> None:
        """The guest came back: the old link, even if it looks alive, is cut; what it may have lost is given again."""
        old, self.link = self.link, None
        if old is not None:
            old.abort()
        self.session.resume()
        self.account.relink()

    def lose(self, now: float) -> None:
        """The link broke."""
        self.link = None
        self.lost_at = now
        self.session.lose()

    def end(self, status: Status, text: str, then: Callable[[], None] = lambda: None) -> None:
        """Say the last word and give back all devices; *then* follows when no call is under way any more."""
        if self.session.state is State.ENDED:
            then()
            return

        def let_go() -> None:
            self.account.memory.regions.clear()  # unmapped now, not when the garbage is collected some day
            then()

        self.complaints.settle(last=True)
        self._calls.clear()
        self.let_go(let_go)
        self.session.end(end(status, text))
        self.flush()
        if self.link is not None:
            self.link.close()
            self.link = None
        self.take_lane(None)

    def let_go(self, then: Callable[[], None]) -> None:
        """Give back all devices, every call answered; *then* follows when none is under way any more."""
        self._batching = True
        self.account.close(then)
        self._batching = False
        self.flush()

    def take_lane(self, lane: socket.socket | None) -> None:
        """*lane* takes the place of the fd lane, which is closed."""
        if self.fd_lane is not None:
            self.fd_lane.close()
        self.fd_lane = lane

    def is_dead(self) -> bool:
        """Whether its process is gone: then nobody holds the other end of the fd lane."""
        if self.fd_lane is None:
            return False
        poll = select.poll()
        poll.register(self.fd_lane, 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))

    def _answer(self, slot: int, seq: int, number: int, handle: int, status: int, value: object) -> None:
        if self.session.state is not State.ENDED:
            if not self.session.reply(slot, seq, status, value):
                self._blame(number, handle, value)
            if not self._batching:
                self.flush()

    def hint(self, tag: int, vector: int, count: int) -> None:
        """Tell it of an interrupt."""
        if self.session.state is READY:
            self.session.interrupt(tag, vector, count)
            if not self._batching:
                self.flush()

    def descriptor(self, number: int) -> int:
        """The descriptor with *number*, the caller's to close; those before it on the lane are dropped."""
        for _ in range(_LANE_READS):
            if self.fd_lane is None:
                break
            try:
                data, fds, cut = descriptors.receive(self.fd_lane, _FD_BYTES + 1, 2)
            except OSError:
                break
            if not data and not fds:
                break
            whole = len(data) == _FD_BYTES and len(fds) == 1 and not cut
            if whole and int.from_bytes(data, "little") == number:
                return fds[0]
            for fd in fds:
                os.close(fd)
        raise BadArgument(f"no descriptor with the id {number} came over the fd lane")

    def detach(self) -> None:
        """It has said DETACH: the loss of its link is its end."""
        self.detached = True

    def _blame(self, number: int, handle: int, value: object) -> None:
        """The answer of the call *number* was none: no message carries it."""
        caller = self.account.holds.get(handle) or self.account
        caller.complain(number, Misbehaved(f"its answer does not fit a message: {reprlib.repr(value)}"))
