"""What both clients share: the session, the memory, and the devices that are bound.  No socket, no loop."""

from __future__ import annotations

import contextlib
import itertools
import os
import weakref
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, Unpack

from hcall import numbers, rendezvous
from hcall.errors import BadHandle, HcallError, IoError, LinkLost, NoMatch, NotAllowed, StaleHandle
from hcall.messages import FD_LANE, FEATURES, HELLO, MAGIC, TOKEN_BYTES, VERSION, Areas, Args, Hello
from hcall.session.guest import GuestSession
from hcall.session.states import Message
from hcall.text import MAX_TEXT, suggest

from .. import carriers
from ..bus.core import checked
from ..bus.device import OpenDevice
from ..bus.known import known_drivers, match
from ..bus.places import Places
from ..carriers.rings import Rings
from ..driver import Driver, Sleeper
from ..memory import Ram, Region
from ..probers import Datagrams, Found, Reach, absolute, named
from .fdlane import FdLane
from .hotplug import Hotplug
from .options import Options
from .reaching import PATIENCE_SECONDS

RAM_BYTES: Final = 64 << 20  # untouched pages cost nothing

W = TypeVar("W")


_guests: weakref.WeakSet[Guest[Any]] = weakref.WeakSet()  # of this process


class Guest(Generic[W]):
    """A guest without its I/O, which a client adds: `call` and `interrupt`."""

    clock: Sleeper
    datagrams: Callable[[str], Datagrams]  # connects to the host's socket of that name

    def __init__(self, path: str | Path | None = None, **options: Unpack[Options]) -> None:
        self.known = list(options["drivers"] if "drivers" in options else known_drivers())  # may raise: comes first
        for each in self.known:
            if not isinstance(each, type):
                raise TypeError(f"{each!r} is no class of a driver; guestd.bus.own_drivers([...]) loads those of files")
        self._carry = carriers.named(options.get("carrier", "channel"))
        self.prober = named(options.get("prober", "tree"))
        self.path = rendezvous.find(str(path) if path else None, rendezvous.GUEST_SOCKET)
        self.name = options.get("name") or f"guest-{os.getpid()}"
        if len(self.name.encode()) > MAX_TEXT:
            raise ValueError(f"the name of a guest is {MAX_TEXT} bytes at most")
        self._token = options["token"] if "token" in options else os.urandom(TOKEN_BYTES)
        if len(self._token) != TOKEN_BYTES:
            raise ValueError(f"the token of a guest is {TOKEN_BYTES} bytes, not {len(self._token)}")
        self.patience = options.get("patience", PATIENCE_SECONDS)
        self.session: GuestSession[W] = GuestSession(self._given_up)
        self.rings: Rings[W]
        self.ram = Ram(options.get("memory", RAM_BYTES), self.session.uses)
        self.drivers: dict[str, Driver] = {}  # bound, by path
        self._lost: LinkLost | None = None  # why the session is over
        self.resumed = 0  # how often the link was lost and the session went on
        self.lane = FdLane()
        self._cookies = itertools.count(1)
        self.devices: dict[int, OpenDevice] = {}  # opened, by cookie
        self.places = Places()
        self.hotplug = Hotplug(self)
        self._process = os.getpid()
        _guests.add(self)

    # What a client adds.

    def call(self, handle: int, number: int, args: Args = (), areas: Areas = ()) -> Awaitable[Any]:
        """Make a call.  Raises the HcallError of its status, LinkLost when the session is over."""
        raise NotImplementedError

    def linger(self, handle: int, number: int, args: Args = (), areas: Areas = ()) -> Awaitable[Any] | None:
        """As `call`, for one whose answer may take as long as the world outside.

        None: as many wait as may, so that others go on; a call that does not wait will do.
        """
        raise NotImplementedError

    def push(self) -> None:
        """Calls that were made, and nobody waits for, go out soon."""

    @staticmethod
    def answered(call: Awaitable[Any]) -> tuple[Any] | None:
        """What *call* was answered with, or the error of its status; None: not yet."""
        answer: tuple[Any] | None = call.answer  # type: ignore[attr-defined]  # a call of the plain client has it
        return answer

    @staticmethod
    def take_over(call: Awaitable[Any]) -> Awaitable[Any] | None:
        """*call*, which somebody has given up, to be waited for again; None: it is not made."""
        raise NotImplementedError

    @staticmethod
    def lock() -> AbstractAsyncContextManager[object]:
        """Something for `async with`, which one has at a time, in the order in which they ask."""
        raise NotImplementedError

    def interrupt(self, device: OpenDevice, vector: int) -> Awaitable[None]:
        """Until *vector* of *device* has been raised since it was last asked for."""
        raise NotImplementedError

    def post(self, handle: int, number: int, args: Args = ()) -> Awaitable[Any]:
        """As `call`, made whatever becomes of those who wait for the answer; several in a row travel together."""
        raise NotImplementedError

    def claim(
        self, keep: Callable[[Any], object], lost: Callable[[Any], object], handle: int, number: int, args: Args = ()
    ) -> Awaitable[None]:
        """As `call`, for an answer that must not be lost: it is given to *keep*, or to *lost* if nobody waits any more.

        Whoever is cancelled meanwhile waits for that, so that all that comes later on this *handle* comes after it.
        """
        raise NotImplementedError

    @staticmethod  # so that the session, which the memory's users know, holds no guest
    def _given_up(waiter: W) -> bool:
        """Whether nobody waits for the answer of a call any more: it is not made then, if it was not yet."""
        return False

    def _device_gone(self, device: OpenDevice) -> None:
        """Whoever waits for an interrupt of *device* is told by StaleHandle."""

    # The core.

    async def core(self, handle: int, number: int, *args: object) -> Any:
        """Make a call of the core, see `hcall.numbers`.  Errors: IoError if the answer is none to that."""
        if type(handle) is not int:  # else the host would end the session
            raise TypeError(f"a handle is a number, not {handle!r}")
        return checked(number, await self.call(handle, number, args))

    async def found(self, path: str) -> Found:
        """The node at *path*, `/` in front or not.  Errors: NoMatch."""
        path = absolute(path)
        node = await self.core(0, numbers.FIND, path)
        return Found(node, path, *await self.core(node, numbers.INFO))

    async def properties(self, node: int) -> dict[str, Any]:
        """All properties of *node*."""
        values: dict[str, Any] = {}
        name = await self.core(node, numbers.NEXTPROP, "")
        while name:
            if name in values:
                raise IoError(f"the host goes round in circles: the property {name!r} again")
            values[name] = await self.core(node, numbers.GETPROP, name)
            name = await self.core(node, numbers.NEXTPROP, name)
        return values

    async def walk(self, prober: str | None = None) -> list[Found]:
        """All that *prober* finds, or the guest's own; the tree's are all nodes, parents first.  Raises BadRequest."""
        probe = self.prober if prober is None else named(prober)
        return [found async for found in probe(Reach(self.core, self.ram, self.datagrams))]

    async def grow(self, size: int) -> None:
        """Lend the host *size* more bytes of memory, for larger buffers.  Errors: NotAllowed if it takes no more."""
        if not self.session.features & FD_LANE:
            raise NotAllowed("this host takes no memory after the start: attach with as much as is needed")
        region = self.ram.region(size)

        def give_back(_: object) -> None:
            self.ram.drop(region)
            with contextlib.suppress(HcallError):  # the session is over
                self.post(0, numbers.REMOVE_MEMORY, (region.start,))

        try:
            await self.claim(lambda _: self.ram.add(region), give_back, 0, numbers.ADD_MEMORY, self._sent(region))
        except BaseException:
            self.ram.drop(region)
            region.close()
            raise

    # Devices.

    async def bind_path(self, path: str) -> Driver:
        """Find the device at *path*, open it and bind its driver: three round trips, and what the driver asks.

        Two if it was bound before, and is still there, and offers the same.
        Errors: NoMatch without a device or a driver, Busy, and the driver's.
        """
        path, cookie = absolute(path), next(self._cookies)
        try:
            known = self.places.at(path)
            if known is not None and (driver_class := match(known, self.known)) is not None:
                with contextlib.suppress(StaleHandle, BadHandle):  # another one may be there now
                    await self._open(known, cookie)
                if cookie in self.devices:
                    return await self._bring_up(cookie, driver_class, driver_class.wants)
            node = await self.core(0, numbers.FIND, path)
            info = self.post(node, numbers.INFO)
            refused = None
            try:
                await self._open(Found(node, path, path.rpartition("/")[2], (), (0, 0)), cookie)
            except HcallError as error:  # why there is no driver counts more
                refused = error
            found = Found(node, path, *checked(numbers.INFO, await info))
            driver_class = self._driver_for(found)
            if refused is not None:
                raise refused
            self.devices[cookie].found = found
            return await self._bring_up(cookie, driver_class, driver_class.wants)
        except BaseException:
            await self._undo(cookie)
            raise

    async def bind_found(self, found: Found) -> Driver:
        """Open the device of *found* and bind its driver.  Errors: NoMatch without a driver, Busy, and the driver's."""
        driver_class = self._driver_for(found)
        return await self.bind_as(found, driver_class, driver_class.wants)

    async def bind_as(self, found: Found, driver_class: type[Driver], wants: Iterable[str] | None = None) -> Driver:
        """The same for a driver that somebody chose, with the features *wants*, or all that the device offers."""
        cookie = next(self._cookies)
        try:
            await self._open(found, cookie)
            return await self._bring_up(cookie, driver_class, wants)
        except BaseException:
            await self._undo(cookie)
            raise

    def _driver_for(self, found: Found) -> type[Driver]:
        driver_class = match(found, self.known)
        if driver_class is None:
            if not found.has_device:
                raise NoMatch(f"{found.path} has no device")
            wanted = ", ".join(found.compatible) or "{:04x}:{:04x}".format(*found.ids)
            raise NoMatch(f"{found.path}: no driver for {wanted}: name one with --driver, or in $GUESTD_DRIVERS")
        return driver_class

    async def _open(self, found: Found, cookie: int) -> None:
        """Open the device of *found*; whoever is cancelled meanwhile has closed it again."""

        hinted = self.post(found.node, numbers.GET_FEATURES) if self.places.at(found.path) is None else None

        def keep(reply: object) -> None:
            device = self.devices[cookie] = OpenDevice(self, found, cookie, checked(numbers.OPEN, reply))
            device.hinted = hinted

        def close(reply: object) -> None:
            with contextlib.suppress(HcallError):
                self.post(checked(numbers.OPEN, reply)[0], numbers.CLOSE)

        await self.claim(keep, close, found.node, numbers.OPEN, (cookie,))

    async def _bring_up(self, cookie: int, driver_class: type[Driver], wants: Iterable[str] | None) -> Driver:
        """Negotiate with the device of *cookie*, which was just opened, and bind its driver."""
        device = self.devices[cookie]
        await device.negotiate(device.offered if wants is None else wants, driver_class.properties)
        await self._carry(self, device)
        driver = driver_class(device)
        await driver.probe()
        device.asked.clear()  # they are of then
        if device.leaving:
            raise StaleHandle(f"{device.found.path} is being unplugged")
        self.drivers[device.found.path] = driver
        return driver

    async def _undo(self, cookie: int) -> None:
        """The bind of *cookie* failed, wherever that was: the device is closed, and the next one is not concerned."""
        device = self.devices.get(cookie)
        if device is not None:
            for path in [path for path, driver in self.drivers.items() if driver.dev is device]:
                del self.drivers[path]
            await self._close(device)

    async def bind_all(self) -> dict[str, Driver | Exception]:
        """Bind every device there is, and has a driver, and is free; by path the driver, or why there is none."""
        outcome: dict[str, Driver | Exception] = {}
        for found in await self.walk():
            if found.has_device and found.path not in self.drivers:
                try:
                    outcome[found.path] = await self.bind_found(found)
                except Exception as error:  # a driver may fail as it likes: the next device is not concerned
                    outcome[found.path] = error
        return outcome

    async def unbind(self, path: str) -> None:
        """Take the driver of *path* away and give the device back.  Errors: NoMatch if none is bound; the driver's."""
        path = absolute(path)
        driver = self.drivers.pop(path, None)
        if driver is None:
            raise NoMatch(f"no driver is bound to {path}{suggest(path, self.drivers)}")
        try:
            await driver.remove()
        finally:
            await self.let_go(driver)

    async def let_go(self, driver: Driver) -> None:
        """Give the device of *driver* back, which may be gone already."""
        device = driver.dev
        if isinstance(device, OpenDevice) and self.devices.get(device.cookie) is device:
            await self._close(device)

    async def _close(self, device: OpenDevice) -> None:
        try:
            await device.close()
        except HcallError:
            pass  # it went by itself
        finally:
            self.devices.pop(device.cookie, None)
            device.gone = True
            self.rings.drop(device.handle)
            self._device_gone(device)

    async def follow(self) -> list[tuple[int, str]]:
        """Take up what was plugged and unplugged since the last time: (numbers.ADDED, LEAVING or REMOVED, path).

        A device that is leaving is given back.  The path of a node that is gone is known only if it was bound.
        """
        return await self.hotplug.follow()

    # For the clients.

    def _sent(self, region: Region) -> tuple[int, int, int]:
        """Send the descriptor of *region* over the fd lane; the arguments of the call that takes it."""
        return region.start, region.size, self.lane.send(region.fd)

    def _came_back(self) -> None:
        """The session goes on.  A host that was started anew with it has none of the descriptors that came later."""
        self.resumed += 1
        if self.session.moved:
            self.places = Places()  # another life of the host may have other devices behind the same handles
        for region in self.ram.added if self.session.moved and self.session.features & FD_LANE else ():
            self.post(0, numbers.ADD_MEMORY, self._sent(region))

    def _hello(self) -> tuple[Hello, list[int]]:
        """HELLO, and the descriptors that go with it: the same every time, so that a lost WELCOME does no harm."""
        first = self.ram.first
        hello = Hello(HELLO, MAGIC, VERSION, VERSION, FEATURES, self.name, self._token, ((first.start, first.size),))
        return hello, [first.fd, self.lane.theirs.fileno()]

    def _raised(self, interrupts: list[Message]) -> None:
        for _, tag, vector, count in interrupts:
            device = self.devices.get(tag)
            if device is None or vector not in device.counts:
                if not self.rings.raised(tag, vector, count):
                    self.hotplug.hinted(tag, vector, count)
            elif count > device.counts.get(vector, count):
                device.counts[vector] = count

    def _see(self, device: OpenDevice, vector: int) -> None:
        device.seen[vector] = seen = device.counts[vector]
        self.acknowledge(device.handle, vector, seen)

    def acknowledge(self, handle: int, vector: int, seen: int) -> None:
        """Say that *vector* was seen at the count *seen*; rides with the next call."""
        self.session.acknowledge(handle, vector, seen)

    def _why_over(self) -> LinkLost:
        if self.session.broken is not None:
            return LinkLost(f"the host broke the protocol: {self.session.broken}")
        last = self.session.last
        return LinkLost(f"the host ended the session: {last.text}" if last else "the session is over")

    def _sockets(self) -> list[int]:
        """The descriptors of the link."""
        raise NotImplementedError

    def _forked(self) -> None:
        """This process is a child of the one whose guest it is: it has none, and holds nothing of it.

        The host sees by the fd lane, and by the link, that a guest is dead: no copy may be left here.  They are not
        closed but replaced, since an event loop, or whoever closes them later, knows them by their numbers.
        """
        self._lost = LinkLost(
            f"this guest is of process {self._process}, from which this one was forked: attach another"
        )
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in (*self.lane.filenos(), *self._sockets()):
            if fd >= 0:
                os.dup2(null, fd, inheritable=False)
        os.close(null)
        self.ram.close(self._lost)  # it is the parent's, and may not be given out twice

    def _release(self) -> None:
        self.lane.close()
        self.ram.close(self._lost)


def _after_fork() -> None:
    for guest in list(_guests):
        guest._forked()


os.register_at_fork(after_in_child=_after_fork)
