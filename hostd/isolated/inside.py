"""The process of a device: the real model, plugged in, and what it hears from the daemon and tells it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from hcall.clock import Clock
from hcall.errors import HcallError
from hcall.saved import Saved

from ..device import Device
from ..model.areas import InlineRoom
from ..model.blame import Misbehaved
from ..model.later import Later
from ..tree.plugged import Plugged
from .channel import Channel
from .errors import packed
from .memory import Borrowed

log = logging.getLogger(__name__)
T = TypeVar("T")


class Inside(Plugged):
    """A device in its place, whose guests are elsewhere."""

    def __init__(
        self, device: Device, path: str, clock: Clock, random: Callable[[int], bytes], channel: Channel,
        guest_clock: Clock,
    ) -> None:  # fmt: skip
        self._channel, self._starting, self._shown_soon = channel, True, False
        self._shown: dict[str, Any] = {}
        self.ended: set[int] = set()  # guests
        super().__init__(
            device, path, clock, random, None, lambda guest, text: channel.send("end", [guest], text),
            lambda guest: guest not in self.ended, guest_clock,
        )  # fmt: skip
        device.common = Nothing()

    # Up.

    def fire(self, vector: int) -> None:
        """As one that has set the device up: raise *vector*."""
        self.tell_shown()
        self._channel.send("irq", vector)

    def shown(self) -> None:
        if not self._shown_soon:
            self._shown_soon = True
            asyncio.get_running_loop().call_soon(self.tell_shown)

    def tell_shown(self) -> None:
        """What has changed of features and properties."""
        self._shown_soon = False
        found = {name: getattr(self.device, name, None) for name in self.device.declares.properties}
        shown = {"": self.device.offered} | {name: value for name, value in found.items() if value is not None}
        if shown != self._shown:
            self._shown = shown
            self._channel.send("shows", shown[""], {name: value for name, value in shown.items() if name})

    def fail(self) -> None:
        super().fail()
        self._channel.send("failed")

    def invoke(self, hook: Callable[..., T], *args: Any, may: tuple[type[Exception], ...] = (), what: str = "") -> T:
        """What is raised at the start is the daemon's to tell."""
        if self._starting:
            return hook(*args)
        return super().invoke(hook, *args, may=may, what=what)

    # Down.

    def begin(self, saved: Saved | None, fds: Sequence[int]) -> None:
        """Start, or go on where it was *saved*.  Raises what the model does."""
        if saved is not None:
            self.load(saved, fds)
        else:
            self.start()
        self._starting = False
        self.tell_shown()

    def used_by(self, in_use: bool, guests: Iterable[int]) -> None:
        """Who has it open, and whether interrupts reach somebody."""
        self.holds = dict.fromkeys(map(_Guest, guests))
        self.live = {self: None} if in_use else {}


class _Guest:
    """A hold; its calls end elsewhere."""

    def __init__(self, guest: int) -> None:
        self.guest = guest
        self.pending: dict[Any, None] = {}

    def close(self, then: Callable[[], None] | None = None) -> None:
        """It is told elsewhere."""

    def break_down(self) -> None:
        """The same."""


class Nothing(WeakValueDictionary[Hashable, Any]):
    """What the devices of one host share, without the others."""

    def __setitem__(self, key: Hashable, value: Any) -> None:
        raise ValueError("isolate = true: it has something in common with other devices of its host")

    def setdefault(self, key: Hashable, default: Any = None) -> Any:
        """Raises ValueError."""
        self[key] = default


class Calls:
    """What the daemon asks for, one message after the other."""

    def __init__(
        self, plugged: Inside, channel: Channel, ended: Callable[[], None], told: Callable[[float], None]
    ) -> None:
        """*ended* is called when there is nothing more to do, *told* with the time of the guests' clock."""
        self._plugged, self._channel, self._ended, self._told = plugged, channel, ended, told
        self._memory = Borrowed()
        self._pending: dict[int, Later[Any]] = {}
        self._do: Final[dict[str, Callable[..., None]]] = {
            "site": plugged.used_by, "region": self._region, "drop": self._memory.drop, "call": self._call,
            "act": self._act, "abandon": self._abandon, "expire": self._expire, "ready": self._ready,
            "reset": self._reset, "tick": plugged.tick, "ping": self._ping, "save": self._save, "cede": self._cede,
            "stop": self._stop,
        }  # fmt: skip

    def take(self, message: list[Any], fds: list[int]) -> None:
        """Do what *message* says."""
        what, *rest = message
        self._do[what](*rest, *fds)

    def _region(self, number: int, size: int, offset: int, fd: int) -> None:
        self._memory.lend(number, fd, size, offset)

    def _call(self, number: int, call: int, args: list[Any], room: Any, data: Any) -> None:
        areas: list[Any] = []
        try:
            if room is not None:
                areas.append(self._memory.room(room))
            if data is not None:
                areas.append(self._memory.data(data))
            outcome = self._plugged.tables.method(call)(*areas, *args)
        except BaseException as error:
            outcome = error
        self._answer_later(number, outcome, areas)

    def _act(self, number: int, name: str, args: list[Any]) -> None:
        try:
            outcome: object = getattr(self._plugged.device, name)(*args)
        except BaseException as error:
            outcome = error
        self._answer_later(number, outcome, [])

    def _answer_later(self, number: int, outcome: object, areas: list[Any]) -> None:
        if not isinstance(outcome, Later):
            self._answer(number, outcome, areas)
        elif outcome.taken:
            self._answer(number, Misbehaved("the device model returned the Later of another call"), areas)
        else:
            self._pending[number] = outcome
            outcome.then(lambda value: self._answer(number, value, areas))

    def _answer(self, number: int, outcome: object, areas: list[Any]) -> None:
        self._pending.pop(number, None)
        self._plugged.tell_shown()
        room = areas[0] if areas and type(areas[0]) is InlineRoom else None
        try:
            if isinstance(outcome, BaseException):
                raise outcome
            filled = room.filled(outcome) if room is not None else None
            self._channel.send("answer", number, outcome, filled)
        except BaseException as error:  # it raised, or what it returned cannot be told
            self._channel.send("raised", number, packed(error))
        for area in areas:
            if area is not room:
                with contextlib.suppress(BufferError):  # the model kept a piece
                    area.release()

    def _abandon(self, number: int) -> None:
        if number in self._pending:
            self._pending[number].abandon()

    def _expire(self, number: int, seconds: float) -> None:
        if number in self._pending:
            self._pending[number].expire(Misbehaved(f"the device model gave no answer within {seconds:.0f} s"))

    def _ready(self) -> None:
        try:
            self._plugged.ready()
        except Exception as error:
            if isinstance(error, HcallError | OSError):
                self._plugged.complaints.note("ready()", error, is_expected=True)
            self._plugged.fail()

    def _reset(self) -> None:
        self._plugged.reset()
        self._plugged.complaints.settle()
        self._plugged.tell_shown()

    def _ping(self, time: float, ended: list[int]) -> None:
        """It is *time* on the guests' clock, and these of them have *ended*."""
        self._told(time)
        self._plugged.ended.update(ended)
        self._plugged.tell_shown()
        self._channel.send("pong")

    def _save(self, number: int) -> None:
        try:
            saved, fds = self._plugged.save()
            self._channel.send("saved", number, saved, fds=fds)
        except BaseException as error:
            self._channel.send("raised", number, packed(error))

    def _cede(self) -> None:
        self._plugged.cede()
        self._ended()

    def _stop(self) -> None:
        self._plugged.holds.clear()
        self._plugged.retire()
        self._ended()


class Logged(logging.Handler):
    """Gives the log to the daemon."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel, self._loop = channel, asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        """From any thread."""
        text = self.format(record).encode(errors="replace").decode()
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._channel.send, "log", record.levelno, text)


def end(code: int) -> None:
    """At once."""
    os._exit(code)
