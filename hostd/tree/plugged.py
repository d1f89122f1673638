"""A device in its place, from plug to gone: the one wall around a model.

Whatever a model does in a hook, an action or a callback ends here; what it does in a call ends in `calls.dispatch`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from hcall import numbers
from hcall.clock import Clock, Timer
from hcall.errors import HcallError, Internal
from hcall.saved import Saved

from ..device import Device
from ..model.blame import Misbehaved, blame
from ..model.handlers import Handler
from ..model.later import Later
from ..model.mistakes import unfit
from ..model.site import Ender
from . import behind
from .complaints import Complaints
from .long_calls import LongCalls
from .tables import Tables
from .turns import Turns

log = logging.getLogger(__name__)
T = TypeVar("T")


class Waiting(Protocol):
    """A call that is answered later."""

    since: float
    later: Later[Any]
    waits: bool  # for the world outside


class Signalled(Protocol):
    """Whoever takes interrupts."""

    def fire(self, vector: int) -> None:
        """Raise *vector*."""


class Holder(Protocol):
    """One guest's hold on the device, from OPEN to CLOSE."""

    pending: dict[Any, None]  # of Waiting

    @property
    def guest(self) -> int:
        """The guest's number, which no other has."""

    def close(self, then: Callable[[], None] | None = None) -> object:
        """Give the device back."""

    def break_down(self) -> None:
        """The device has failed: nothing but a reset, or CLOSE, works from now on."""


class Plugged:
    """A device, who holds it, and whether it works.  To its model this is the `Site`."""

    def __init__(
        self, device: Device, path: str, clock: Clock, random: Callable[[int], bytes],
        common: WeakValueDictionary[Hashable, Any] | None = None,
        expel: Callable[[int, str], None] = lambda guest, text: None,
        is_there: Callable[[int], bool] = lambda guest: True, guest_clock: Clock | None = None,
    ) -> None:  # fmt: skip
        """*path* begins with a slash, *random*(count) is chance; *common* is what the devices of one host share.

        *expel*(guest, text) ends the session of the guest with that number, if it *is_there*(guest); *guest_clock* is
        *clock*, less what the host stood still for.
        """
        self.device, self.path, self.random, self._expel, self._is_there = device, path, random, expel, is_there
        self.common: WeakValueDictionary[Hashable, Any] = WeakValueDictionary() if common is None else common
        self.clock: Clock = _ModelClock(clock, self, self.common.setdefault(Turns, Turns(clock)))
        self.guest_clock: Clock = _ModelClock(guest_clock or clock, self)
        self.class_id = 0  # the tree gives one
        self.holds: dict[Holder, None] = {}  # in their order; a list would make the end of many quadratic
        self.live: dict[Signalled, None] = {}  # of holds whose driver has set the device up
        self.failed = False  # the device is of no use until a reset of it succeeds
        self.used = False  # since the last reset: see Site, and `Tables`
        self.complaints, self.long_calls = Complaints(path, clock), LongCalls()
        self.gone = self.stopped = False
        self.generation = 0  # how often a property got another value
        #: Called when it shows something else, or has failed; like hints, in the middle of a model's call.
        self.watchers: dict[object, Callable[[], object]] = {}
        self._acting: set[Later[Any]] = set()  # actions that are answered later
        self.when_free: list[Callable[[], None]] = []  # called once, when the last hold is given back
        self.when_idle: Callable[[], None] = _nothing  # called each time that it was
        self.tables = Tables(self)
        device.stand(self)

    # What the model knows of it.

    @property
    def in_use(self) -> bool:
        """Whether a driver has set the device up."""
        return bool(self.live)

    def signal(self, vector: int) -> None:
        """Raise an interrupt on every handle that is set up."""
        for vectors in self.live:
            vectors.fire(vector)

    def ender(self, guests: Iterable[int] | None = None) -> Ender:
        """What ends the sessions of those *guests*, or of those that have the device open now."""
        found = {hold.guest for hold in self.holds} if guests is None else guests
        return Ender(tuple(sorted(found)), self._expel, self._is_there)

    def complain(self, text: str) -> None:
        """*text*, about this device, is for the log: once, and then a count."""
        self.complaints.say(text)

    def shown(self) -> None:
        """A property has another value: whoever asks is told, and whoever watches."""
        self.generation += 1
        self._tell()

    def _tell(self) -> None:
        for watcher in list(self.watchers.values()) if self.watchers else ():
            watcher()

    def fail(self) -> None:
        """The device is of no use until a reset of it succeeds."""
        self.failed = True
        for hold in list(self.holds):
            hold.break_down()
        self._tell()

    # Its hooks.

    def invoke(self, hook: Callable[..., T], *args: Any, may: tuple[type[Exception], ...] = (), what: str = "") -> T:
        """Call *hook* of the model, *what* to people.  Raises what it *may*; all else is logged, and is Internal."""
        what = what or f"{getattr(hook, '__name__', 'a hook')}()"
        began = self.clock.time()
        try:
            return hook(*args)
        except may:
            raise
        except BaseException as error:  # a model may do anything: sys.exit(), too
            self.complaints.note(what, error)
            raise Internal(blame(error)) from error
        finally:
            self.long_calls.note(what, self.clock.time() - began)

    def start(self) -> None:
        """Take hold of the backing.  Raises OSError, ValueError or Internal, when what it had taken is let go."""
        try:
            self._begin()
        except BaseException:
            self._let_go()
            raise

    def _begin(self) -> None:
        self.invoke(self.device.start, may=(OSError, ValueError))
        for _, wrong in unfit(self.device):
            raise ValueError(wrong)

    def _let_go(self) -> None:
        """Of what a start that failed had taken."""
        self.gone = self.stopped = True
        try:
            self.device.close()
        except BaseException as error:  # most often for want of what start did not come to
            log.debug("%s: stop() after a start that failed", self.path, exc_info=error)

    def ready(self) -> None:
        """A driver has set the device up.  Raises HcallError or OSError."""
        self.invoke(self.device.ready, may=(HcallError, OSError))

    def reset(self) -> None:
        """As after power-on, or it has failed."""
        used = self.used or self.failed
        if self._works(self.device.renew, used, what="reset()"):
            self.failed = self.used = False
            if used:
                self.tables.fill()

    def tick(self) -> None:
        """Let the model look at what it can only find out by looking."""
        if not self.failed:
            self._works(self.device.tick)

    def act(self, action: Handler, *args: object) -> object:
        """Do what the host's user asked for; what it returns, which may be Later.  Raises HcallError or OSError."""
        method, what = getattr(self.device, action.name), f"{action.name}()"
        outcome = self.invoke(method, *args, may=(HcallError, OSError), what=what)
        if not isinstance(outcome, Later):
            return outcome
        told: Later[object] = Later()
        if outcome.taken:
            told.fail(Misbehaved("it returned the Later of something else"))
            return told
        self._acting.add(outcome)

        def settled(value: object) -> None:
            self._acting.discard(outcome)
            told.settle(value)
            self._stop_if_idle()

        outcome.then(settled)
        return told

    def retire(self) -> None:
        """It is out of the tree: end all holds, and stop when no worker has its hands on it."""
        for _ in self.retiring():
            pass

    def retiring(self) -> Iterator[None]:
        """As `retire`: all handles are stale at once, and what comes after that is a step for each."""
        self.gone, self.when_idle = True, _nothing
        self.live.clear()
        self.tables.clear()
        return self._retire()

    def _retire(self) -> Iterator[None]:
        holds = list(self.holds)[::-1]
        while holds:
            hold = holds.pop()  # and it is freed: all at the end would be much at once
            if hold in self.holds:  # else its guest has given it back meanwhile
                hold.close()
                yield
        for later in list(self._acting):
            later.abandon()
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        """When it is gone, and nobody has his hands on it any more."""
        if self.stopped or not self.gone or self.holds or self._acting:
            return
        self.stopped = True
        with contextlib.suppress(Internal):  # it is logged, and nobody else has to know
            self.invoke(self.device.close, what="stop()")
        self.complaints.settle(last=True)

    def _works(self, hook: Callable[..., object], *args: object, what: str = "") -> bool:
        """Call *hook*; if it fails, so has the device."""
        try:
            self.invoke(hook, *args, what=what)
        except Internal:
            self.fail()
            return False
        return True

    # In another process, or another life of this one.

    def save(self) -> tuple[Saved, list[int]]:
        """What `load` needs, and the descriptors that go with it, which stay this one's.  Raises Internal."""
        backings, fds = behind.save(self.device, self.invoke)
        device = self.invoke(self.device.save)
        return {
            "version": behind.VERSION, "used": self.used, "failed": self.failed, "device": device, "behind": backings,
        }, fds  # fmt: skip

    def load(self, saved: Saved, fds: Sequence[int]) -> None:
        """Instead of `start`: go on where *saved* was taken; *fds* are the device's from now on, whatever comes.

        The holds of its guests are restored after that.  Raises as `start` does; ValueError for another sort of device.
        """
        try:
            behind.adopt(self.device, saved, fds, self.invoke)
            self._begin()
            self.invoke(self.device.load, saved["device"], may=(OSError, ValueError))
        except BaseException:
            self._let_go()
            raise
        self.used, self.failed = saved["used"], saved["failed"]

    def cede(self) -> None:
        """Another one goes on with what was saved: this one is no more, and all behind it stays as it is.

        No call is under way; its holds are nobody's any more, and may be closed at any time.  Raises Internal.
        """
        self.gone = self._stopped = True
        self.live.clear()
        for carried in behind.behind(self.device).values():
            self.invoke(carried.cede)
        self.invoke(self.device.close, what="stop()")

    # Its holds.

    def release(self, hold: Holder) -> None:
        """*hold* is given back, and no call of it is under way."""
        del self.holds[hold]
        self.reset_for(hold)

    def reset_for(self, hold: Holder) -> None:
        """The driver of *hold* wants a reset, or has gone; a shared device that works is not reset under the others."""
        others = len(self.holds) > (hold in self.holds)
        if not self.gone and (self.failed or not (self.device.shared and others)):
            self.reset()
        self.complaints.settle()

    def freed(self) -> None:
        """Tell those who wait for it, if nobody has it open any more."""
        while self.when_free and not self.holds:
            self.when_free.pop()()
        if not self.holds:
            self.when_idle()
        self._stop_if_idle()

    def waiting(self, before: float) -> Iterator[list[Waiting]]:
        """The calls under way that began before that time, of one hold after the other, but for those that may."""
        for hold in list(self.holds):
            yield [pending for pending in hold.pending if pending.since < before and not pending.waits]

    # Its calls.

    def number(self, handler: Handler) -> int:
        """The hypercall number of a verb or call here."""
        return self.class_id << numbers.CLASS_SHIFT | handler.number

    def name_of(self, number: int) -> str:
        """What *number* calls, for people."""
        return f"{self.names[number]}()" if number in self.names else numbers.CORE.get(number, f"call {number:#x}")

    @cached_property
    def names(self) -> dict[int, str]:
        """The names of its calls, by hypercall number."""
        return {number: name for name, number in self.calls.items()}

    @cached_property
    def calls(self) -> dict[str, int]:
        """The hypercall numbers by name."""
        return {handler.name: self.number(handler) for handler in self.device.declares.handlers}

    def may_repeat(self, number: int) -> bool:
        """Whether the call may be made again when its answer was lost."""
        return any(each.again or each.waits for each in self.device.declares.handlers if self.number(each) == number)

    @cached_property
    def waits(self) -> frozenset[int]:
        """The numbers of its calls that wait for the world outside: no time is set for their answers."""
        return frozenset(self.number(handler) for handler in self.device.declares.handlers if handler.waits)


def _nothing() -> None:
    """Nobody wants to know."""


class _ModelClock:
    """The clock of a model, whose callbacks may raise what they like; none is made once the device is stopped."""

    def __init__(self, clock: Clock, plugged: Plugged, turns: Turns | None = None) -> None:
        self._clock, self._plugged, self._turns = clock, plugged, turns
        self.time = clock.time

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer:
        """Call *callback* in *delay* seconds; of those that are due at once, there is one in each turn of the loop."""
        if delay <= 0 and self._turns is not None:
            return self._turns.put(partial(self._call, callback))
        return self._clock.call_later(delay, partial(self._call, callback))

    def _call(self, callback: Callable[[], object]) -> None:
        if not self._plugged.stopped:
            with contextlib.suppress(Internal):  # it is logged
                self._plugged.invoke(callback, what="a callback of its clock")
