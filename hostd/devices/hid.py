"""Keyboards and mice: events as Linux's evdev has them, from the host's front panel, a backing or a recording."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from hcall.errors import BadArgument, Busy, NotAllowed
from hcall.formats import input as evdev
from hcall.formats.input import EV_KEY, EV_LED, EV_MSC, EV_REL, EV_SYN, Event, Packet
from hcall.formats.keycodes import AXES, BUTTONS, KEYS, LEDS, WHEEL_NOTCH, typed
from hostd.backings.named import AnyBacking
from hostd.backings.parts.event_queue import EventQueue
from hostd.backings.recording import Recording
from hostd.device import Config, Device, Irq, Property, Room, Saved, State, action, call

_TYPED: Final = typed()


class Kind(NamedTuple):
    """What a device can send, and the LEDs that it has: codes by type."""

    name: str
    sends: dict[int, frozenset[int]]
    leds: frozenset[int]

    @classmethod
    def parse(cls, text: str, folder: Path) -> Kind:
        """`keyboard`, `mouse`, or both with a comma between them.  Raises ValueError."""
        names = [name.strip() for name in text.split(",")]
        if not set(names) <= {"keyboard", "mouse"}:
            raise ValueError(f'{text!r} is no kind of input device: "keyboard", "mouse" or "keyboard, mouse"')
        sends: dict[int, frozenset[int]] = {}
        if "keyboard" in names:
            sends = {EV_KEY: frozenset(KEYS.values()), EV_MSC: frozenset({evdev.MSC_SCAN})}
        if "mouse" in names:
            sends[EV_KEY] = sends.get(EV_KEY, frozenset()) | frozenset(BUTTONS.values())
            sends[EV_REL] = frozenset(AXES.values())
            sends[EV_MSC] = frozenset({evdev.MSC_SCAN})
        leds = frozenset(LEDS.values()) if "keyboard" in names else frozenset()
        return cls(" and ".join(sorted(set(names))), sends, leds)


class Hid(Device):
    """A keyboard, a mouse, or both in one: evdev events to the guest, LEDs back."""

    compatible, ids = "hostd,hid", (0x1AF4, 0x1052)  # the device id of virtio-input
    class_code = 0x098000  # an input device
    kind = Config(Kind, "keyboard, mouse", help='"keyboard", "mouse" or "keyboard, mouse"')
    events = Config(AnyBacking, "file:/dev/null", help="evdev records come from here, and those of LEDs go there")
    replay = Config(Path, "/dev/null", help="a file of evdev records, which each guest gets from its beginning")
    timed = Config(bool, True, help="the replay takes as long as the recording; false: as fast as the guest reads")
    endpoint = Property(str)
    rx_ready = Irq()
    _queue = State(EventQueue)
    _played = State(int)  # packets of the recording
    _lit = State(set[int], kept=True)  # a reset switches them off
    _changed = State(set[int], kept=True)  # LEDs that the backing has not been told of
    _unsent, _gone = State(bytes, kept=True), State(bool, kept=True)
    _arriving, _quiet = State(evdev.Packets, kept=True), State(bool, kept=True)
    _held = State(set[int], kept=True)  # keys that the backing's peer holds down

    def start(self) -> None:
        self._recording = Recording(self.replay, self._came, self._unreadable)
        self._next: Packet | None = None  # of the recording
        self._last: int | None = None  # when what is before it was, if it is due after that
        self._cancel: Callable[[], object] | None = None  # the timer until that is due
        self.events.start(self)
        self.endpoint = self.events.endpoint

    def stop(self) -> None:
        self._forget()
        self._recording.close()
        self.events.stop()

    def ready(self) -> None:
        self._recording.rewind()
        self._played, self._due, self._last = 0, self.clock.time(), None
        self._advance()
        self._play()

    def reset(self) -> None:
        """All keys up, all LEDs off; the backing is told.  One that is gone gets another chance."""
        self._forget()
        if self._gone:
            self._gone = False
            self.events.reset()
            self.endpoint = self.events.endpoint
        self._changed |= self._lit
        self._lit.clear()
        self.transmit()

    def tick(self) -> None:
        """What a sender began and left for a second it will not finish: the next one begins with a whole record."""
        self.events.tick()
        if self._quiet:
            self._arriving = evdev.Packets()
        self._quiet = True

    def save(self) -> Saved:
        over = self._next is None and self._recording.is_over
        return {**super().save(), "due": None if over else self._due - self.clock.time(), "last": self._last}

    def load(self, saved: Saved) -> None:
        super().load(saved)
        if saved["due"] is not None:
            self._recording.rewind(self._played)
            self._due, self._last = self.clock.time() + saved["due"], saved["last"]
            self._advance()
            if self.timed and self._next is not None:
                self._cancel = self.clock.call_later(max(0.0, saved["due"]), self._play).cancel
        self.transmit()

    def _forget(self) -> None:
        """The recording."""
        self._next = None
        self._recording.stop()
        if self._cancel is not None:
            self._cancel()
            self._cancel = None

    # Where events come from.

    def _put(self, packet: Packet, merge: bool = True) -> tuple[Event, ...]:
        """What this device can send of *packet*, if a guest is there; what that is."""
        sends = self.kind.sends
        events = tuple(event for event in packet.events if event.code in sends.get(event.type, ()))
        events = (evdev.DROPPED,) if packet.dropped else events
        if self.in_use and self._queue.put(Packet(packet.at, events), merge):
            self.rx_ready()
        return events

    def _now(self) -> int:
        return round(self.clock.time() * 1_000_000)

    def _play(self) -> None:
        """Whatever of the recording is due, or fits if it is not timed."""
        self._cancel = None
        now = self.clock.time()
        while self._next is not None:
            if self.timed and self._due > now:
                self._cancel = self.clock.call_later(self._due - now, self._play).cancel
                return
            if not self.timed and self._queue.room <= len(self._next.events):
                return  # `read` goes on
            packet, self._last = self._next, self._next.at
            self._played += 1
            self._advance()
            self._put(packet, merge=self.timed)

    def _advance(self) -> None:
        """To the next packet, if it is there yet."""
        self._next = self._recording.next()
        if self._next is not None and self._last is not None:
            self._due += max(self._next.at - self._last, 0) / 1_000_000
            self._last = None

    def _came(self) -> None:
        """There is more of the recording."""
        if self._next is None:
            self._advance()
            self._play()

    def _unreadable(self, error: Exception) -> None:
        """It ends here."""
        self.complain(f"{self.replay}: {error}")

    # The backing's end, see hostd.backing.Port: input that nobody reads is old, and never holds up who sends it.

    @property
    def space(self) -> int:
        """It takes all there is, a few records in each turn: others wait meanwhile."""
        return 32 * evdev.RECORD.size

    ahead = space
    awaited: Room | None = None  # none of its reads waits

    def filled(self, count: int) -> None:
        """There is no room."""

    def send(self, data: bytes) -> int:
        """Records from the backing; the time of an event is when it comes, as in the kernel."""
        self._quiet = False
        for packet in self._arriving.feed(data):
            for event in self._put(packet._replace(at=self._now())):
                evdev.press(self._held, event)
        return len(data)

    def transmit(self) -> None:
        """Tell the backing of LEDs; while it does not listen, only how each is in the end."""
        try:
            while not self._gone and (self._unsent or self._changed):
                if not self._unsent:
                    lights = (Event(EV_LED, code, code in self._lit) for code in sorted(self._changed))
                    self._unsent = Packet(self._now(), tuple(lights)).encode()
                    self._changed.clear()
                taken = self.events.write(self._unsent)
                self._unsent = self._unsent[taken:]
                if not taken:
                    break
        except OSError as error:
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """So does what stands behind it, which was told before."""
        self.complain(f"{self.endpoint}: {error}")
        self.hang_up()

    def parted(self) -> None:
        """What the peer held down is let go, as when a keyboard is pulled out; what it had begun is forgotten."""
        self._arriving = evdev.Packets()
        self._put(Packet(self._now(), tuple(Event(EV_KEY, code, evdev.UP) for code in sorted(self._held))))
        self._held.clear()

    def hang_up(self) -> None:
        """The backing is gone."""
        self._gone = True
        self._unsent = b""
        self.parted()

    # What the guest sees.

    def read(self, into: Room, at: int) -> int:
        """Whole packets of 24-byte records, as many as fit.  Errors: WouldBlock, BadArgument if none fits."""
        if not into.nbytes:
            return 0
        count = into.put(self._queue.take(into.nbytes))
        if not self.timed:
            self._play()
        return count

    @call(again=True)
    def devname(self) -> str:
        """What it is called, as EVIOCGNAME."""
        return f"hostd {self.kind.name}"

    @call(again=True)
    def devids(self) -> tuple[int, int, int, int]:
        """Bus, vendor, product and version, as EVIOCGID."""
        return evdev.BUS_VIRTUAL, *type(self).ids, 1

    @call(again=True)
    def bits(self, event_type: int) -> bytes:
        """A bitmap of the codes of a type, as EVIOCGBIT; of 0, of the types; empty if it has none."""
        if not 0 <= event_type < evdev.EV_CNT:
            raise BadArgument(f"a type of events is 0 to {evdev.EV_CNT - 1}, not {event_type}")
        codes = {**self.kind.sends, EV_LED: self.kind.leds}
        if event_type == EV_SYN:
            return evdev.bitmap(each for each, there in {EV_SYN: True, **codes}.items() if there)
        return evdev.bitmap(codes.get(event_type, ()))

    @call(again=True)
    def keys(self) -> bytes:
        """A bitmap of the keys that are down, as EVIOCGKEY, after what was read last."""
        return evdev.bitmap(self._queue.known)

    @call(again=True)
    def leds(self) -> bytes:
        """A bitmap of the LEDs that are on, as EVIOCGLED."""
        return evdev.bitmap(self._lit)

    @call
    def set_led(self, code: int, on: bool) -> None:
        """Switch an LED, as a written EV_LED.  Errors: BadArgument if it has no such LED."""
        if code not in self.kind.leds:
            raise BadArgument(f"this {self.kind.name} has no LED {code}")
        if on != (code in self._lit):
            (self._lit.add if on else self._lit.discard)(code)
            self._changed.add(code)
            self.transmit()

    # What the host's user does.

    @action
    def press(self, key: str) -> None:
        """Hold down a key, such as KEY_A, or a button, such as BTN_LEFT."""
        self._enter([_edge(key, evdev.DOWN)])

    @action
    def release(self, key: str) -> None:
        """Let go of a key or a button."""
        self._enter([_edge(key, evdev.UP)])

    @action
    def tap(self, key: str) -> None:
        """Press and release a key."""
        self._enter([_edge(key, evdev.DOWN), _edge(key, evdev.UP)])

    @action
    def click(self, button: str) -> None:
        """Press and release a button."""
        self.tap(button)

    @action
    def type(self, text: str) -> None:
        """Type a text, as on a keyboard of US layout."""
        edges = []
        for character in text:
            if character not in _TYPED:
                raise BadArgument(f"no key of a US keyboard types {character!r}")
            key, shifted = _TYPED[character]
            shift = [KEYS["KEY_LEFTSHIFT"]] * shifted
            edges += [(code, evdev.DOWN) for code in (*shift, key)] + [(code, evdev.UP) for code in (key, *shift)]
        self._enter([(Event(EV_KEY, code, value),) for code, value in edges])

    @action
    def move(self, dx: int, dy: int) -> None:
        """Move the mouse, to the right and down."""
        self._enter([(Event(EV_REL, AXES["REL_X"], dx), Event(EV_REL, AXES["REL_Y"], dy))])

    @action
    def scroll(self, notches: int) -> None:
        """Turn the wheel, up."""
        fine = Event(EV_REL, AXES["REL_WHEEL_HI_RES"], notches * WHEEL_NOTCH)
        self._enter([(Event(EV_REL, AXES["REL_WHEEL"], notches), fine)])

    def _enter(self, packets: Sequence[tuple[Event, ...]]) -> None:
        """All of it, or an error."""
        for event in (event for packet in packets for event in packet):
            if event.code not in self.kind.sends.get(event.type, ()):
                raise BadArgument(f"a {self.kind.name} cannot do this")
            if not -evdev.INT32 <= event.value < evdev.INT32:
                raise BadArgument(f"{event.value} is more than an event has room for")
        if not self.in_use:
            raise NotAllowed("no guest uses it")
        if sum(len(packet) + 1 for packet in packets) > self._queue.room:
            raise Busy("the guest has not read what came before: later, or less at once")
        for packet in packets:
            self._put(Packet(self._now(), packet))


def _edge(key: str, value: int) -> tuple[Event]:
    code = KEYS.get(key, BUTTONS.get(key))
    if code is None:
        near = "".join(f", but {name}" for name in difflib.get_close_matches(key.upper(), [*KEYS, *BUTTONS], 1))
        raise BadArgument(f"there is no key {key}{near}; names are those of linux/input-event-codes.h")
    return (Event(EV_KEY, code, value),)
