"""The process of a device in the daemon's eyes: launched, watched, ended, and started again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol

from hcall.clock import Clock, LoopClock, Timer
from hcall.errors import IoError
from hcall.saved import Saved

from ..backing import Carried
from ..model.blame import Misbehaved
from ..model.later import Later
from .errors import unpacked
from .memory import Lent
from .program import Program

log = logging.getLogger(__name__)

START_SECONDS: Final = 20.0  # to read the file of the model, and to start it
HANG_SECONDS: Final = 5  # without a step of its loop: what is Python was stopped by then, see calls.overrun
LATER_SECONDS: Final = 60.0  # for an answer
GRACE_SECONDS: Final = 5.0  # for an answer that is overdue; and to stop
_QUIET_SECONDS: Final = 60.0  # after so long a life a death is the first one
_MOST_SECONDS: Final = 60.0  # from a death to the next start


@dataclass(frozen=True)
class Recipe:
    """What the process makes its device of."""

    path: str
    model: str
    table: Mapping[str, Any]
    folder: str


class Above(Protocol):
    """Who hears what the process tells of its device."""

    def shows(self, offered: int, shown: Mapping[str, Any]) -> None:
        """It has these features and properties now."""

    def raised(self, vector: int) -> None:
        """An interrupt."""

    def ended(self, guests: Sequence[int], text: str) -> None:
        """The sessions of these guests are to end."""

    def failed(self) -> None:
        """It is of no use until a reset of it succeeds."""

    def news(self) -> tuple[float, list[int]]:
        """The time of the guests' clock, and those of them that had the device and have ended."""
        raise NotImplementedError


@dataclass(slots=True)
class _Call:
    """An answer that the process owes."""

    later: Later[Any]
    since: float
    filled: Callable[[bytes], int] | None  # takes the bytes of a room in the answer
    waits: bool  # for the world outside, as long as it takes
    expired: bool = False


class Process(Carried):
    """From `start` to `close` there is a process; if it ends before, another one."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.starts = 0
        self.is_over = False  # it is closed, and nothing of it is left
        self.when_over: list[Callable[[], object]] = []  # called then
        self._program: Program | None = None
        self._calls: dict[int, _Call] = {}
        self._last = 0
        self._timers: dict[str, Timer] = {}
        self._saved: tuple[Saved | None, list[int]] = None, []  # to go on with
        self._theirs: list[int] = []  # descriptors that go with what was saved of it
        self._closed = self._ceded = False
        self._started: Later[None] | None = None  # until it says whether its device has started
        self._outcome: BaseException | None = None  # why not
        self._deaths = 0

    def stand(self, above: Above, clock: Clock, seed: bytes) -> None:
        """*above* hears what it tells; *seed* is its chance."""
        self._above, self._clock, self._seed = above, clock, seed

    @property
    def pid(self) -> int | None:
        """Of the process that there is now."""
        return self._program.pid if self._program is not None else None

    # Its beginning.

    def prepare(self) -> Later[None]:
        """Launch it; answered when the device has started, or has not: `start` tells.  Raises OSError."""
        return self._launch()

    def start(self) -> None:
        """Its device has started; unless it was prepared that is waited for.  Raises what the model's start did."""
        if self.starts == 0:
            self._launch()
        if self._program is not None and not self._program.wait(self._is_ready, START_SECONDS, self._hear):
            if not self._program.has_ended:
                self._late_start()
            self._reap()
        if self._outcome is not None:
            raise self._outcome

    def _is_ready(self) -> bool:
        return self._started is None

    def _launch(self) -> Later[None]:
        program = self._program = Program(self.recipe.path, self._readable, self._reap)
        self.starts += 1
        loop = asyncio.get_running_loop()
        self.lent = Lent(self._lend, lambda number: self._tell("drop", number), loop.call_soon_threadsafe)
        started: Later[None] = Later()
        self._started, self._outcome, self._why = started, None, ""
        self._missed, self._pinged, self._counting = 0, False, False
        self._born = self._clock.time()
        self._after("start", START_SECONDS, self._late_start)
        self._after("watch", 1, self._watch)
        (saved, fds), self._saved = self._saved, (None, [])
        recipe, level = self.recipe, logging.getLogger().getEffectiveLevel()
        program.channel.send(
            "make", recipe.path, recipe.model, dict(recipe.table), recipe.folder, self._seed, level,
            list(os.environb.items()), self._above.news()[0], saved, fds=fds,
        )  # fmt: skip
        for fd in fds:
            os.close(fd)
        return started

    def _after(self, what: str, seconds: float, call: Callable[[], object]) -> None:
        """*call* in so many *seconds*, in place of the last one for that."""
        if what in self._timers:
            self._timers[what].cancel()
        self._timers[what] = self._clock.call_later(seconds, call)

    def _cancel(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _late_start(self) -> None:
        if self._started is not None:
            self._kill(f"it has not started within {START_SECONDS:.0f} s")

    def _has_started(self, outcome: BaseException | None) -> None:
        started, self._started, self._outcome = self._started, None, outcome
        if started is not None:
            started.done(None)

    # Messages.

    def _tell(self, *message: Any, fds: Sequence[int] = ()) -> None:
        if self._program is not None:
            self._program.channel.send(*message, fds=fds)

    def tell(self, *message: Any) -> None:
        """Send *message*.  Raises Misbehaved if there is no process now."""
        if self._program is None:
            raise Misbehaved("its process has ended, and is started again in a while")
        self._program.channel.send(*message)

    def ask(
        self, what: str, *message: Any, filled: Callable[[bytes], int] | None = None, waits: bool = False
    ) -> Later[Any]:
        """Send *what* with a number, and *message*; its answer.  Raises IoError if there is no process now."""
        if self._program is None:
            self._refuse("its process has ended, and is started again in a while")
        self._last += 1
        number = self._last
        later: Later[Any] = Later()
        self._program.channel.send(what, number, *message)
        self._calls[number] = _Call(later, self._clock.time(), filled, waits)

        def abandon() -> bool:
            self._tell("abandon", number)
            return False  # it has its hands on the memory of the call until it answers

        later.runs(abandon)
        return later

    def _refuse(self, text: str) -> NoReturn:
        raise IoError(f"{self.recipe.path}: {text}")

    def _lend(self, number: int, fd: int, size: int, offset: int) -> None:
        self._tell("region", number, size, offset, fds=[fd])

    def _readable(self) -> None:
        try:
            self._hear()
        except EOFError:
            if self._program is not None:  # it has ended, or does as if it had, and is ended in a while
                self._program.deaf()

    def _hear(self) -> int:
        """Take what is there; how many messages.  Raises EOFError."""
        count = 0
        for message, fds in self._program.channel.receive() if self._program is not None else ():
            self._heard(message, fds)
            count += 1
        return count

    def _heard(self, message: list[Any], fds: list[int]) -> None:
        match message:
            case ["answer", number, value, data]:
                if (call := self._calls.pop(number, None)) is not None:
                    filled = call.filled is not None and data is not None
                    call.later.settle(call.filled(data) if filled else value)  # type: ignore[misc]  # it is there
            case ["raised", number, error]:
                if (call := self._calls.pop(number, None)) is not None:
                    call.later.settle(unpacked(error))
            case ["irq", vector]:
                self._above.raised(vector)
            case ["shows", offered, shown]:
                self._above.shows(offered, shown)
            case ["pong"]:
                self._missed, self._pinged = 0, False
            case ["started"]:
                self._has_started(None)
            case ["refused", error]:
                self._has_started(unpacked(error))
            case ["failed"]:
                self._above.failed()
            case ["end", guests, text]:
                self._above.ended(guests, text)
            case ["log", level, text] if self._program is not None:
                self._program.output.log(level, text)
            case ["saved", number, saved] if (call := self._calls.pop(number, None)) is not None:
                self._close_theirs()
                self._theirs = fds
                call.later.settle(saved)
                return
        for fd in fds:
            os.close(fd)

    # Whether it lives.

    def _watch(self) -> None:
        """Once a second: does its loop turn, and does it answer what it owes?"""
        self._after("watch", 1, self._watch)
        if self._started is not None:
            return
        if not self._pinged:
            self._pinged = True
            self._tell("ping", *self._above.news())
        elif not self._counting:  # only seconds in which this process has read count: hence in the round after next
            self._counting = True
            loop = asyncio.get_running_loop()
            loop.call_soon(loop.call_soon, self._miss)
        now = self._clock.time()
        for number, call in self._calls.items():
            if call.waits:
                continue
            if now - call.since > LATER_SECONDS + GRACE_SECONDS:
                self._kill(f"it gave no answer within {LATER_SECONDS:.0f} s")
            elif now - call.since > LATER_SECONDS and not call.expired:
                call.expired = True
                self._tell("expire", number, LATER_SECONDS)

    def _miss(self) -> None:
        self._counting = False
        self._missed += self._pinged
        if self._missed >= HANG_SECONDS:
            self._kill(f"it did nothing for {HANG_SECONDS} s")

    def _kill(self, why: str) -> None:
        self._why = self._why or why
        if self._program is not None:
            self._program.kill()

    def _reap(self) -> None:
        """It has ended."""
        program = self._program
        if program is None:
            return
        how = program.reap()
        with contextlib.suppress(EOFError):  # what it said before that
            while self._hear():
                pass
        program.channel.close()
        self._program = None
        self._cancel()
        self._close_theirs()
        text = f"its process has ended: {self._why or how}"
        has_been = self._started is None and self._outcome is None
        if self._started is not None:
            self._has_started(ValueError(text))
        calls, self._calls = self._calls, {}
        if not self._closed and (has_been or self.starts > 1):  # else it is refused
            self._died(text if has_been else f"it did not start again: {self._outcome}")
        for call in calls.values():
            call.later.settle(IoError(f"{self.recipe.path}: {text}"))
        if self._closed:
            self._over()

    def _died(self, why: str) -> None:
        self._deaths = 1 if self._clock.time() - self._born > _QUIET_SECONDS else self._deaths + 1
        wait = 0.0 if self._deaths == 1 else min(2.0 ** (self._deaths - 2), _MOST_SECONDS)
        log.error("%s: %s; it is started again %s", self.recipe.path, why, f"in {wait:.0f} s" if wait else "now")
        self._above.failed()
        self._after("again", wait, self._again)

    def _again(self) -> None:
        try:
            self._launch()
        except OSError as error:
            self._died(f"it cannot be started again: {error}")

    # Its end, and another life.

    def close(self) -> None:
        """Its device stops, and it ends; if not in time, it is ended.  `ended` waits for that."""
        if self._closed:
            return
        self._closed = True
        self._cancel()
        if self._program is None:
            self._over()
            return
        if not self._ceded:
            self._tell("stop")
        if self._missed:
            self._kill("it did nothing")
        # Whatever clock the host has, a process ends in the system's time.
        self._timers["stop"] = LoopClock().call_later(GRACE_SECONDS, lambda: self._kill("it did not stop"))

    def _over(self) -> None:
        self.is_over = True
        for call in self.when_over:
            call()

    async def ended(self) -> None:
        """Until it is over."""
        over = asyncio.Event()
        self.when_over.append(over.set)
        if not self.is_over:
            await over.wait()

    def save(self) -> tuple[Saved, Sequence[int]]:
        """What its device is saved as, None if it has none now, and the descriptors behind it."""
        if self._program is None:
            return {"device": None}, ()
        outcome: list[Any] = []
        self.ask("save").then(outcome.append)
        if not self._program.wait(lambda: bool(outcome), GRACE_SECONDS, self._hear):
            self._refuse("its process does not answer")
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return {"device": outcome[0]}, self._theirs

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        self._saved = saved["device"], list(fds)

    def cede(self) -> None:
        self._tell("cede")
        self._ceded = True

    def _close_theirs(self) -> None:
        for fd in self._theirs:
            os.close(fd)
        self._theirs = []
