"""The device author's page: what a device model is made of.

A model is a class: its verbs and calls are plain methods with typed arguments, everything else is declared.  It knows
no guest, no handle and no wire; whatever raises here fails the call it was made for, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, ClassVar, Final, ParamSpec, TypeVar, overload
from weakref import WeakValueDictionary

from hcall.clock import Clock
from hcall.programs.plugins import Mistakes
from hcall.saved import Saved, check

from .model import names, state
from .model.areas import Data, Room
from .model.declared import Feature, Irq, Property, action, call
from .model.declares import Declares, declared_by
from .model.keys import Config
from .model.later import Later, Parts, Steps
from .model.mistakes import mistakes
from .model.site import Ender, Nowhere, Site
from .model.state import State
from .model.workers import Workers

__all__ = [
    "Config",
    "Data",
    "Device",
    "Ender",
    "Feature",
    "Irq",
    "Later",
    "Property",
    "Room",
    "Saved",
    "State",
    "Steps",
    "action",
    "call",
]

_VERSION: Final = 1  # of what is saved
T = TypeVar("T")
P = ParamSpec("P")


class Device:
    """Base of all models.  A class that is declared wrong raises `Mistakes`, a TypeError, with all of them."""

    compatible: ClassVar[str | tuple[str, ...]]  # what drivers match, most specific first
    ids: ClassVar[tuple[int, int]] = (0, 0)  # 16-bit vendor and device, (0, 0) = none
    class_code: ClassVar[int] = 0xFF0000  # its sort as PCI has it: base class, subclass, interface; FF is no known one
    shared: ClassVar[bool] = False  # many guests at once; else the first to open owns it

    declares: ClassVar[Declares] = Declares()

    site: Site  # where it stands; the clock and what is common are this one's
    clock: Clock  # given before `start`
    guest_clock: Clock  # the same, less what the host stood still for: what a guest is held to is counted by it
    common: WeakValueDictionary[Hashable, Any]  # given before `start`: what devices of one host share, while one has it
    offered: int  # feature bits

    def __init_subclass__(cls, leaves: Iterable[str] | None = None, extends: Iterable[str] = ()) -> None:
        """*leaves* are for a base of models: which of its names models may take, too; all others are its own.

        It *extends* what its own base has for the host, and calls `super()` there.
        """
        super().__init_subclass__()
        own = dict(vars(cls))
        cls.declares, wrong = declared_by(cls)
        wrong += mistakes(cls, {name: member for name, member in own.items() if name not in extends}, Device)
        if wrong:
            raise Mistakes(cls, wrong)
        if leaves is not None:
            names.keep(cls, own, leaves)

    def __init__(self, **config: Any) -> None:
        """*config* are the values of the `Config` keys; a default is converted as the machine file's value would be."""
        self.site = Nowhere()
        self.offered = sum(1 << bit for bit in self.declares.features.values())
        self.__workers = Workers(type(self).__name__)
        self.__parts: Parts | None = None
        for name, key in self.declares.keys.items():
            if name not in config and key.required:
                raise TypeError(f"{type(self).__name__} needs {name}")
            setattr(self, name, config.pop(name) if name in config else key.convert(key.default, Path()))
        if config:
            raise TypeError(f"{type(self).__name__} has no {', '.join(config)}")
        self.declares.states.power_on(self)

    def check_keys(self) -> None:
        """Look at the keys that belong together.  Raises ValueError: the machine file is refused with that sentence.

        Called before there is a device: self has the keys, and nothing else yet.
        """

    def check_isolated(self) -> None:
        """The same, if the machine file says `isolate = true`: raises ValueError for a device that cannot be.

        That is one that has something in `common` with others: there are none in a process of its own.
        """

    def start(self) -> None:
        """Take hold of the backing.  May raise OSError or ValueError: the device is refused with that sentence."""

    def ready(self) -> None:
        """A driver has set the device up: interrupts reach it from now on."""

    def reset(self) -> None:
        """The last close, or the driver's reset: as after power-on, nothing of one guest visible to the next.

        What is declared as `State` was set back just before.
        """

    def stop(self) -> None:
        """Let go of the backing; called once, when no call is under way; never, if one is stuck.

        Called after a `start` that raised, too, to let go of what that had taken: what else it raises then is ignored.
        """

    def tick(self) -> None:
        """Called about once a second, for what can only be found out by looking."""

    def save(self) -> Saved:
        """What another device of this sort needs to go on as this one: its `State`, and what else there is to be said.

        Plain data, see `hcall.saved`; a deadline is what is left of it, since the other one has another clock.
        """
        return {"version": _VERSION, "state": state.save(self, self.declares.states)}

    def load(self, saved: Saved) -> None:
        """Go on as the device that was *saved*; called after `start`.  Raises ValueError if that was of another sort.

        Its guests are those of then, but come back later: nobody hears an interrupt yet.
        """
        check(saved, _VERSION)
        state.load(self, self.declares.states, saved["state"])

    def raise_vector(self, vector: int) -> None:
        """Raise an interrupt by number; `Irq` gives it a name."""
        if not 0 <= vector < len(self.declares.irqs):
            raise IndexError(f"{type(self).__name__} has no vector {vector}")
        self.site.signal(vector)

    @property
    def in_use(self) -> bool:
        """Whether a driver has set the device up: only then an interrupt reaches somebody."""
        return self.site.in_use

    def ender(self, guests: Iterable[int] | None = None) -> Ender:
        """What ends the sessions of the guests that have the device open now: a watchdog resets its guest, say.

        *guests* are those of one that was saved, `Ender.guests`.
        """
        return self.site.ender(guests)

    def complain(self, text: str) -> None:
        """*text*, about this device, is for the log: once, and then a count, however often a guest makes it happen."""
        self.site.complain(text)

    @overload
    def offload(self, work: Callable[P, Steps[T]], *args: P.args, **kwargs: P.kwargs) -> Later[T]: ...
    @overload
    def offload(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Later[T]: ...
    def offload(self, work: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> Later[Any]:
        """Run a call that blocks, such as a flush, in a worker thread; its outcome is the answer.

        Work that may take long yields between its parts: there it ends when nobody wants it any more.
        """
        return self.__workers.submit(work, *args, **kwargs)

    def in_parts(self, steps: Steps[T]) -> T | Later[T]:
        """Do long work that need not wait, such as to look at each of 4,096 frames: *steps* yield between its parts.

        Answered at once within half a millisecond, else others have turns between the parts.  What a device
        does in parts is done in its order; a reset ends it between two parts, and the area is there until then.
        """
        if self.__parts is None:
            self.__parts = Parts(self.clock, self.advance)
        return self.__parts.begin(steps)

    def advance(self, steps: Steps[T], until: float, /) -> tuple[T] | None:
        """A few of *steps*; what they return, when they are through.  For the host."""
        time = self.clock.time
        try:
            while True:
                next(steps)
                if time() > until:
                    return None
        except StopIteration as end:
            return (end.value,)

    def stand(self, site: Site) -> None:
        """It has this site.  For the host."""
        self.site, self.clock, self.common = site, site.clock, site.common
        self.guest_clock = site.guest_clock

    def revert(self, used: bool) -> None:
        """As at power-on, as far as it is declared; what is early only if a guest has *used* it.  For the host."""
        self.declares.states.set_back(self, used)

    def renew(self, used: bool) -> None:
        """All that a reset is: what is declared, and what the model does itself.  For the host."""
        self.revert(used)
        self.reset()

    def close(self) -> None:
        """`stop`, and end the workers.  For the host."""
        self.__workers.close()
        self.stop()


names.keep(Device, vars(Device))
