"""The asyncio client: a guest whose calls are awaited, as many at once as the host has slots, more in a queue."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from threading import get_ident
from typing import Any, TypeAlias, TypeVar, Unpack, cast

from hcall import numbers
from hcall.clock import Clock, LoopClock
from hcall.errors import HcallError, LinkLost, NoHost, StaleHandle
from hcall.kernel import processors
from hcall.messages import Areas, Args
from hcall.session.states import ENDED, READY, State
from hcall.spin import Awake

from ..bus.device import OpenDevice
from ..driver import Driver
from ..probers import Found, absolute
from .guest import Guest
from .loop import late, messages
from .loop.bindings import Bindings
from .loop.claims import Claims
from .loop.clock import DriverClock
from .loop.link import Link
from .loop.rings import LoopRings, Ringing
from .options import Options
from .reaching import DETACH_SECONDS, WELCOME_SECONDS, pauses, silent
from .unbound import Unbound

T = TypeVar("T")
Waiter: TypeAlias = "asyncio.Future[Any]"
_READ = 65536


class AsyncGuest(Ringing, Guest[Waiter]):
    """A guest in an event loop; `guest[name]` is a driver."""

    def __init__(
        self, path: str | Path | None = None, *, clock: Clock | None = None, **options: Unpack[Options]
    ) -> None:
        super().__init__(path, **options)
        self._loop, self._thread = asyncio.get_running_loop(), get_ident()
        self.clock = DriverClock(clock or LoopClock(self._loop))
        self.datagrams = messages.connector(self.path, self.clock)
        self._link: Link | None = None
        spin = processors.spin(self.clock.time) if options.get("spin") else None
        self._awake = Awake(spin, self._loop.call_soon) if spin is not None else None
        self.rings, self._ringing = LoopRings(self), False
        self._eager = True  # nothing is in flight: a call is written at once, there is no batch to wait for
        self._flushing = False
        self._welcomed = self._loop.create_future()
        self._interrupted: dict[tuple[OpenDevice, int], Waiter] = {}
        self._greeted = asyncio.Event()  # WELCOME has come, or will not on this link
        self._deadline: float | None = self.clock.time() + self.patience  # for WELCOME; None: it has come
        self._pauses: Iterator[float] | None = None  # between attempts to get it
        self._claims = Claims(self.session.withdraw)
        self._bindings = Bindings(self._spawn, super().unbind)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._following = asyncio.Lock()
        self._happened: list[tuple[int, str]] = []
        self._happening = asyncio.Event()

    async def attach(self) -> None:
        """Connect, and wait to be welcomed.  Raises OSError without a host, LinkLost if it refuses."""
        await self._connect()
        try:
            async with self.clock.timeout(WELCOME_SECONDS):
                await self._welcomed
        except TimeoutError:
            raise silent(self.path) from None
        await self.hotplug.begin()

    async def detach(self) -> None:
        """Give back all devices and end the session."""
        if self._lost is None and self.session.state is READY:
            with contextlib.suppress(HcallError, TimeoutError):
                async with self.clock.timeout(DETACH_SECONDS):
                    await self.core(0, numbers.DETACH)
        self._end(LinkLost("this guest was detached"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._release()

    def cut(self) -> None:
        """Cut the link, as a network would; the guest comes back by itself."""
        if self._link is not None:
            self._link.transport.abort()

    def nop(self) -> Awaitable[None]:
        """A round trip that does nothing."""
        return self.call(0, numbers.NOP)

    def call(
        self, handle: int, number: int, args: Args = (), areas: Areas = (), heard: late.Heard | None = None
    ) -> Waiter:
        """Make a call; its answer is for *heard*, if given.

        Raises the HcallError of its status, LinkLost when the session is over.
        """
        if self._thread != get_ident():
            raise RuntimeError("this guest is of another thread's event loop: asyncio.run_coroutine_threadsafe(...)")
        if self._lost is not None:
            raise self._lost
        future = self._loop.create_future() if heard is None else cast(Waiter, heard)
        if self._eager:
            self._eager = False
            self.session.call(handle, number, args, areas, future)
            self._flush()
            return future
        self.session.queue(handle, number, args, areas, future)
        if not self._flushing:
            self._flushing = bool(self._loop.call_soon(self._flush))
        return future

    def linger(self, handle: int, number: int, args: Args = (), areas: Areas = ()) -> Waiter | None:
        """As in the base class; several in a row travel together."""
        if self._thread != get_ident() or self._lost is not None:
            return self.call(handle, number, args, areas)  # which says so
        if self.session.queued:
            self._flush()
        if not self.session.may_linger:
            return None
        future = self._loop.create_future()
        self.session.call(handle, number, args, areas, future)
        self.session.linger()
        self._eager = False
        if not self._flushing:
            self._flushing = bool(self._loop.call_soon(self._flush))
        return future

    def post(self, handle: int, number: int, args: Args = ()) -> late.Posted:
        """As in the base class."""
        if self._lost is not None:
            raise self._lost
        future = self._loop.create_future()
        self.session.queue(handle, number, args, (), future)
        if not self._flushing:
            self._flushing = bool(self._loop.call_soon(self._flush))
        return late.Posted(future)

    async def claim(
        self, keep: Callable[[Any], object], lost: Callable[[Any], object], handle: int, number: int, args: Args = ()
    ) -> None:
        """As in the base class; a call that is cancelled before it went out is not made."""
        if self._claims.given_up:
            await self._claims.settle(handle)
        keep(await self._claims.take(self.call(handle, number, args), lost, handle))

    async def interrupt(self, device: OpenDevice, vector: int) -> None:
        """Until *vector* of *device* has been raised since it was last asked for."""
        if device.counts[vector] == device.seen[vector]:
            if self._lost is not None:
                raise self._lost
            if device.gone:
                raise StaleHandle(f"{device.name} is gone")
            key = device, vector
            if key not in self._interrupted:
                self._interrupted[key] = self._loop.create_future()
            await asyncio.shield(self._interrupted[key])  # whoever waits for it is woken
        self._see(device, vector)
        self._flush()

    @staticmethod
    def _given_up(waiter: Waiter) -> bool:
        return late.drop(waiter)

    @staticmethod
    def answered(call: Awaitable[Any]) -> tuple[Any] | None:
        """As in the base class."""
        future = cast(Waiter, call)
        if future.cancelled():
            future = late.waiter(future)
        return (future.exception() or future.result(),) if future.done() else None

    @staticmethod
    def take_over(call: Awaitable[Any]) -> Awaitable[Any] | None:
        """*call*, which somebody has given up, to be waited for again; None: it is not made."""
        return late.take_over(cast(Waiter, call))

    @staticmethod
    def lock() -> asyncio.Lock:
        """As in the base class."""
        return asyncio.Lock()

    def _device_gone(self, device: OpenDevice) -> None:
        for key in [key for key in self._interrupted if key[0] is device]:
            waiter = self._interrupted.pop(key)
            if not waiter.done():
                waiter.set_exception(StaleHandle(f"{device.name} is gone"))
                waiter.exception()  # nobody has to be waiting

    async def bind(self, path: str) -> Driver:
        """The driver of the device at *path*, bound to it if it is not yet.  Errors: NoMatch, Busy, the driver's.

        All who ask at once share it; if all of them are cancelled it is undone.
        """
        path = absolute(path)
        if path in self.drivers and path not in self._bindings:
            return self.drivers[path]
        return await self._bindings.once(path, partial(self.bind_path, path))

    async def bind_found(self, found: Found) -> Driver:
        """As in the base class, shared and undone as with `bind`."""
        return await self._bindings.once(found.path, partial(super().bind_found, found))

    async def unbind(self, path: str) -> None:
        """As in the base class, to its end even if whoever asked for it is cancelled; the next bind waits for it."""
        await self._bindings.end(absolute(path), super().unbind(path))

    def __getitem__(self, path: str) -> Any:
        """The driver of the device at *path*; if it is not bound yet, a stand-in whose calls bind it first."""
        return self.drivers.get(absolute(path)) or Unbound(self, path)

    # The link.

    async def _connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setblocking(False)
            while True:
                try:
                    sock.connect(str(self.path))
                    break
                except BlockingIOError:  # the host's queue is full
                    if self._deadline is not None and self.clock.time() > self._deadline:
                        raise
                    await self.clock.sleep(0.01)
                except OSError as error:
                    raise NoHost(error.errno, error.strerror or str(error), str(self.path)) from None
            self._greeted.clear()
            hello, fds = self._hello()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it refused before: that is to be read
                socket.send_fds(sock, [self.session.greet(hello)], fds)
            link = Link(self._received, self._connected, self._disconnected)
            await self._loop.create_unix_connection(lambda: link, sock=sock)
        except BaseException:
            sock.close()
            if self.session.state is State.GREETING:
                self.session.lose()
            raise

    def _connected(self, link: Link) -> None:
        self._link = link
        if self._lost is not None:
            link.transport.abort()

    def _received(self, data: bytes) -> None:
        answers, interrupts = self.session.receive(data)
        late.give(answers)
        if interrupts:
            self._raised(interrupts)
            self._wake(interrupts)
        self._eager = len(answers) == 1 and not self.session.busy
        if self.session.broken is not None or self.session.state is ENDED:
            self._end(self._why_over())
        elif self.session.state is not READY:
            return  # half a WELCOME
        elif self._deadline is not None:
            self._deadline, self._pauses = None, None
            self._greeted.set()
            if self._welcomed.done():
                self._came_back()
            else:
                self._welcomed.set_result(None)
        if self.rings.all:
            self.rung()
        if self.session.out:
            self._flush()
        if self._awake is not None:
            self._awake.came()

    def _wake(self, interrupts: list[Any]) -> None:
        for _, tag, vector, _ in interrupts:
            device = self.devices.get(tag)
            if device is not None and device.counts.get(vector, 0) > device.seen.get(vector, 0):
                waiter = self._interrupted.pop((device, vector), None)
                if waiter is not None and not waiter.done():
                    waiter.set_result(None)
        if self.hotplug.hints and not self._following.locked():
            self._spawn(self._follow())

    async def _follow(self) -> None:
        async with self._following:
            while self.hotplug.hints:  # more came meanwhile
                with contextlib.suppress(HcallError):
                    happened = await self.follow()
                    self._happened += happened  # in one line, it would be the list from before the wait
                self._happening.set()

    async def happened(self) -> list[tuple[int, str]]:
        """What was plugged and unplugged, see `follow`; waits until there is something.  Raises LinkLost."""
        while not self._happened:
            if self._lost is not None:
                raise self._lost
            self._happening.clear()
            await self._happening.wait()
        happened, self._happened = self._happened, []
        return happened

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _flush(self) -> None:
        """Write what is to be written.  What the host does not read waits: 16 KiB for each slot at most, and an ACK."""
        self._flushing = False
        if self.session.queued:
            late.give(self.session.pack())
        out = self.session.out
        if out and self._link is not None:
            self._link.transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()

    def _disconnected(self, link: Link, error: Exception | None) -> None:
        if link is not self._link:
            return
        self._link = None
        if self._awake is not None:
            self._awake.rest()
        self._greeted.set()
        if error is not None and self._lost is None:  # of a write, perhaps: the host's last word is still to be read
            with contextlib.suppress(OSError):
                while data := os.read(link.transport.get_extra_info("socket").fileno(), _READ):
                    self._received(data)
        if self._lost is None:
            self.session.lose()
            self._eager = False
            self._spawn(self._reconnect())

    async def _reconnect(self) -> None:
        """Come back with the same token and memory; the host answers from its slots."""
        if self._deadline is None:
            self._deadline = self.clock.time() + self.patience
        if self.clock.time() > self._deadline:
            self._end(LinkLost(f"the host at {self.path} hangs up"))
            return
        if self._pauses is None:
            self._pauses = pauses()
        else:  # it hung up before WELCOME, again: give it time
            await self.clock.sleep(next(self._pauses))
        while True:
            try:
                await self._connect()
                break
            except OSError as error:
                if self.clock.time() > self._deadline:
                    self._end(LinkLost(f"no host at {self.path}: {error.strerror}"))
                    return
                await self.clock.sleep(next(self._pauses))
        try:
            async with self.clock.timeout(WELCOME_SECONDS):
                await self._greeted.wait()
        except TimeoutError:
            self._end(LinkLost(silent(self.path).strerror))

    def _end(self, error: LinkLost) -> None:
        if self._lost is not None:
            return
        self._lost = error
        for future in [
            *map(late.waiter, self.session.end() + self.rings.end()),
            *self._interrupted.values(),
            self._welcomed,
        ]:
            if not future.done():
                future.set_exception(error)
                future.exception()  # nobody has to be waiting
        self._interrupted.clear()
        self._happening.set()
        self._greeted.set()
        if self._link is not None:
            self._link.transport.abort()

    def _sockets(self) -> list[int]:
        link, self._link = self._link, None
        return [link.transport.get_extra_info("socket").fileno()] if link is not None else []


@contextlib.asynccontextmanager
async def attach(
    path: str | Path | None = None, *, clock: Clock | None = None, **options: Unpack[Options]
) -> AsyncIterator[AsyncGuest]:
    """A guest of the host at *path*: its socket, its directory, or what $HOSTD_SOCKET or the default says.

    *options* are those of `guestd.clients.options.Options`; drivers see the time of *clock*, the loop if not given.
    Raises OSError without a host, LinkLost if it refuses.
    """
    guest = AsyncGuest(path, clock=clock, **options)
    try:
        await guest.attach()
        yield guest
    finally:
        await guest.detach()
