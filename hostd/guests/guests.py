"""All guests of a host: who is let in, who comes back, and who has been away too long."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from typing import Final
from weakref import ref

from hcall.clock import Clock, Timer, timeout
from hcall.errors import Busy, NotAllowed, Status
from hcall.messages import Hello
from hcall.session.host import HostSession
from hcall.text import cut

from ..calls.limits import Limits
from ..calls.memory import identity
from ..lanes.socket.link import Greeting, Link
from ..tree.tree import Tree
from .guest import Guest

log = logging.getLogger(__name__)

HELLO_SECONDS: Final = 5.0  # from connect to a complete HELLO
MESSAGE_SECONDS: Final = 5.0  # from the first byte of a message to its last
UNREAD_SECONDS: Final = 10.0  # that a guest may leave its answers unread
RESUME_SECONDS: Final = 30.0  # that a guest may be without a link
CLOSE_SECONDS: Final = 2.0  # for the last bytes to go out
SWEEP_SECONDS: Final = 1.0  # one sweep for all these, not a timer for each guest
_ACCEPT_AT_ONCE: Final = 64


class Guests:
    """The guests, their links, and the listener that they come by."""

    def __init__(self, tree: Tree, limits: Limits, clock: Clock, epoch: int) -> None:
        self.tree, self.limits, self.clock, self.epoch = tree, limits, clock, epoch
        self.loop = asyncio.get_running_loop()
        self.by_token: dict[bytes, Guest] = {}
        self.links: set[Link] = set()
        self.greetings: set[Greeting] = set()
        self.changed = asyncio.Event()  # somebody came or went
        self._connecting: set[asyncio.Task[None]] = set()
        self._leaving = 0  # guests that ended while calls of theirs were under way
        self._listener: socket.socket | None = None
        self._retry: Timer | None = None
        self._sweeper = clock.call_later(SWEEP_SECONDS, self._sweep)

    def listen(self, listener: socket.socket) -> None:
        """Let guests in by *listener*, which is closed at the end."""
        listener.setblocking(False)
        self._listener = listener
        self.loop.add_reader(listener, self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(_ACCEPT_AT_ONCE):
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                # The connection stays in the queue, and the listener readable: without a pause this would spin.
                log.warning("no guest can be let in: %s", error.strerror)
                self.loop.remove_reader(self._listener)
                self._retry = self.clock.call_later(SWEEP_SECONDS, self._accept_again)
                return
            sock.setblocking(False)
            greeting = Greeting(self, sock)
            if len(self.by_token) + len(self.greetings) > 2 * self.limits.guests:
                greeting.refuse(Status.BUSY, "too many connections")

    def _accept_again(self) -> None:
        if self._listener is not None:
            self.loop.add_reader(self._listener, self._accept)

    def admit(self, hello: Hello, session: HostSession, uid: int, fds: list[int]) -> tuple[Guest, bool]:
        """The guest of *hello*, new, or known by its token; and whether it was known.

        *fds* are its memory, in the order of its regions, and stay the caller's.  Raises NotAllowed, BadArea or Busy.
        """
        guest = self.by_token.get(hello.token)
        if guest is not None:
            brought = {identity(fd, *region) for region, fd in zip(hello.regions, fds, strict=True)}
            if uid != guest.uid or brought != guest.identity:
                raise NotAllowed("this token is another guest's: its user and memory are not yours")
            self._unwatch(guest)
            guest.resume()
            return guest, True
        if len(self.by_token) >= self.limits.guests:
            raise Busy(f"this host serves at most {self.limits.guests} guests")
        guest = Guest(hello, session, uid, self.tree, self.limits, self._expel, self.clock)
        memory = guest.account.memory
        try:
            for (start, size, *part), fd in zip(hello.regions, fds, strict=True):
                memory.add(start, size, fd, *part)
        except BaseException:
            memory.regions.clear()  # see Guest.end
            raise
        guest.identity = memory.identity
        self.by_token[guest.token] = guest
        log.info("guest %r is here", guest.name)
        self.changed.set()
        return guest, False

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

    def lost(self, guest: Guest) -> None:
        """The link of *guest* broke.  Unless it is gone for good, it may come back."""
        guest.lose(self.clock.time())
        if guest.detached or guest.is_dead():
            self.end(guest, Status.RESET, "the guest is gone")
        elif guest.fd_lane is not None:
            # The kernel closes a dead process's descriptors one by one: the lane's turn may come after the link's.
            self.loop.add_reader(guest.fd_lane, self._lane_readable, guest)

    def _lane_readable(self, guest: Guest) -> None:
        self._unwatch(guest)  # once: it may be a descriptor that came, which nobody takes now
        if guest.link is None and guest.is_dead():
            self.end(guest, Status.RESET, "the guest is gone")

    def _unwatch(self, guest: Guest) -> None:
        if guest.fd_lane is not None:
            self.loop.remove_reader(guest.fd_lane)

    def end(self, guest: Guest, status: Status, text: str) -> None:
        """The session of *guest* is over; nothing of it can be resumed."""
        if self.by_token.get(guest.token) is not guest:  # it has ended before; another may have its token now
            return
        del self.by_token[guest.token]
        log.info("guest %r: %s", guest.name, text)
        self._unwatch(guest)
        self._leaving += 1
        guest.end(status, cut(text), self._left)
        self.changed.set()

    def _expel(self, reference: ref[Guest], text: str) -> None:
        """A device wants a guest reset: soon, since a call of it may be under way."""
        guest = reference()
        if guest is not None and self.by_token.get(guest.token) is guest:  # else it has gone before
            log.warning("guest %r is reset: %s", guest.name, text)
            self.loop.call_soon(self.end, guest, Status.RESET, text)

    def _left(self) -> None:
        self._leaving -= 1
        self.changed.set()

    def _sweep(self) -> None:
        now = self.clock.time()
        for greeting in [greeting for greeting in self.greetings if now - greeting.since > HELLO_SECONDS]:
            greeting.refuse(Status.BAD_ARGUMENT, f"no HELLO within {HELLO_SECONDS:.0f} s")
        for link in list(self.links):
            if link.closing_since is not None and now - link.closing_since > CLOSE_SECONDS:
                link.abort()
            if link.full_since is not None and now - link.full_since > UNREAD_SECONDS:
                link.abort()
        for guest in list(self.by_token.values()):
            partial = guest.link.partial_since if guest.link is not None else None
            if partial is not None and now - partial > MESSAGE_SECONDS:
                self.end(guest, Status.BAD_ARGUMENT, f"a message took longer than {MESSAGE_SECONDS:.0f} s")
            elif guest.lost_at is not None and (now - guest.lost_at > RESUME_SECONDS or guest.is_dead()):
                self.end(guest, Status.RESET, "the guest did not come back")
        self._sweeper = self.clock.call_later(SWEEP_SECONDS, self._sweep)

    async def close(self) -> None:
        """End all sessions, every call answered, and wait until the last bytes are out: a few seconds at most."""
        if self._listener is not None:
            self.loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        self._sweeper.cancel()
        if self._retry is not None:
            self._retry.cancel()
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

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Until *condition* holds, which can change only when somebody comes or goes."""
        while not condition():
            self.changed.clear()
            await self.changed.wait()
