"""The client without a loop: calls return when they are done, and drivers' coroutines run to their end.

Calls may still overlap: `guest.gather` runs several drivers' coroutines at once, and sends their calls together.

A signal handler may raise at any moment (KeyboardInterrupt does).  While bytes or the session are worked on, `_at` says
so: if it still does the next time, the link is cut and the session resumed, by which nothing is lost.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from threading import get_ident
from typing import Any, Final, TypeVar, Unpack

from hcall import numbers
from hcall.clock import Clock
from hcall.errors import BadArgument, HcallError, LinkLost, StaleHandle
from hcall.kernel import processors
from hcall.messages import Areas, Args
from hcall.session.states import ENDED, READY, State

from ..bus.device import OpenDevice
from ..driver import Driver
from ..probers import absolute
from .guest import Guest
from .options import Options
from .plain import messages
from .plain.clock import blocking, pause
from .plain.link import READ, BlockingLink
from .plain.pending import Lingering, Pending, Unbounded, give
from .plain.tasks import Awaited, Lock, TaskClock, Tasks
from .plain.waiting import PlainRings, Waiting
from .reaching import DETACH_SECONDS, WELCOME_SECONDS, pauses, silent
from .unbound import Returning

T = TypeVar("T")
# Where the thread is that uses the guest: elsewhere; where it loses nothing; where bytes or the session are half done.
_IDLE, _WAITING, _AT_WORK = range(3)
_OTHER_THREAD: Final = "this guest is in use by another thread: attach one for each thread"


class BlockingGuest(Waiting, Guest[Pending]):
    """A guest in one thread of a plain program; `guest[name]` is a driver whose calls return when they are done."""

    clock: TaskClock

    def __init__(self, path: str | Path | None = None, *, clock: Clock | None = None, timeout: float | None = None,
                 **options: Unpack[Options]) -> None:  # fmt: skip
        """*timeout*: seconds that the answer of each call may take, see `Pending.result`."""
        super().__init__(path, **options)
        self.timeout, self.time = timeout, blocking(clock)
        self.datagrams = messages.connector(self.path, self.time)
        self.tasks = Tasks(self.pump)
        self.clock = TaskClock(self.tasks, self.time)
        self._link: BlockingLink | None = None
        self._spin = processors.spin(self.time.time) if options.get("spin") else None
        self._thread, self._at = get_ident(), _IDLE
        self.rings: PlainRings = PlainRings(self, self._spin)
        self._hinted = Awaited()  # the next interrupt
        self._claims: dict[Pending, tuple[int, Callable[[Any], object]]] = {}  # given up: of this handle, who gets it

    def attach(self) -> None:
        """Connect, and wait to be welcomed.  Raises OSError without a host, LinkLost if it refuses."""
        try:
            self._connect()
        except ConnectionResetError:  # it hung up before WELCOME, which may be worth another try
            self._reconnect()
        self.run(self.hotplug.begin())

    def detach(self) -> None:
        """Give back all devices and end the session."""
        if self._lost is None and self.session.state is READY and self._at != _AT_WORK:  # else the fd lane tells
            with contextlib.suppress(HcallError, TimeoutError):
                self.call(0, numbers.DETACH).result(DETACH_SECONDS)
        self._end(LinkLost("this guest was detached"))
        self.time.close()
        self._release()

    def nop(self) -> None:
        """A round trip that does nothing."""
        self.call(0, numbers.NOP).result()

    def call(
        self, handle: int, number: int, args: Args = (), areas: Areas = (), pending: Pending | None = None
    ) -> Pending:
        """Make a call; it goes out with the next wait.  Raises LinkLost when the session is over."""
        if self._at:
            self._enter()
        if self._lost is not None:
            raise self._lost
        call: Callable[..., None] = self.session.call
        if pending is None:
            pending = Pending(self)
            joins = self.session.joins
            if joins is not None and joins.number == number and joins.handle == handle:  # as in `queue`
                joins.calls.append((args, areas, pending))
                return pending
            task = self.tasks.current
            if task is not None and not task.is_alone:  # there may be more of the sort
                call = self.session.queue
        self._at = _AT_WORK
        try:
            call(handle, number, args, areas, pending)
        except BadArgument:
            self._at = _IDLE
            raise
        self._at = _IDLE
        return pending

    def post(self, handle: int, number: int, args: Args = ()) -> Pending:
        """As in the base class."""
        return self.call(handle, number, args)

    async def claim(
        self, keep: Callable[[Any], object], lost: Callable[[Any], object], handle: int, number: int, args: Args = ()
    ) -> None:
        """As in the base class."""
        for before in [pending for pending, (of, _) in self._claims.items() if of == handle]:
            await Unbounded(before)
        pending = Pending(self)
        try:
            self.call(handle, number, args, (), pending)
            keep(await pending)
        except HcallError:
            raise
        except BaseException as error:
            if self._at:
                self._enter()
            if pending.status == 0:  # it had come, and was not kept yet, or not wholly
                lost(pending.value)
            elif pending.status < 0 and not self.session.withdraw(pending):
                self._claims[pending] = handle, lost
                if not isinstance(error, GeneratorExit):
                    await Unbounded(pending)
            raise

    def linger(self, handle: int, number: int, args: Args = (), areas: Areas = ()) -> Awaitable[Any] | None:
        """As in the base class."""
        if self._at:
            self._enter()
        if self.session.queued:
            self._at = _AT_WORK
            give(self.session.pack())
            self._at = _IDLE
        if not self.session.may_linger:
            return None
        call = self.call(handle, number, args, areas, Lingering(self))
        self.session.linger()
        return call

    def push(self) -> None:
        """As in the base class."""
        if self._at:
            self._enter()
        if self._link is not None and self.session.out:
            self._at = _AT_WORK
            self._link.send(self.session.out)
            self._at = _IDLE

    @staticmethod
    def take_over(call: Awaitable[Any]) -> Awaitable[Any]:
        """*call*, which somebody has given up, to be waited for again."""
        return call

    @staticmethod
    def lock() -> Lock:
        """As in the base class."""
        return Lock()

    async def interrupt(self, device: OpenDevice, vector: int) -> None:
        """Until *vector* of *device* has been raised since it was last asked for."""
        while device.counts[vector] == device.seen[vector]:
            if self.hotplug.hints:  # something was plugged or unplugged: this device, perhaps
                await self.follow()
            if device.gone:
                raise StaleHandle(f"{device.name} is gone")
            await self._hinted
        self._see(device, vector)  # rides with the next call

    def run(self, work: Awaitable[T]) -> T:
        """Run a driver's coroutine, or wait for a call."""
        if isinstance(work, Pending):
            return work.result()  # type: ignore[no-any-return]
        return self.tasks.run(work)

    def gather(self, *work: Awaitable[T]) -> list[T]:
        """Run all of *work* at once; the results in their order.

        Calls of different coroutines travel together, and one that sleeps, or waits for an interrupt, lets the others
        go on.  If one raises, the others still run to their end; then the first error is raised.
        """
        return self.tasks.gather(work)

    def bind(self, path: str) -> Driver:
        """The driver of the device at *path*, bound to it if it is not yet.  Errors: NoMatch, Busy, the driver's."""
        path = absolute(path)
        if path not in self.drivers:
            self.run(self.bind_path(path))
        return self.drivers[path]

    def __getitem__(self, path: str) -> Any:
        """The driver of the device at *path*, bound if it is not yet; its calls return when they are done."""
        return Returning(self.run, self.bind(path))

    # The link.

    def pump(self) -> bool:
        """Send what is to be sent, wait for the host or for a moment of the clock, and deal with what came.

        Whether anything came from the host.  Raises LinkLost.
        """
        if self._at or self._thread != get_ident():
            self._enter()
        session = self.session
        link, out = self._link, session.out
        if link is None:
            if self._lost is not None:
                raise self._lost
            self._reconnect()
            return True
        has_come = bool(self.rings.all) and self.rung()
        if has_come and self.rings.is_often():
            return True
        self._at = _AT_WORK
        if session.queued:
            give(session.pack())
        if out:
            link.send(out)
        armed = self.time.armed
        if has_come:
            if not link.heard(self.rings.tells, 0):
                self._at = _IDLE
                if armed:
                    self.time.fire()
                return True
        elif armed or link.rest:
            self._at = _WAITING
            if not link.readable(self.time, out, self.rings.tells):
                self._at = _IDLE
                self.time.fire()
                return False
            self._at = _AT_WORK
        elif self.rings.tells:
            self._at = _WAITING
            if not link.heard(self.rings.tells):
                self._at = _IDLE
                return True
            self._at = _AT_WORK
        elif link.spin is not None:
            link.look(link.spin)
        try:
            data = link.recv(READ)
        except ConnectionResetError:
            data = b""
        if data:
            self._received(data)
            self._at = _IDLE
        else:
            self._at = _IDLE
            self._reconnect()
        if self._claims:
            self._give_away()
        if armed:  # a host that says much keeps no clock from ringing
            self.time.fire()
        return True

    def _enter(self) -> None:
        """Another thread uses the guest, or it was left in the midst of something."""
        thread = get_ident()
        if thread != self._thread:
            if self._at:
                raise RuntimeError(_OTHER_THREAD)
            self._thread = thread
        if self._at == _AT_WORK:
            give(self.session.mend())
            self._hang_up()  # the next wait comes back
        self._at = _IDLE

    def _received(self, data: bytes) -> None:
        session = self.session
        answers, interrupts = session.receive(data)
        give(answers)
        if interrupts:
            self._raised(interrupts)
            hinted, self._hinted = self._hinted, Awaited()
            hinted.wake()
        if session.broken is not None or session.state is ENDED:
            raise self._end(self._why_over())
        answers.clear()

    def _give_away(self) -> None:
        """What was claimed, and nobody waits for it any more, goes to those who get it then."""
        for pending in [pending for pending in self._claims if pending.status >= 0]:
            _, lost = self._claims.pop(pending)
            if pending.status == 0:
                lost(pending.value)

    def _connect(self) -> None:
        """Connect, send HELLO and take WELCOME.  Raises OSError; ConnectionResetError if the host hangs up."""
        link: BlockingLink | None = None
        try:
            link = BlockingLink(self.path, self._spin)
            hello, fds = self._hello()
            link.greet(self.session.greet(hello), fds)
            over: list[bool] = []
            timer = self.time.call_later(WELCOME_SECONDS, lambda: over.append(True))
            try:
                while self.session.state is not READY:
                    if over:
                        raise silent(self.path)
                    if not link.readable(self.time, self.session.out):
                        self.time.fire()
                        continue
                    self._at = _AT_WORK
                    data = link.recv(READ)
                    if not data:
                        raise ConnectionResetError(errno.ECONNRESET, "it hangs up")
                    self._received(data)
                    self._at = _IDLE
            finally:
                timer.cancel()
        except BaseException as error:
            if link is not None:
                link.close()
            self._hang_up()
            if isinstance(error, OSError):
                self._at = _IDLE
            raise
        self._link = link

    def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
        if self.session.state in (State.GREETING, READY):
            self.session.lose()

    def _reconnect(self) -> None:
        """Come back with the same token and memory; the host answers from its slots."""
        self._hang_up()
        deadline = self.time.time() + self.patience
        for seconds in pauses():
            try:
                self._connect()
                self._came_back()
                return
            except OSError as error:
                if self.time.time() > deadline:
                    raise self._end(LinkLost(f"no host at {self.path}: {error.strerror}")) from None
                pause(self.time, seconds)

    def _end(self, error: LinkLost) -> LinkLost:
        if self._lost is None:
            self._lost = error
            give((pending, error.status, str(error)) for pending in self.session.end() + self.rings.end())
            if self._link is not None:
                self._link.close()
                self._link = None
        self._at = _IDLE
        self._give_away()
        return self._lost

    def _forked(self) -> None:
        super()._forked()
        self._thread, self._at = get_ident(), _IDLE
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _sockets(self) -> list[int]:
        return [self._link.fileno()] if self._link is not None else []


@contextlib.contextmanager
def attach_blocking(
    path: str | Path | None = None, *, clock: Clock | None = None, timeout: float | None = None,
    **options: Unpack[Options],
) -> Iterator[BlockingGuest]:  # fmt: skip
    """A guest of the host at *path*, without an event loop; the arguments are those of `attach`.

    With *timeout*, a call that is not answered within so many seconds raises TimeoutError.
    """
    guest = BlockingGuest(path, clock=clock, timeout=timeout, **options)
    try:
        guest.attach()
        yield guest
    finally:
        guest.detach()
