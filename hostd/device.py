"""The device author's page: what a device model is made of.

A model is a class: its verbs and calls are plain methods with typed arguments, everything else is declared.  It knows
no guest, no handle and no wire; whatever raises here fails the call it was made for, and nothing else.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import typing
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, ParamSpec, Protocol, TypeVar, overload
from weakref import WeakValueDictionary

from hcall.clock import Clock
from hcall.memory import Data, Room
from hcall.programs.plugins import Mistakes

from .calls.vectors import MAX_VECTORS, Vectors
from .model.handlers import Handler, find, find_actions
from .model.later import Later

__all__ = ["Config", "Data", "Device", "Feature", "Irq", "Later", "Property", "Room", "action", "call"]

T = TypeVar("T")
P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])

_MAX_CALLS: Final = 60  # the reply to OPEN carries them in one map
_MAX_NAME: Final = 63  # so that all names of a device fit the reply to OPEN
_MAX_COMPATIBLE: Final = 16
_HOOKS: Final = ("start", "ready", "reset", "stop", "tick")
_STANDARD_PROPERTIES: Final = ("name", "vendor_id", "device_id", "hcall_class")  # and compatible, see Tree
_REQUIRED: Final = object()
_WORKERS: Final = 4  # threads of one device: its slow disk must not hold up another device


class _Declared(Generic[T]):
    """A value of the device that its class declares."""

    name: str

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, device: None, owner: type) -> typing.Self: ...
    @overload
    def __get__(self, device: Device, owner: type) -> T: ...
    def __get__(self, device: Device | None, owner: type) -> typing.Self | T:
        if device is None:
            return self
        try:
            return typing.cast(T, device.__dict__[self.name])
        except KeyError:
            raise AttributeError(f"{owner.__name__}.{self.name} has no value yet") from None


class Config(_Declared[T]):
    """A key of the device's table in the machine file.

    *kind* is bool, int, str, Path (relative to the machine file), or a class with `parse(text, folder)`.  Without a
    *default*, which is written as in the file, the key must be there.  An int may have *bounds*, such as range(1, 11).
    """

    def __init__(
        self,
        kind: type[T],
        default: object = _REQUIRED,
        help: str = "",  # noqa: A002  # as argparse
        bounds: range | None = None,
    ) -> None:
        self.kind, self.default, self.help, self.bounds = kind, default, help, bounds

    @property
    def required(self) -> bool:
        """Whether a machine file must have the key."""
        return self.default is _REQUIRED

    def mistake(self) -> str | None:
        """What is wrong with it as it was declared."""
        if self.kind not in (bool, int, str, Path):
            if not hasattr(self.kind, "parse"):
                return "a key is bool, int, str, Path or a class with parse(text, folder)"
            if inspect.isfunction(inspect.getattr_static(self.kind, "parse")):
                return f"{self.kind.__name__}.parse is a @classmethod, or a @staticmethod"
        if self.bounds is not None and self.kind is not int:
            return "only an int has bounds"
        try:
            if not self.required:
                self.convert(self.default, Path())
        except Exception as error:  # of the author's own parse
            return f"its default {error if isinstance(error, ValueError) else f'{type(error).__name__}: {error}'}"
        return None

    def convert(self, value: object, folder: Path) -> T:
        """*value*, as the machine file has it, as the device gets it.  Raises ValueError with a sentence."""
        kind: Any = self.kind
        wanted = kind if kind in (bool, int, str) else str
        if type(value) is not wanted:
            raise ValueError(f"must be {TOML_NAMES[wanted]}, not {TOML_NAMES.get(type(value), 'that')}")
        if self.bounds is not None and value not in self.bounds:
            raise ValueError(f"must be {self.bounds[0]} to {self.bounds[-1]}, not {value}")
        if kind is Path:
            return typing.cast(T, folder / typing.cast(str, value))
        return typing.cast(T, value if kind is wanted else kind.parse(value, folder))

    if TYPE_CHECKING:  # with a real one every read would come here, and not to the instance at once

        def __set__(self, device: Device, value: T) -> None: ...


TOML_NAMES: Final = {
    bool: "true or false", int: "a whole number", str: "a string", float: "a number with a point", list: "an array",
    dict: "a table",
}  # fmt: skip


PROPERTY_KINDS: Final = (int, str, bytes, bool, float, tuple)


class Property(_Declared[T]):
    """A value that the device tree shows: an int, str, bytes, bool or float, or a tuple of them."""

    def __init__(self, kind: type[T]) -> None:
        self.kind = kind

    def __set__(self, device: Device, value: T) -> None:
        if not isinstance(value, self.kind):
            raise TypeError(f"{self.name} is {self.kind.__name__}, not {type(value).__name__}")
        for item in value if isinstance(value, tuple) else ():
            if not isinstance(item, PROPERTY_KINDS[:-1]):
                raise TypeError(f"{self.name} has {type(item).__name__} in it, which no property has")
        device.__dict__[self.name] = value


class Feature:
    """A feature bit, 0 to 63, offered unless the device takes it out of `offered`."""

    name: str

    def __init__(self, bit: int) -> None:
        self.bit, self.mask = bit, 1 << bit

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name


class Irq:
    """A named interrupt vector.  `self.name()` raises it on every open handle of the device."""

    name: str
    vector: int

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, device: None, owner: type) -> Irq: ...
    @overload
    def __get__(self, device: Device, owner: type) -> Callable[[], None]: ...
    def __get__(self, device: Device | None, owner: type) -> Irq | Callable[[], None]:
        if device is None:
            return self
        bound = functools.partial(device.raise_vector, type(device).irqs.index(self.name))
        device.__dict__[self.name] = bound  # found before this descriptor from now on
        return bound


@overload
def call(method: F, /) -> F: ...
@overload
def call(*, needs: Feature | None = None, early: bool = False) -> Callable[[F], F]: ...
def call(method: F | None = None, /, *, needs: Feature | None = None, early: bool = False) -> F | Callable[[F], F]:
    """Offer a method to the guest: areas first (a Room, a Data), then int, bool, str, bytes or float arguments.

    It is there only if the driver accepted the feature *needs*; *early*: before the driver has negotiated, too.
    """

    def mark(method: F) -> F:
        method.__hcall__ = (needs.mask if needs else 0, early)  # type: ignore[attr-defined]
        return method

    return mark if method is None else mark(method)


def action(method: F) -> F:
    """Offer a method to the host's user, `hostd act DEVICE NAME ARG ...`: a button, or paper that has run out.

    Arguments are int, bool, str or float; what it returns is shown.
    """
    method.__action__ = True  # type: ignore[attr-defined]
    return method


@dataclass(frozen=True)
class Ender:
    """Ends sessions of guests, now or when these have closed the device; two for the same guests are equal."""

    expels: tuple[Callable[[str], None], ...]

    def __call__(self, text: str) -> None:
        """End them, with a sentence to each."""
        for expel in self.expels:
            expel(text)


class Holder(Protocol):
    """Whoever has the device open."""

    expel: Callable[[str], None]


class Device:
    """Base of all models.  A class that is declared wrong raises `Mistakes`, a TypeError, with all of them."""

    compatible: ClassVar[str | tuple[str, ...]]  # what drivers match, most specific first
    ids: ClassVar[tuple[int, int]] = (0, 0)  # 16-bit vendor and device, (0, 0) = none
    shared: ClassVar[bool] = False  # many guests at once; else the first to open owns it

    handlers: ClassVar[tuple[Handler, ...]] = ()
    actions: ClassVar[tuple[Handler, ...]] = ()
    irqs: ClassVar[tuple[str, ...]] = ()
    config: ClassVar[dict[str, Config[Any]]] = {}
    properties: ClassVar[tuple[str, ...]] = ()
    features: ClassVar[dict[str, int]] = {}

    opens: Sequence[Holder]  # its node's: each open handle, for `ender`
    openers: list[Vectors]  # of each open handle that is ready for interrupts
    clock: Clock  # given before `start`
    common: WeakValueDictionary[Hashable, Any]  # given before `start`: what devices of one host share, while one has it
    offered: int  # feature bits

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        declared = dict(vars(cls))  # before what is found takes the place of a call named `config`, say
        members: dict[str, Any] = {}
        for base in reversed(cls.__mro__):
            for name, member in vars(base).items():
                offered = getattr(members.get(name), "__hcall__", None)
                if offered is not None and not hasattr(member, "__hcall__") and inspect.isfunction(member):
                    member.__hcall__ = offered  # type: ignore[attr-defined]  # an override need not say @call again
                members[name] = member
        cls.handlers, mistakes = find(members)
        cls.actions, more = find_actions(members)
        mistakes += more
        cls.irqs = tuple(name for name, member in members.items() if isinstance(member, Irq))
        cls.config = {name: member for name, member in members.items() if isinstance(member, Config)}
        cls.properties = tuple(name for name, member in members.items() if isinstance(member, Property))
        cls.features = {name: member.bit for name, member in members.items() if isinstance(member, Feature)}
        mistakes += _mistakes(cls, declared)
        if mistakes:
            raise Mistakes(cls, mistakes)

    def __init__(self, **config: Any) -> None:
        """*config* are the values of the `Config` keys; a default is converted as the machine file's value would be."""
        self.opens, self.openers = [], []
        self.offered = sum(1 << bit for bit in type(self).features.values())
        self._workers: ThreadPoolExecutor | None = None
        for name, key in type(self).config.items():
            if name not in config and key.required:
                raise TypeError(f"{type(self).__name__} needs {name}")
            setattr(self, name, config.pop(name) if name in config else key.convert(key.default, Path()))
        if config:
            raise TypeError(f"{type(self).__name__} has no {', '.join(config)}")

    def start(self) -> None:
        """Take hold of the backing.  May raise OSError or ValueError: the device is refused with that sentence."""

    def ready(self) -> None:
        """A driver has set the device up: interrupts reach it from now on."""

    def reset(self) -> None:
        """The last close, or the driver's reset: as after power-on, nothing of one guest visible to the next."""

    def stop(self) -> None:
        """Let go of the backing; called once, after `start`, when no call is under way; never, if one is stuck."""

    def tick(self) -> None:
        """Called about once a second, for what can only be found out by looking."""

    def raise_vector(self, vector: int) -> None:
        """Raise an interrupt by number; `Irq` gives it a name."""
        if not 0 <= vector < len(type(self).irqs):
            raise IndexError(f"{type(self).__name__} has no vector {vector}")
        for vectors in self.openers:
            vectors.fire(vector)

    def ender(self) -> Ender:
        """What ends the sessions of the guests that have the device open now: a watchdog resets its guest, say."""
        return Ender(tuple(opened.expel for opened in self.opens))

    def offload(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Later[T]:
        """Run a call that blocks, such as a flush, in a worker thread; its outcome is the answer."""
        if self._workers is None:
            self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix=type(self).__name__)
        loop = asyncio.get_running_loop()
        later: Later[T] = Later()
        future = self._workers.submit(work, *args, **kwargs)

        def finish() -> None:
            error = future.exception()
            if error is None:
                later.done(future.result())
            else:
                later.fail(error if isinstance(error, Exception) else RuntimeError(repr(error)))

        def finished(_: object) -> None:
            if not future.cancelled() and not loop.is_closed():
                loop.call_soon_threadsafe(finish)

        later.runs(future.cancel)
        future.add_done_callback(finished)
        return later

    def close(self) -> None:
        """`stop`, and end the workers.  For the host."""
        if self._workers is not None:
            self._workers.shutdown(wait=False)
            self._workers = None
        self.stop()


def _is_compatible(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) < 256 and text.isascii() and text.isprintable()


def _is_hook(member: object) -> bool:
    return inspect.isfunction(member) and not inspect.iscoroutinefunction(member) and member.__code__.co_argcount == 1


def _mistakes(cls: type[Device], own: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """What is wrong with the declarations of *cls*, whose *own* members were these: (member, sentence)."""
    for name, member in own.items():
        marked = hasattr(member, "__hcall__") or hasattr(member, "__action__")
        declared = marked or isinstance(member, _Declared | Feature | Irq)
        if name == "close" or (declared and (hasattr(Device, name) or name in Device.__annotations__)):
            yield name, f"{cls.__name__}.{name}: the name is the base class's own"
        if isinstance(member, Config) and name == "model":
            yield name, f"{cls.__name__}.{name}: the machine file has another use for this key"
        if isinstance(member, Property) and name in _STANDARD_PROPERTIES:
            yield name, f"{cls.__name__}.{name}: every node has a property of that name"
        if isinstance(member, Property) and member.kind not in PROPERTY_KINDS:
            yield name, f"{cls.__name__}.{name}: a property is int, str, bytes, bool, float or tuple"
        if name in _HOOKS and not _is_hook(member):
            yield name, f"{cls.__name__}.{name}: a plain def with no argument but self"
        if isinstance(member, Config) and (wrong := member.mistake()):
            yield name, f"{cls.__name__}.{name}: {wrong}"
    if len(cls.irqs) > MAX_VECTORS or len(cls.handlers) > _MAX_CALLS:
        yield "", f"{cls.__name__}: at most {MAX_VECTORS} vectors and {_MAX_CALLS} calls"
    for name, bit in cls.features.items():
        if not 0 <= bit < 64 or list(cls.features.values()).count(bit) > 1:
            yield name, f"{cls.__name__}.{name}: a feature has a bit of its own, 0 to 63, not {bit}"
    for name in (*(handler.name for handler in cls.handlers), *cls.irqs, *cls.features, *cls.properties):
        if len(name) > _MAX_NAME or not name.isascii():
            yield name, f"{cls.__name__}.{name[:_MAX_NAME]}: a name has {_MAX_NAME} letters of ASCII at most"
    compatible = getattr(cls, "compatible", ())
    strings = (compatible,) if isinstance(compatible, str) else compatible
    if not isinstance(strings, tuple) or len(strings) > _MAX_COMPATIBLE or not all(map(_is_compatible, strings)):
        yield "compatible", f'{cls.__name__}: compatible is "vendor,name", or a tuple of such, most specific first'
    ids: object = cls.ids
    if not isinstance(ids, tuple) or len(ids) != 2 or not all(type(n) is int and 0 <= n < 1 << 16 for n in ids):
        yield "ids", f"{cls.__name__}: ids are two numbers of 16 bits, vendor and device"
