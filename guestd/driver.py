"""The driver author's page: what a driver is made of.

A driver awaits calls of its device, `Signal.wait()` and `self.clock.sleep()`, nothing else, and never imports asyncio.
So the same file runs on the asyncio client and on the blocking one, and on whatever bus or carrier finds the device.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Generic, ParamSpec, Protocol, TypeVar, get_origin, overload

from hcall.errors import IoError, NoSuchCall
from hcall.messages import Areas, Args
from hcall.programs.plugins import Mistakes
from hcall.text import suggest
from hcall.wire import MAX_INLINE

from .memory import Buffer, Ram

__all__ = ["MAX_INLINE", "Buffer", "Driver", "Op", "Signal"]

_TAKEN = ("clock", "dev", "number", "probe", "remove")
_CHUNK = 1 << 20  # bytes of guest memory that a large transfer uses

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Sleeper(Protocol):
    """The part of time that a driver may use."""

    def time(self) -> float:
        """Seconds, never backwards."""

    def sleep(self, seconds: float) -> Awaitable[None]:
        """Until *seconds* have passed."""


class BusDevice(Protocol):
    """An opened device, whichever bus carries it."""

    name: str
    calls: dict[str, int]  # the hypercall table: numbers by name
    vectors: dict[str, int]
    features: frozenset[str]  # those that were negotiated
    ram: Ram
    clock: Sleeper

    def call(self, number: int, args: Args = (), areas: Areas = ()) -> Awaitable[Any]:
        """Make a call.  Raises the HcallError of its status."""

    def interrupt(self, vector: int) -> Awaitable[None]:
        """Until *vector* has been raised since the last time it was asked for."""

    def set_mask(self, vectors: int) -> Awaitable[int]:
        """Mask these vectors, a bit set, and no others; the mask before."""

    def property(self, name: str, kind: type | None = None) -> Awaitable[Any]:
        """A property of the device's node, of this *kind* if one is given.  Errors: NoMatch; IoError for another."""


class Op(Generic[P, R]):
    """A call of the device, by name: `winsize = Op[[], tuple[int, int]]()`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, driver: None, owner: type) -> Op[P, R]: ...
    @overload
    def __get__(self, driver: Driver, owner: type) -> Callable[P, Awaitable[R]]: ...
    def __get__(self, driver: Driver | None, owner: type) -> Op[P, R] | Callable[P, Awaitable[R]]:
        if driver is None:
            return self
        call, number = driver.dev.call, driver.number(self.name)

        def bound(*args: P.args, **named: P.kwargs) -> Awaitable[R]:
            if named:
                raise TypeError(f"{self.name} takes its arguments by position: the wire knows no names")
            return call(number, args)

        driver.__dict__[self.name] = bound  # found before this descriptor from now on
        return bound


class Signal:
    """An interrupt of the device, by name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, driver: None, owner: type) -> Signal: ...
    @overload
    def __get__(self, driver: Driver, owner: type) -> BoundSignal: ...
    def __get__(self, driver: Driver | None, owner: type) -> Signal | BoundSignal:
        if driver is None:
            return self
        vector = driver.dev.vectors.get(self.name)
        if vector is None:
            raise NoSuchCall(f"{driver.dev.name} has no interrupt {self.name!r}")
        bound = driver.__dict__[self.name] = BoundSignal(driver.dev, vector)
        return bound


class BoundSignal:
    """An interrupt vector of one device."""

    __slots__ = ("_dev", "_vector")

    def __init__(self, dev: BusDevice, vector: int) -> None:
        self._dev, self._vector = dev, vector

    def wait(self) -> Awaitable[None]:
        """Until it has been raised since the last wait ended; at once if it was."""
        return self._dev.interrupt(self._vector)


class Driver:
    """Base of all drivers.  The bus core has reset the device and negotiated its features before `probe`."""

    compatible: ClassVar[tuple[str, ...]] = ()
    ids: ClassVar[tuple[tuple[int, int], ...]] = ()  # 16-bit vendor and device, where no compatible string matches
    wants: ClassVar[tuple[str, ...]] = ()  # features to accept, by name, if the device offers them

    def __init_subclass__(cls) -> None:
        mistakes = []
        strings: object = cls.compatible
        if not isinstance(strings, tuple) or not all(isinstance(each, str) for each in strings):
            mistakes.append(("compatible", f'{cls.__name__}.compatible is a tuple: ("vendor,name",)'))
        if not isinstance(cls.wants, tuple):
            mistakes.append(("wants", f'{cls.__name__}.wants is a tuple of names of features: ("FLUSH",)'))
        ids: object = cls.ids
        if not isinstance(ids, tuple) or not all(isinstance(each, tuple) and len(each) == 2 for each in ids):
            mistakes.append(("ids", f"{cls.__name__}.ids is a tuple of pairs: ((vendor, device),)"))
        for name, member in vars(cls).items():
            if isinstance(member, Op | Signal) and name in _TAKEN:
                mistakes.append((name, f"{cls.__name__}.{name}: the name is the base class's own"))
            if (get_origin(member) or member) in (Op, Signal):
                mistakes.append((name, f"{cls.__name__}.{name}: the () behind it is missing"))
        if mistakes:
            raise Mistakes(cls, mistakes)

    def __init__(self, dev: BusDevice) -> None:
        self.dev, self.clock = dev, dev.clock
        self._read, self._write, self._sync = map(dev.calls.get, ("read", "write", "sync"))

    async def probe(self) -> None:
        """Learn what there is to know.  If it raises, the device is closed again and the bus goes on."""

    async def remove(self) -> None:
        """The device is to be unplugged: finish.  It is closed next."""

    async def attend(self) -> None:
        """What the device wants of a guest that only holds it, such as pings for a watchdog; until cancelled."""

    def number(self, call: str) -> int:
        """The hypercall number of a call.  Raises NoSuchCall."""
        try:
            return self.dev.calls[call]
        except KeyError:
            near = suggest(call, self.dev.calls)
            raise NoSuchCall(
                f"{self.dev.name} has no call {call!r}{near}; it has {', '.join(self.dev.calls)}"
            ) from None

    def read(self, count: int, at: int = 0) -> Awaitable[bytes]:
        """Up to *count* bytes, 4,096 at most, within the message."""
        return self.dev.call(self._read or self.number("read"), (at,), (count,))

    def write(self, data: bytes, at: int = 0) -> Awaitable[int]:
        """Write *data*, 4,096 bytes at most, within the message; how much was taken."""
        return self.dev.call(self._write or self.number("write"), (at,), (data,))

    def read_into(self, buffer: Buffer, at: int = 0) -> Awaitable[int]:
        """Fill *buffer*; how much came."""
        return self.dev.call(self._read or self.number("read"), (at,), buffer.room)

    def write_from(self, buffer: Buffer, at: int = 0) -> Awaitable[int]:
        """Write all of *buffer*; how much was taken."""
        return self.dev.call(self._write or self.number("write"), (at,), buffer.data)

    def sync(self) -> Awaitable[None]:
        """Until everything that was answered before is stable."""
        return self.dev.call(self._sync or self.number("sync"))

    async def settle(self) -> None:
        """After the last write: until all of it is stable, if the device can tell."""
        if self._sync:
            await self.sync()

    async def read_exactly(self, count: int, at: int = 0) -> bytes:
        """*count* bytes, in as many calls as it takes.  Errors: IoError if the device ends before."""
        room = (count if count <= MAX_INLINE else MAX_INLINE,)
        data: bytes = await self.dev.call(self._read or self.number("read"), (at,), room)
        while len(data) < count:
            more = await self.read(min(count - len(data), MAX_INLINE), at + len(data))
            if not more:
                raise IoError(f"{self.dev.name} ended {count - len(data)} bytes early")
            data += more
        return data

    async def write_all(self, data: bytes, at: int = 0) -> None:
        """Write all of *data*, in as many calls as it takes."""
        done = 0
        while done < len(data):
            done += self._moved(await self.write(data[done : done + MAX_INLINE], at + done))

    async def load(self, count: int, at: int = 0) -> bytes:
        """As `read_exactly`, through guest memory: the way for much."""
        pieces: list[bytes] = []
        with self.dev.ram.alloc(min(count, _CHUNK)) as buffer:
            left = count
            while left:
                moved = await self.read_into(buffer.part(0, min(left, buffer.size)), at + count - left)
                if not moved:
                    raise IoError(f"{self.dev.name} ended {left} bytes early")
                pieces.append(bytes(buffer.view[:moved]))
                left -= moved
        return b"".join(pieces)

    async def store(self, data: bytes, at: int = 0) -> None:
        """As `write_all`, through guest memory: the way for much."""
        with self.dev.ram.alloc(min(len(data), _CHUNK)) as buffer:
            for start in range(0, len(data), _CHUNK):
                piece = data[start : start + _CHUNK]
                buffer.view[: len(piece)] = piece
                done = 0
                while done < len(piece):
                    rest = buffer.part(done, len(piece) - done)
                    done += self._moved(await self.write_from(rest, at + start + done))

    def _moved(self, count: int) -> int:
        """*count*, if it is any progress.  Raises IoError."""
        if type(count) is not int or count < 1:
            raise IoError(f"{self.dev.name} takes nothing")
        return count
