"""The system manager: buttons and temperature, the orderly end of a guest, lights, and the clock on the board.

The messages are those of hcall.formats.sysmgmt; lights and clock are calls of our own.
"""

import math
import time
from pathlib import Path
from typing import Final, NamedTuple

from hcall.errors import BadArgument, Busy, NotAllowed
from hcall.formats.sysmgmt import (
    LONGEST,
    OTHER_OS,
    SHUTDOWN,
    Attribute,
    Body,
    Command,
    Event,
    Happened,
    Message,
    Operation,
    Pressed,
    Reason,
    Request,
    RequestError,
    Response,
    Service,
    SetAttr,
    SetNextOp,
    encode,
    messages,
)
from hostd.device import Config, Property, Saved, State, action, call
from hostd.stream import Stream

_BUTTONS: Final = {
    "power": (Attribute.POWER, Happened.POWER_PRESSED, Happened.POWER_RELEASED),
    "reset": (Attribute.RESET, Happened.RESET_PRESSED, Happened.RESET_RELEASED),
}
_ZONES: Final = 16  # where it can be hot
_LEDS: Final = ("power", "status", "disk")
_STATES: Final = ("off", "on", "blink")
_MAX_VALUE: Final = (1 << 32) - 1
_SHUT_DOWN, _REBOOTED = "the guest was shut down", "the guest was rebooted"


class WallTime:
    """What the clock on the board shows."""

    def __init__(self, start: float | None) -> None:
        """*start*: seconds since 1970 when the machine starts; None: it is the host's clock."""
        self._start = start

    @classmethod
    def parse(cls, text: str, folder: Path) -> "WallTime":
        """Raises ValueError."""
        try:
            start = None if text == "host" else float(text)
        except ValueError:
            start = math.nan
        if start is not None and not 0 <= start < 1 << 40:
            raise ValueError(f'{text!r} is no time: "host", or seconds since 1970')
        return cls(start)

    def after(self, seconds: float) -> float:
        """What it shows so many *seconds* after the start."""
        return time.time() if self._start is None else self._start + seconds


class _Order(NamedTuple):
    """The guest was commanded to end, and has not answered."""

    tag: int
    follows: str  # the last word to the guest
    wanted: bool  # it was the guest that asked for it


class Sysman(Stream):
    """Nothing is told before the guest has set attributes; what it writes that is no message hangs up on it."""

    compatible, ids = "hostd,sysman", (0x1AF4, 0x10F3)
    class_code = 0x088000  # a system peripheral
    part = 4096  # 256 messages
    time = Config(WallTime, "host", help='of the clock on the board: "host", or seconds since 1970 at the start')
    leds = Property(str)
    _attributes = State(int)
    _next = State(int, None)  # operation
    _commanded = State(_Order, None)
    _lights = State(dict[str, str], dict.fromkeys(_LEDS, _STATES[0]))
    _hot = State(set[int], kept=True)

    def start(self) -> None:
        super().start()
        self._began = self.clock.time()
        self._pressed: dict[str, float] = {}  # since when
        self._end = self.ender()
        self._show_lights()

    def ready(self) -> None:
        super().ready()
        self._end = self.ender()

    def reset(self) -> None:
        self._show_lights()

    def save(self) -> Saved:
        now = self.clock.time()
        pressed = {button: now - since for button, since in self._pressed.items()}
        return {**super().save(), "age": now - self._began, "pressed": pressed, "guests": list(self._end.guests)}

    def load(self, saved: Saved) -> None:
        super().load(saved)
        now = self.clock.time()
        self._began = now - saved["age"]
        self._pressed = {button: now - seconds for button, seconds in saved["pressed"].items()}
        self._end = self.ender(saved["guests"])
        self._show_lights()

    def _show_lights(self) -> None:
        self.leds = " ".join(f"{led}={state}" for led, state in self._lights.items())

    # Messages.

    def written(self, data: bytes) -> int:
        if self.space < LONGEST:
            return 0  # no room for an answer
        buffer = bytearray(data)
        try:
            for message in messages(buffer):
                self._take(message)
                if self.space < LONGEST:
                    break
        except ValueError as error:
            self.complain(f"a guest has lost its way: {error}")
            self._attributes, self._commanded = 0, None
            self.hang_up()
        return len(data) - len(buffer)

    def drained(self) -> None:
        self.transmit()

    def _take(self, message: Message) -> None:
        reason: Reason | None
        try:
            body = message.body()
        except ValueError:
            reason = Reason.BAD_VALUE if message.service in list(Service) else Reason.NO_SUCH_SERVICE
        else:
            reason = self._obey(body, message.tag)
        if reason is not None:
            self.send(encode(RequestError(message.service, reason), message.tag))

    def _obey(self, body: Body, tag: int) -> Reason | None:
        """Do it, or say why not."""
        match body:
            case SetAttr(attributes) if attributes <= Attribute.ALL:
                self._attributes = attributes
            case SetNextOp(operation, partition) if operation in list(Operation) and partition == OTHER_OS:
                self._next = operation
            case Request(type=1, partition=0):
                if self._next is None or (self._commanded is not None and self._commanded.wanted):
                    return Reason.WRONG_TIME
                self._command(_SHUT_DOWN if self._next == Operation.SHUTDOWN else _REBOOTED, tag, wanted=True)
            case Response(status):
                if self._commanded is None or tag not in (0, self._commanded.tag):  # Linux says 0 to any
                    return Reason.WRONG_TIME
                order, self._commanded = self._commanded, None
                if status == 0:
                    self._end(order.follows)
            case Command() | Event() | RequestError():
                return Reason.NO_SUCH_SERVICE  # they go the other way
            case _:
                return Reason.BAD_VALUE
        return None

    def _command(self, follows: str, tag: int = 0, wanted: bool = False) -> None:
        self._commanded = _Order(tag, follows, wanted)
        self.send(encode(Command(SHUTDOWN), tag))

    def _tell(self, attribute: Attribute, event: Event) -> str:
        """What the host's user is told of an event."""
        if not self._attributes & attribute:
            return "no guest listens"
        self._need_space()
        self.send(encode(event))
        return "the guest was told"

    def _need_space(self) -> None:
        if self.space < LONGEST:
            raise Busy("the guest does not read what it is told")

    # Calls.

    @call
    def set_led(self, led: str, state: str) -> None:
        """Switch a light: power, status or disk; off, on or blink.  Errors: BadArgument."""
        if led not in _LEDS:
            raise BadArgument(f"{led!r} is no light: {', '.join(_LEDS)}")
        if state not in _STATES:
            raise BadArgument(f"{state!r} is no state of a light: {', '.join(_STATES)}")
        self._lights[led] = state
        self._show_lights()

    @call(again=True)
    def get_time(self) -> float:
        """Seconds since 1970-01-01 00:00 UTC, by the clock on the board."""
        return self.time.after(self.clock.time() - self._began)

    # What the host's user does.

    @action
    def press(self, button: str) -> str:
        """Press power or reset, and hold it."""
        attribute, pressed, _ = self._button(button)
        if button in self._pressed:
            raise NotAllowed(f"{button} is pressed already")
        told = self._tell(attribute, Event(pressed, Pressed.HARD))
        self._pressed[button] = self.clock.time()
        return told

    @action
    def release(self, button: str) -> str:
        """Let it go."""
        attribute, _, released = self._button(button)
        if button not in self._pressed:
            raise NotAllowed(f"{button} is not pressed")
        milliseconds = round((self.clock.time() - self._pressed[button]) * 1000)
        told = self._tell(attribute, Event(released, min(milliseconds, _MAX_VALUE)))
        del self._pressed[button]
        return told

    @action
    def overheat(self, zone: int) -> str:
        """It is too hot in a zone."""
        if self._is_hot(zone):
            raise NotAllowed(f"zone {zone} is hot already")
        told = self._tell(Attribute.THERMAL, Event(Happened.THERMAL_ALERT, zone))
        self._hot.add(zone)
        return told

    @action
    def cool(self, zone: int) -> str:
        """It is no longer too hot there."""
        if not self._is_hot(zone):
            raise NotAllowed(f"zone {zone} is not hot")
        told = self._tell(Attribute.THERMAL, Event(Happened.THERMAL_CLEARED, zone))
        self._hot.discard(zone)
        return told

    @action
    def shutdown(self) -> None:
        """Command the guest to end; its session ends when it says that it is ready."""
        self._order(_SHUT_DOWN)

    @action
    def reboot(self) -> None:
        """The same, with another last word: what runs the guest is to start it again."""
        self._order(_REBOOTED)

    def _order(self, follows: str) -> None:
        if not self.in_use or self.hung_up:
            raise NotAllowed("no guest listens")
        if self._commanded is not None:
            raise Busy("the guest was commanded to end, and has not answered")
        self._need_space()
        self._command(follows)

    def _button(self, name: str) -> tuple[Attribute, Happened, Happened]:
        try:
            return _BUTTONS[name]
        except KeyError:
            raise BadArgument(f"{name!r} is no button: {' or '.join(_BUTTONS)}") from None

    def _is_hot(self, zone: int) -> bool:
        if not 0 <= zone < _ZONES:
            raise BadArgument(f"{zone} is no zone: 0 to {_ZONES - 1}")
        return zone in self._hot
