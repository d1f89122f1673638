"""The selected node of `guestd shell`, and its device, which is used without a driver.

It is opened by the first thing that needs it, with all features that it offers.
"""

from __future__ import annotations

import contextlib
import inspect
import posixpath
import re
import types
from collections.abc import Iterator
from typing import Any

from hcall import numbers
from hcall.errors import NoMatch, StaleHandle, WouldBlock
from hcall.programs.command import Exit, Failure
from hcall.text import suggest
from hcall.wire import MAX_INLINE

from ..bus.device import OpenDevice
from ..bus.known import match
from ..clients.blocking import BlockingGuest
from ..driver import Driver, Op
from ..probers import Found


class Selected:
    """A place in the device tree.  Errors: Failure for what is not here, and those of the calls."""

    def __init__(self, guest: BlockingGuest) -> None:
        self.guest = guest
        self.at: Found = guest.run(guest.found("/"))
        self._device: OpenDevice | None = None  # of `at`

    # The tree.

    def select(self, text: str) -> None:
        """Go to the path *text*, from here or from the root; the device that is left is given back."""
        path = self.path(text)
        try:
            found = self.guest.run(self.guest.found(path))
        except NoMatch:
            for node in self.guest.run(self.guest.walk()):
                if node.name == posixpath.basename(path):
                    raise NoMatch(f"no node {path!r} (did you mean {node.path!r}?)") from None
            raise
        if found.node != self.at.node:
            self.close()
            self.at = found

    def path(self, text: str) -> str:
        """The path *text* from the root, without `..`."""
        return "/" + posixpath.normpath(posixpath.join(self.at.path, text)).strip("/")

    def children(self, path: str) -> list[Found]:
        """The nodes just below *path*."""
        nodes = self.guest.run(self.guest.walk())
        return [node for node in nodes if node.path != "/" and posixpath.dirname(node.path) == path]

    def properties(self) -> dict[str, Any]:
        """All properties of the node."""
        return self.guest.run(self.guest.properties(self.at.node))

    def follow(self) -> str | None:
        """Take up what was plugged and unplugged; what there is to say about it."""
        told = None
        try:
            self._core(self.at.node, numbers.INFO)
        except StaleHandle:
            told = f"{self.at.path} is gone; at / now"
            self.at = self.guest.run(self.guest.found("/"))
        self.guest.run(self.guest.follow())
        if self._device is not None and self._device.gone:  # or is to go, and was given back
            self._device = None
        return told

    # The device.

    @property
    def device(self) -> OpenDevice:
        """The device, opened if it is not yet.  Errors: Failure if there is none, Busy."""
        if self._device is None:
            if not self.at.has_device:
                raise Failure(f"{self.at.path} has no device: select one with `dev PATH`", Exit.NO_DEVICE)
            driver = self.guest.run(self.guest.bind_as(self.at, Driver))
            assert isinstance(driver.dev, OpenDevice)
            self._device = driver.dev
        return self._device

    def close(self) -> None:
        """Give the device back, if it is open."""
        if self._device is not None:
            self._device = None
            self.guest.run(self.guest.unbind(self.at.path))

    def call(self, name: str, args: list[object], room: int | None, data: list[bytes]) -> object:
        """Make a call; with *room* for that many bytes, the answer is those that came."""
        number = self.device.calls[name]
        if room is None or (room <= MAX_INLINE and not data):
            areas = tuple(data) if room is None else (room,)
            return self.guest.run(self.device.call(number, tuple(args), areas))
        with self.guest.ram.alloc(room) as buffer:  # room in the reply is a call's only area
            count = self.guest.run(self.device.call(number, tuple(args), (*buffer.room, *data)))
            return bytes(buffer.view[:count])

    def read(self, count: int, at: int) -> tuple[bytes, str]:
        """Up to *count* bytes, and why there are no more."""
        driver, data = Driver(self.device), bytearray()
        try:
            while len(data) < count:
                more = self.guest.run(driver.read(min(count - len(data), MAX_INLINE), at + len(data)))
                if not more:
                    return bytes(data), "the end"
                data += more
        except WouldBlock:
            return bytes(data), "nothing yet"
        return bytes(data), ""

    def write(self, data: bytes, at: int) -> int:
        """Write *data*; how much was taken."""
        driver, done = Driver(self.device), 0
        with contextlib.suppress(WouldBlock):
            while done < len(data):
                taken = self.guest.run(driver.write(data[done : done + MAX_INLINE], at + done))
                if not taken:
                    break
                done += taken
        return done

    def wait(self, name: str, seconds: float | None) -> None:
        """Until the interrupt *name* has been raised since it was last waited for.  Errors: Failure with TIMEOUT."""
        device, clock = self.device, self.guest.clock
        if name not in device.vectors:
            near = suggest(name, device.vectors)
            raise Failure(f"{self.at.path} has no interrupt {name!r}{near}", Exit.USAGE)
        vector = device.vectors[name]
        if seconds is not None:
            deadline = clock.time() + seconds
            while device.counts[vector] == device.seen[vector] and not device.gone:
                if not self.guest.wait(deadline - clock.time()):
                    raise Failure(f"no {name} within {seconds:g} s", Exit.TIMEOUT)
                self.guest.run(self.guest.follow())
        self.guest.run(device.interrupt(vector))

    # What there is.

    def names(self) -> dict[str, list[str]]:
        """All names that mean something here, by what they are."""
        groups: dict[str, list[str]] = {}
        if self.at.has_device:
            device = self.device
            groups = {"calls": [*device.calls], "interrupts": [*device.vectors], "features": [], "not offered": []}
            for name in device.offered:
                groups["features" if name in device.features else "not offered"].append(name)
        return groups | {"properties": [*self.properties()]}

    def about(self, name: str) -> Iterator[str]:
        """What the device has by the name *name*."""
        device = self.device
        if name in device.calls:
            number = device.calls[name]
            class_id, call = number >> numbers.CLASS_SHIFT, number & (1 << numbers.CLASS_SHIFT) - 1
            yield f"call: number {call} of class {class_id:#x}, hypercall {number:#010x}"
            yield from _declared(match(self.at, self.guest.known) or Driver, name)
        if name in device.vectors:
            vector = device.vectors[name]
            (_, counts), *_ = self._core(0, numbers.POLL, device.handle - 1)
            yield f"interrupt: vector {vector}, raised {counts[vector]} times, {device.seen[vector]} of them seen"
        if name in device.offered:
            yield f"feature: bit {device.offered[name]}, {'accepted' if name in device.features else 'not offered'}"

    def _core(self, handle: int, number: int, *args: object) -> Any:
        return self.guest.run(self.guest.core(handle, number, *args))


def _declared(driver: type[Driver], name: str) -> Iterator[str]:
    """How *driver* declares the call *name*, and what it says about it."""
    for base in driver.__mro__:
        member = vars(base).get(name)
        if isinstance(member, Op):
            with contextlib.suppress(OSError, TypeError):  # there is no source
                lines = map(str.strip, inspect.getsource(base).splitlines())
                yield from (f"{base.__name__}: {line}" for line in lines if re.match(rf"{name}\b.*=", line))
            return
        if inspect.isfunction(member):
            yield f"{base.__name__}: {name}{inspect.signature(types.MethodType(member, base))}".replace("'", "")
            yield from (inspect.getdoc(member) or "").splitlines()
            return
