"""The lane of a Unix socket: a session, which outlives its links, and the fd lane beside it."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast

from hcall.errors import BadArea, BadArgument, Status
from hcall.kernel import descriptors
from hcall.messages import CALLS, end
from hcall.session.host import HostSession
from hcall.session.states import READY, Message, State

from ...calls.dispatch import Deferred
from ...calls.memory import Lending, lend
from ...tree.long_calls import TURN_SECONDS
from ..lane import REPLACED, Carried
from .bundle import Bundle
from .porter import close

_PASSED: Final = 64  # descriptors that are passed over before the call waits until they are closed
_FD_BYTES: Final = 4  # a datagram of the fd lane: the id, little-endian, and one descriptor
_AT_ONCE: Final = 2048  # bytes that are decoded before time is looked at: 0.3 ms for ACKs, the smallest
_LANE_READS: Final = 1024  # more datagrams than the lane holds; a guest that never stops sending is not waited for

T = TypeVar("T")
#: What an answer finds its call by: slot, seq, hypercall number, handle.
Ticket: TypeAlias = tuple[int, int, int, int]


class Connection(Protocol):
    """What carries a session for the moment."""

    def write(self, out: list[bytes]) -> None:
        """Send all of *out*, in one write, and empty it."""

    def hold(self) -> None:
        """Read nothing more until `go_on`."""

    def go_on(self) -> None:
        """All that came is decoded: read again."""

    def close(self) -> None:
        """Close when what was written has gone out."""

    def abort(self) -> None:
        """Cut it."""


class SocketLane:
    """Takes a link's bytes, makes the calls in them when it is the guest's turn, and answers in one write."""

    __slots__ = ("_at", "_batching", "_bundle", "_came", "_errands", "_fd_lane", "_guest", "_messages", "_stopped",
                 "_time", "_under_way", "bytes", "detached", "ended", "lends", "link", "lost_at", "owes",
                 "session")  # fmt: skip

    handle = 0

    def __init__(self, session: HostSession, guest: Carried, time: Callable[[], float]) -> None:
        """*time* is that of a clock, by which turns end."""
        self.session, self._guest, self._time = session, guest, time
        self.link: Connection | None = None
        self.lost_at: float | None = None
        self.detached = False  # the loss of the link is the end
        self._fd_lane: socket.socket | None = None
        self.lends = False  # a region is being looked at
        # Lists, which are seldom longer than one: a deque takes 0.6 KiB, of each guest that is at rest.
        self._errands: list[tuple[Callable[[], Any], Callable[[Any], None]]] = []  # the first is under way
        self._batching = False
        self._came = b""  # and is not decoded yet, from `_at` on: that is of the guest's turn, too
        self._at = 0
        self._messages: list[Message] = []  # that came, and wait for their turn: the next one is the last
        self._bundle: Bundle | None = None  # of that next one, if it is one and was begun
        self.ended = 0.0
        self.bytes = 0  # that came, on all its links
        self.owes = False  # there was no time for all that came: the link is told when there was
        self._under_way = 0  # calls that are answered later, but for those that wait for the world outside
        self._stopped: Callable[[], None] | None = None

    def receive(self, data: bytes) -> bool:
        """The bytes of a link; whether all of them are decoded, else the link is told when they are, and made.

        It goes on to read until more comes while some wait: mostly their turn is over before that.
        """
        self.bytes += len(data)
        self._came = self._came + data if self._came else data
        if self.owes:
            if self.link is not None:
                self.link.hold()
            return False
        self._guest.due(self)
        self.owes = bool(self._messages or self._came)
        return not self._came

    def work(self, now: float, until: float) -> bool:
        """See `Lane`."""
        session, dispatch, messages, time = self.session, self._guest.dispatch, self._messages, self._time
        message = None
        self._batching = True
        try:
            while not self.lends:
                if not messages:
                    came = self._came
                    if not came:
                        break
                    if len(came) > _AT_ONCE:
                        self._decode()
                    else:
                        self._came = b""
                        messages += session.receive(came)
                        if len(messages) > 1:
                            messages.reverse()
                    if not messages:
                        continue
                if message is not None:
                    before, now = now, time()
                    if now > until:
                        if now - before > TURN_SECONDS:
                            self._long(message, now - before)
                        break
                message = messages.pop()
                if len(message) == 7:
                    kind, slot, seq, number, handle, args, areas = message
                    if kind == CALLS:
                        self._bundle = self._bundle or Bundle(self, self._guest, message)
                        left, now = self._bundle.work(now, until, time)
                        if left:
                            messages.append(message)
                        else:
                            self._bundle = None
                        message = None
                        if left or now > until:
                            break
                        continue
                    if session.begun and seq in session.begun and not self._guest.may_repeat(number, handle):
                        self.answer(
                            (slot, seq, number, handle),
                            Status.IO_ERROR,
                            REPLACED,
                        )
                        continue
                    answer = dispatch(number, handle, args, areas)
                    if isinstance(answer, tuple):
                        status, value = answer
                        if not session.reply(slot, seq, status, value):
                            self._guest.misfit(number, handle, value)
                    else:
                        self.defer(answer, partial(self.answer, (slot, seq, number, handle)))
                else:
                    _, handle, vector, seen = message
                    self._guest.acknowledge(handle, vector, seen)
        finally:
            self._batching = False
        if session.out and self.link is not None:
            self.link.write(session.out)
        self.ended = ended = time()
        if ended > until and message is not None and ended - now > TURN_SECONDS:
            self._long(message, ended - now)
        if messages or self._came:
            return not self.lends
        if self.owes:
            self.owes = False
            if self.link is not None:
                self.link.go_on()
        if self._stopped is not None:
            self._drained()
        return False

    def _long(self, message: Message, seconds: float) -> None:
        """*message* took longer than a turn."""
        if len(message) == 7:
            self._guest.overran(message[3], message[4], seconds)

    def _decode(self) -> None:
        """Decode some of what came, which is much."""
        at, end = self._at, self._at + _AT_ONCE
        self._messages += self.session.receive(self._came[at:end])
        self._messages.reverse()
        self._at = end
        if end >= len(self._came) or self.session.broken is not None:
            self._forget()

    def _forget(self) -> None:
        """What came and is not decoded."""
        self._came, self._at = b"", 0

    @property
    def waits(self) -> bool:
        """Whether some of what came is still to be decoded, or made."""
        return bool(self._messages or self._came)

    def flush(self) -> None:
        """Write what waits, in one piece."""
        if self.link is not None:
            self.link.write(self.session.out)

    def answer(self, ticket: Ticket, status: int, value: object) -> None:
        """See `Lane`."""
        if self.session.state is not State.ENDED:
            slot, seq, number, handle = ticket
            if not self.session.reply(slot, seq, status, value):
                self._guest.misfit(number, handle, value)
            self.said()

    def said(self) -> None:
        """See `Bundling`."""
        if not self._batching:
            self.flush()

    def defer(self, answer: Deferred, give: Callable[[int, object], None]) -> None:
        """See `Bundling`."""
        if answer.waits:  # for the world outside, and `stop` does not wait for that
            answer.then(give)
        else:
            self._under_way += 1
            answer.then(partial(self._late, give))

    def _late(self, give: Callable[[int, object], None], status: int, value: object) -> None:
        self._under_way -= 1
        give(status, value)
        if self._stopped is not None:
            self._drained()

    def hint(self, tag: int, vector: int, count: int) -> None:
        """See `Lane`."""
        if self.session.state is READY:
            self.session.interrupt(tag, vector, count)
            self.said()

    # Its links.

    def attach(self, link: Connection) -> None:
        """*link* carries the session from now on."""
        self.link, self.lost_at, self.owes = link, None, False

    def resume(self, features: int) -> None:
        """The guest came back, with these *features*: the old link, even if it looks alive, is cut."""
        old, self.link = self.link, None
        if old is not None:
            old.abort()
        self._forget()  # the guest says it again
        self.session.resume(features)

    def lose(self, now: float) -> None:
        """The link broke."""
        self.link, self.lost_at = None, now
        self._forget()
        self.session.lose()

    def stop(self, then: Callable[[], None]) -> None:
        """See `Lane`."""
        self._stopped = then
        if self.link is not None:
            self.link.hold()
        self._drained()

    def _drained(self) -> None:
        if self._stopped is not None and not self.waits and not self._under_way:
            then, self._stopped = self._stopped, None
            then()

    def end(self, status: Status, text: str) -> None:
        """See `Lane`."""
        self._messages.clear()
        if self._bundle is not None:
            self._bundle.drop()
        self._forget()
        self.session.end(end(status, text))
        self.flush()
        if self.link is not None:
            self.link.close()
            self.link = None
        self.take_fd_lane(None)

    def batch(self, work: Callable[[], T]) -> T:
        """Do *work*, whose answers and hints go out in one write."""
        before, self._batching = self._batching, True
        try:
            return work()
        finally:
            self._batching = before
            if not before:
                self.flush()

    # Its descriptors.

    @property
    def fd_lane(self) -> socket.socket | None:
        """What descriptors come by, if the guest has it."""
        return self._fd_lane

    def take_fd_lane(self, lane: socket.socket | None) -> None:
        """*lane* takes the place of the fd lane, which is closed."""
        if self._fd_lane is not None:
            self._send(self._fd_lane.close)  # with what is in its queue
        self._fd_lane = lane

    def is_dead(self) -> bool:
        """Whether the guest's process is gone: then nobody holds the other end of the fd lane."""
        if self._fd_lane is None:
            return False
        poll = select.poll()
        poll.register(self._fd_lane, 0)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))

    def lend(self, number: int, start: int, size: int, offset: int | None, then: Lending) -> None:
        """See `Lane`."""
        self.take(number, lambda fd: lend(start, size, fd, offset), then)

    def take(
        self, number: int, make: Callable[[int], T | BadArea], then: Callable[[T | BadArea | BadArgument], None]
    ) -> None:
        """Give *then* what *make*, in a thread, makes of the descriptor that the guest sent with *number*.

        The descriptors before it are dropped.  Calls behind this one may use it: they wait.
        """

        def taken(outcome: tuple[T | BadArea | BadArgument, list[int]]) -> None:
            made, rest = outcome
            for fd in rest:
                self._guest.carry(partial(close, [fd]), lambda _: None)
            self.lends = False
            then(made)
            if self._messages or self._came:
                self._guest.due(self)

        self.lends = True
        self._send(partial(_take, self._fd_lane, number, make), taken)

    def _send(self, does: Callable[[], Any], then: Callable[[Any], None] = lambda _: None) -> None:
        """Somebody else does it: one thing after the other, since all this is about one socket."""
        self._errands.append((does, then))
        if len(self._errands) == 1:
            self._guest.carry(does, self._went)

    def _went(self, outcome: Any) -> None:
        _, then = self._errands.pop(0)
        if self._errands:
            self._guest.carry(self._errands[0][0], self._went)
        then(outcome)


def _take(
    lane: socket.socket | None, number: int, make: Callable[[int], T | BadArea]
) -> tuple[T | BadArea | BadArgument, list[int]]:
    """What *make* makes of the descriptor with *number*, and those that are to be closed.  For a thread."""
    rest: list[int] = []
    for _ in range(_LANE_READS if lane is not None else 0):
        try:
            data, fds, cut = descriptors.receive(cast(socket.socket, lane), _FD_BYTES + 1)
        except OSError:
            break
        if not data and not fds:
            break
        whole = len(data) == _FD_BYTES and len(fds) == 1 and not cut
        if whole and int.from_bytes(data, "little") == number:
            made = make(fds[0])
            return made, rest + fds if isinstance(made, BadArea) else rest
        rest += fds
        if len(rest) > _PASSED:
            close(rest)
            rest.clear()
    return BadArgument(f"no descriptor with the id {number} came over the fd lane"), rest
