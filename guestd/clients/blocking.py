"""The client without a loop.  It runs the same drivers: their coroutines finish their I/O inside the await.

Calls may still overlap: `guest.gather` runs several drivers' coroutines at once, and sends their calls together.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from pathlib import Path
from types import CoroutineType
from typing import Any, TypeVar, Unpack

from hcall import numbers
from hcall.errors import HcallError, LinkLost, NoHost, StaleHandle, failure
from hcall.messages import Areas, Args
from hcall.session.states import ENDED, READY, State

from ..bus.device import OpenDevice
from ..driver import Driver
from .guest import DETACH_SECONDS, PAUSE_SECONDS, WELCOME_SECONDS, Guest, Options, silent
from .unbound import Returning

T = TypeVar("T")
_READ = 65536  # four times that is half as fast: the buffer is made anew for each read


class _NoWelcome(ConnectionResetError):
    """The host hung up before it said WELCOME: it may be worth another try."""


class Pending:
    """A call that was made; awaiting it, or `guest.run`, gives its value."""

    __slots__ = ("_guest", "status", "task", "value")

    def __init__(self, guest: BlockingGuest) -> None:
        self._guest = guest
        self.status = -1  # none yet
        self.value: Any = None
        self.task: _Task | None = None  # that waits for it

    def result(self) -> Any:
        """Its value, waited for if need be.  Raises the HcallError of its status."""
        while self.status < 0:
            self._guest.pump()
        if self.status:
            raise failure(self.status, self.value)
        return self.value

    def __await__(self) -> Generator[Pending, None, Any]:
        if self.status < 0 and self._guest.gathering:
            yield self
        return self.value if self.status == 0 else self.result()


class _Interrupted:
    """Awaited: until something was raised."""

    __slots__ = ("_guest", "task")

    def __init__(self, guest: BlockingGuest) -> None:
        self._guest = guest
        self.task: _Task | None = None

    def __await__(self) -> Generator[_Interrupted, None, None]:
        if self._guest.gathering:
            self._guest.sleepers.append(self)
            yield self
        else:
            self._guest.pump()


class _Task:
    """A coroutine of `gather`, and how it ended."""

    __slots__ = ("also", "coroutine", "error", "ready", "value")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], ready: deque[_Task]) -> None:
        self.coroutine = coroutine
        self.ready = ready  # of its own `gather`: an answer may come after that was interrupted
        self.also: _Task | None = None  # another one that waits for the same call
        self.value: Any = None
        self.error: BaseException | None = None


class BlockingGuest(Guest[Pending]):
    """A guest in a plain program; `guest[name]` is a driver whose calls return when they are done."""

    def __init__(self, path: str | Path | None = None, **options: Unpack[Options]) -> None:
        super().__init__(path, **options)
        self.clock = _WallClock(self)
        self.gathering = False
        self._sock: socket.socket | None = None
        self._lost: LinkLost | None = None
        self._rest: bytes | memoryview = b""  # of what was to be sent: the host did not take it yet
        self.sleepers: list[_Interrupted] = []  # of `gather`, that wait for an interrupt

    def attach(self) -> None:
        """Connect, and wait to be welcomed.  Raises OSError without a host, LinkLost if it refuses."""
        try:
            self._connect()
        except _NoWelcome:
            self._reconnect()
        self.run(self.hotplug.begin())

    def detach(self) -> None:
        """Give back all devices and end the session."""
        if self._lost is None and self.session.state is READY:
            assert self._sock is not None
            self._sock.settimeout(DETACH_SECONDS)
            with contextlib.suppress(HcallError, TimeoutError):
                self.run(self.core(0, numbers.DETACH))
        self._end(LinkLost("this guest was detached"))
        self._release()

    def nop(self) -> None:
        """A round trip that does nothing."""
        self.call(0, numbers.NOP).result()

    def call(self, handle: int, number: int, args: Args = (), areas: Areas = ()) -> Pending:
        """Make a call; it goes out with the next wait.  Raises LinkLost when the session is over."""
        if self._lost is not None:
            raise self._lost
        pending = Pending(self)
        self.session.call(handle, number, args, areas, pending)
        return pending

    def post(self, handle: int, number: int, args: Args = ()) -> Pending:
        """As in the base class."""
        return self.call(handle, number, args)

    def claim(
        self, lost: Callable[[Any], object], handle: int, number: int, args: Args = (), areas: Areas = ()
    ) -> Pending:
        """As in the base class."""
        return self.call(handle, number, args, areas)

    @staticmethod
    def take_over(call: Awaitable[Any]) -> Awaitable[Any]:
        """*call*, which somebody has given up, to be waited for again."""
        return call

    async def interrupt(self, device: OpenDevice, vector: int) -> None:
        """Until *vector* of *device* has been raised since it was last asked for."""
        while device.counts[vector] == device.seen[vector]:
            if self.hotplug.hints:  # something was plugged or unplugged: this device, perhaps
                await self.follow()
            if device.gone:
                raise StaleHandle(f"{device.name} is gone")
            await _Interrupted(self)
        self._see(device, vector)  # rides with the next call

    def run(self, work: Awaitable[T]) -> T:
        """Run a driver's coroutine, or wait for a call."""
        if isinstance(work, Pending):
            return work.result()  # type: ignore[no-any-return]
        return _run(work)

    def gather(self, *work: Awaitable[T]) -> list[T]:
        """Run all of *work* at once; the results in their order.

        Calls of different coroutines travel together.  If one raises, the others still run to their end; then the
        first error is raised.
        """
        ready: deque[_Task] = deque()
        tasks = [_Task(each if isinstance(each, CoroutineType) else _as_coroutine(each), ready) for each in work]
        ready += tasks
        waiting = len(tasks)
        self.gathering = True
        try:
            while waiting:
                while ready:
                    task = ready.popleft()
                    try:
                        awaited = task.coroutine.send(None)
                    except StopIteration as stop:
                        task.value = stop.value
                        waiting -= 1
                    except Exception as error:
                        task.error = error
                        waiting -= 1
                    else:
                        task.also, awaited.task = awaited.task, task
                if waiting:
                    self.pump()
        finally:
            self.gathering = False
            for task in tasks:
                task.coroutine.close()
            self.sleepers.clear()
        for task in tasks:
            if task.error is not None:
                raise task.error
        return [task.value for task in tasks]

    def bind(self, path: str) -> Driver:
        """The driver of the device at *path*, bound to it if it is not yet.  Errors: NoMatch, Busy, the driver's."""
        path = "/" + path.strip("/")
        if path not in self.drivers:
            _run(self.bind_path(path))
        return self.drivers[path]

    def __getitem__(self, path: str) -> Any:
        """The driver of the device at *path*, bound if it is not yet; its calls return when they are done."""
        return Returning(self.run, self.bind(path))

    def wait(self, timeout: float | None = None) -> bool:
        """Until something comes from the host, an interrupt say, at most *timeout* seconds; whether it did."""
        if self._lost is not None:
            raise self._lost
        if self.session.out:
            self._send()
        if not self._readable(timeout):
            return False
        self.pump()
        return True

    # The link.

    def pump(self) -> None:
        """Send what is to be sent, wait for bytes of the host, and deal with them.  Raises LinkLost."""
        if self._lost is not None:
            raise self._lost
        if self.session.out:
            self._send()
        if self._rest:
            self._readable()
        try:
            data = self._sock.recv(_READ)  # type: ignore[union-attr]  # there is a socket until the session is lost
        except ConnectionResetError:
            data = b""
        if not data:
            self._reconnect()
            return
        self._received(data)

    def _send(self) -> None:
        """Send what is to be sent as far as the host takes it: who writes must read, so this never waits."""
        out = self.session.out
        try:
            while self._rest or out:
                data = self._rest
                if not data:
                    data = out[0] if len(out) == 1 else b"".join(out)
                    out.clear()
                done = self._sock.send(data, socket.MSG_DONTWAIT)  # type: ignore[union-attr]
                self._rest = memoryview(data)[done:] if done != len(data) else b""
        except BlockingIOError:
            self._rest = data
        except (BrokenPipeError, ConnectionResetError):  # the host's last word may be there to be read
            self._rest = b""

    def _readable(self, timeout: float | None = None) -> bool:
        """Until there is something to read, at most *timeout* seconds, and the rest goes out meanwhile; whether so."""
        deadline = None if timeout is None else time.monotonic() + timeout
        poll = select.poll()
        while True:
            poll.register(self._sock, select.POLLIN | (select.POLLOUT if self._rest else 0))  # type: ignore[arg-type]
            left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
            ready = poll.poll(left)
            if not ready:
                return False
            if ready[0][1] & ~select.POLLOUT:
                return True
            self._send()

    def _received(self, data: bytes) -> None:
        answers, interrupts = self.session.receive(data)
        for pending, status, value in answers:
            pending.status, pending.value = status, value
            task = pending.task
            while task is not None:
                task.ready.append(task)
                task = task.also
        if interrupts:
            self._raised(interrupts)
            for sleeper in self.sleepers:
                if sleeper.task is not None:
                    sleeper.task.ready.append(sleeper.task)
            self.sleepers.clear()
        if self.session.broken is not None or self.session.state is ENDED:
            raise self._end(self._why_over())

    def _connect(self) -> None:
        """Connect, send HELLO and take WELCOME.  Raises OSError; _NoWelcome if the host hangs up before it."""
        self._sock = sock = socket.socket(socket.AF_UNIX)
        self._rest = b""
        try:
            try:
                sock.connect(str(self.path))
            except OSError as error:
                raise NoHost(error.errno, error.strerror or str(error), str(self.path)) from None
            hello, fds = self._hello()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused already: why is there to be read
                socket.send_fds(sock, [self.session.greet(hello)], fds)
            deadline = time.monotonic() + WELCOME_SECONDS
            while self.session.state is not READY:
                sock.settimeout(max(0.001, deadline - time.monotonic()))  # 0 would not wait, which is another error
                data = sock.recv(_READ)
                if not data:
                    raise _NoWelcome(errno.ECONNRESET, "it hangs up")
                self._received(data)
            sock.settimeout(None)
        except OSError as error:
            greeting = self.session.state is State.GREETING
            self._hang_up()
            if isinstance(error, TimeoutError):
                raise silent(self.path) from None
            if greeting:
                raise _NoWelcome(errno.ECONNRESET, "it hangs up") from None
            raise

    def _hang_up(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self.session.state is not State.IDLE:
            self.session.lose()

    def _reconnect(self) -> None:
        """Come back with the same token and memory; the host answers from its slots."""
        self._hang_up()
        deadline = time.monotonic() + self.patience
        while True:
            try:
                self._connect()
                self._came_back()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise self._end(LinkLost(f"no host at {self.path}: {error.strerror}")) from None
                time.sleep(PAUSE_SECONDS)

    def _end(self, error: LinkLost) -> LinkLost:
        if self._lost is None:
            self._lost = error
            for pending in self.session.end():
                pending.status, pending.value = error.status, str(error)
            if self._sock is not None:
                self._sock.close()
                self._sock = None
        return self._lost


class _WallClock:
    """Time for drivers of a guest that has no loop: it sleeps, and sees interrupts meanwhile."""

    def __init__(self, guest: BlockingGuest) -> None:
        self._guest = guest
        self.time = time.monotonic

    async def sleep(self, seconds: float) -> None:
        deadline = self.time() + seconds
        while (left := deadline - self.time()) > 0:
            self._guest.wait(left)


def _run(work: Awaitable[T]) -> T:
    try:
        if isinstance(work, CoroutineType):
            work.send(None)
        else:
            next(work.__await__())
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise RuntimeError("a driver awaited something that is not its device, a signal or its clock")


async def _as_coroutine(work: Awaitable[T]) -> T:
    return await work


@contextlib.contextmanager
def attach_blocking(path: str | Path | None = None, **options: Unpack[Options]) -> Iterator[BlockingGuest]:
    """A guest of the host at *path*, without an event loop; the arguments are those of `attach`."""
    guest = BlockingGuest(path, **options)
    try:
        guest.attach()
        yield guest
    finally:
        guest.detach()
