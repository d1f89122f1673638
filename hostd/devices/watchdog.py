"""A watchdog: a guest that does not say in time that it is alive is reset, and no other.

After Linux (Documentation/watchdog/watchdog-api.rst, watchdog_dev.c).  A countdown belongs to the guest that opened the
device, and goes on when that guest has closed it without the magic character, or has died.
"""

from collections.abc import Callable
from typing import Final

from hcall.errors import BadArgument, Busy, NotAllowed
from hostd.device import Config, Data, Device, Ender, Irq, Property, Saved, State, call

# linux/watchdog.h
CARDRESET: Final = 0x0020
SETTIMEOUT: Final = 0x0080
MAGICCLOSE: Final = 0x0100
PRETIMEOUT: Final = 0x0200
KEEPALIVEPING: Final = 0x8000

_MAGIC: Final = b"V"
_MOST: Final = 4096  # bytes of one write, which is searched for the magic character
_LEFT: Final = 256  # countdowns that go on without the device: for one more, somebody has to come back for his


class Watchdog(Device):
    """Opening it starts the countdown; a write, or `keepalive`, starts it anew."""

    compatible, ids = "hostd,watchdog", (0x1AF4, 0x10F4)
    class_code = 0x088000  # a system peripheral
    timeout = Config(int, 60, help="seconds from a ping to the reset, until the guest sets it")
    min_timeout = Config(int, 1, help="seconds; the least that a guest can set")
    max_timeout = Config(int, 3600, help="seconds; the most that a guest can set")
    nowayout = Config(bool, False, help="whether nothing stops it once it was started")
    identity = Property(str)
    options = Property(int)  # what it can do: flags of linux/watchdog.h
    pretimeout = Irq()
    _fired = State(bool, kept=True)  # since a guest opened it last
    _boot_status = State(int, kept=True)

    def check_keys(self) -> None:
        if not 0 < self.min_timeout <= self.timeout <= self.max_timeout:
            raise ValueError(f"timeout = {self.timeout} is not within {self.min_timeout} to {self.max_timeout} seconds")

    def start(self) -> None:
        self.identity = "hostd watchdog"
        self.options = CARDRESET | SETTIMEOUT | MAGICCLOSE | PRETIMEOUT | KEEPALIVEPING
        self._running: _Countdown | None = None  # of the guest that has the device open
        self._left: dict[Ender, _Countdown] = {}  # by `expel`: closed, and still running

    def ready(self) -> None:
        expel = self.ender()  # the same for every handle of one guest, so it stands for it
        running = self._left.pop(expel, None)
        if running is None:
            self._make_room()
            running = _Countdown(self, expel)
            self._boot_status = CARDRESET if self._fired else 0
            self._fired = False
        self._running = running
        running.ping()

    def reset(self) -> None:
        """Only the magic character, just before, stops the countdown."""
        running, self._running = self._running, None
        if running is None or running.is_over:
            return
        if running.is_magic and not self.nowayout:
            running.stop()
            return
        self._left[running.expel] = running

    def _make_room(self) -> None:
        """For one more that goes on: those of guests that are gone have nobody to reset.  Raises Busy."""
        if len(self._left) < _LEFT:
            return
        for countdown in [countdown for countdown in self._left.values() if countdown.expel.is_idle]:
            countdown.stop()
            del self._left[countdown.expel]
        if len(self._left) == _LEFT:
            raise Busy(f"{_LEFT} guests have closed the watchdog and left it running: no more can")

    def save(self) -> Saved:
        left = [countdown.save() for countdown in self._left.values()]
        return {**super().save(), "running": self._running and self._running.save(), "left": left}

    def load(self, saved: Saved) -> None:
        super().load(saved)
        if saved["running"] is not None:
            self._running = _Countdown.load(self, saved["running"])
        for countdown in (_Countdown.load(self, each) for each in saved["left"]):
            self._left[countdown.expel] = countdown

    def stop(self) -> None:
        for countdown in [*self._left.values(), *filter(None, [self._running])]:
            countdown.stop()
        self._left.clear()

    def expired(self, countdown: "_Countdown") -> None:
        """A guest is being reset."""
        self._fired = True
        self._left.pop(countdown.expel, None)

    def warn(self, countdown: "_Countdown") -> None:
        """A guest is going to be reset."""
        if countdown is self._running:
            self.pretimeout()

    @property
    def _counting(self) -> "_Countdown":
        if self._running is None or self._running.is_over:
            raise NotAllowed("the watchdog has fired: this session ends")
        return self._running

    def write(self, data: Data, at: int) -> int:
        """Any byte is a ping; a V among them lets the next close stop the countdown.  Errors: BadArgument."""
        if data.nbytes > _MOST:
            raise BadArgument(f"a write to a watchdog has {_MOST} bytes at most")
        if data.nbytes:
            self._counting.is_magic = _MAGIC in data.get()
            self._counting.ping()
        return data.nbytes

    @call
    def keepalive(self) -> None:
        """A ping."""
        self._counting.ping()

    @call
    def set_timeout(self, seconds: int) -> int:
        """Set the seconds from a ping to the reset, and ping: what was set, within the device's bounds."""
        counting = self._counting
        counting.timeout = max(self.min_timeout, min(seconds, self.max_timeout))
        if counting.pretimeout >= counting.timeout:
            counting.pretimeout = 0  # as Linux does
        counting.ping()
        return counting.timeout

    @call(again=True)
    def get_timeout(self) -> int:
        """Seconds from a ping to the reset."""
        return self._counting.timeout

    @call
    def set_pretimeout(self, seconds: int) -> int:
        """Interrupt so many seconds before the reset, 0 for never: what was set.  Errors: BadArgument."""
        counting = self._counting
        if not 0 <= seconds < counting.timeout:
            raise BadArgument(f"{seconds} is not within 0 and the timeout of {counting.timeout} seconds")
        counting.pretimeout = seconds
        counting.arm()
        return seconds

    @call(again=True)
    def get_pretimeout(self) -> int:
        """Seconds from the interrupt to the reset; 0 = no interrupt."""
        return self._counting.pretimeout

    @call(again=True)
    def time_left(self) -> float:
        """Seconds to the reset."""
        return round(self._counting.left, 3)

    @call(again=True)
    def boot_status(self) -> int:
        """0x20 if the watchdog has fired since a guest opened it last, else 0."""
        return self._boot_status


class _Countdown:
    """What runs for one guest, whose session *expel* ends."""

    def __init__(self, device: Watchdog, expel: Ender) -> None:
        self.expel, self.timeout, self.pretimeout = expel, device.timeout, 0
        self.is_magic = self.is_over = False
        self._device = device
        self._cancels: list[Callable[[], None]] = []  # of the timers
        self.ping()

    def save(self) -> Saved:
        """What `load` needs; no deadline means anything to another clock."""
        return {
            "guests": list(self.expel.guests), "timeout": self.timeout, "pretimeout": self.pretimeout,
            "magic": self.is_magic, "over": self.is_over, "left": self.left,
        }  # fmt: skip

    @classmethod
    def load(cls, device: Watchdog, saved: Saved) -> "_Countdown":
        """Count on."""
        countdown = cls(device, device.ender(saved["guests"]))
        countdown.timeout, countdown.pretimeout = saved["timeout"], saved["pretimeout"]
        countdown.is_magic = saved["magic"]
        countdown._deadline = device.guest_clock.time() + saved["left"]
        countdown.arm()
        if saved["over"]:
            countdown.stop()
        return countdown

    @property
    def left(self) -> float:
        """Seconds."""
        return max(0.0, self._deadline - self._device.guest_clock.time())

    def ping(self) -> None:
        """Begin anew."""
        self._deadline = self._device.guest_clock.time() + self.timeout
        self.arm()

    def arm(self) -> None:
        """Set the timers to what is left."""
        self._cancel()
        later = self._device.guest_clock.call_later
        self._cancels.append(later(self.left, self.expire).cancel)
        if self.pretimeout:
            warning = later(max(0.0, self.left - self.pretimeout), lambda: self._device.warn(self))
            self._cancels.append(warning.cancel)

    def stop(self) -> None:
        """It no longer counts."""
        self.is_over = True
        self._cancel()

    def expire(self) -> None:
        """The guest was silent for too long."""
        self.stop()
        self._device.expired(self)
        self.expel(f"the watchdog fired: no ping for {self.timeout} s")

    def _cancel(self) -> None:
        while self._cancels:
            self._cancels.pop()()
