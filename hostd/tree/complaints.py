"""What somebody else decides how often it happens, in the log: who, once, and then a count.

A guest can have a call fail as often as it likes, reset the device, and begin again.  So a failure is told when it is
new; the same one is counted, and the count is told when the device is reset, closed or gone, at most every 10 s.  What
users do from outside, such as to be refused, is told in the same way, by user: no one's lines are at another's cost.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias

from hcall.clock import Clock, Timer
from hcall.text import harmless, named, reason, sentence

from ..model.blame import Misbehaved, Overrun, number_of

log = logging.getLogger(__name__)

_QUIET: Final = 10.0  # seconds between two lines of counts, of the same source
_KNOWN: Final = 64  # failures that are told apart; a model has few, but may make them up
_GUESTS: Final = 8  # that are named for one failure
_LINES: Final = 24  # of one user in that time, and as many counts
_USERS: Final = 64  # that are kept though there is nothing to be told of them
_TEXT: Final = 300  # characters: what a guest wrote may be in it


#: What makes two complaints the same: the text; or what failed with which class of error, and where or which errno.
_Sort: TypeAlias = tuple[str, type[BaseException] | None, object]


@dataclass(slots=True)
class _Known:
    what: str
    text: str
    level: int = logging.WARNING
    guests: list[str] = field(default_factory=list)
    more: int = 0  # not told yet


@dataclass(slots=True)
class Complaints:
    """Of one source: a device, at *path*, or a user.

    At most *most* sorts are told apart.  They are settled by `settle`, or if *by_time* when 10 s have passed.
    """

    path: str
    clock: Clock
    most: int = _KNOWN
    by_time: bool = False
    _timer: Timer | None = None
    _known: dict[_Sort, _Known] = field(default_factory=dict)
    _others: int = 0  # of more sorts than are told apart
    _told: float | None = None

    def say(self, text: str, level: int = logging.WARNING) -> None:
        """Something that is to be told once, and then counted."""
        if not log.isEnabledFor(level):
            return
        text = harmless(" ".join(text.split())[:_TEXT], "")
        if self._is_new((text, None, None), _Known("", text, level)):
            log.log(level, "%s: %s", self.path, text)

    def note(self, what: str, error: BaseException, guest: str = "", *, is_expected: bool = False) -> None:
        """*what*, such as `pick()`, failed with *error* in a call of *guest*; "" is none.

        The first of its sort is told at once: with its traceback, unless it is an error that *is_expected*.
        """
        number = number_of(error)
        sort = what, type(error), _place(error) if number is None else number
        text = said(error, is_expected)
        if self._is_new(sort, _Known(f"{what} failed", text, guests=[guest])):
            level = logging.WARNING if is_expected else logging.ERROR
            shown = None if is_expected or isinstance(error, Misbehaved) else error  # which was raised by ours
            log.log(level, "%s: %s failed%s: %s", self.path, what, _for(guest), text, exc_info=shown)
            return
        known = self._known.get(sort)
        if known is not None and guest not in known.guests and len(known.guests) < _GUESTS:
            known.guests.append(guest)
            known.more -= 1
            log.warning("%s: %s failed%s, too: %s", self.path, what, _for(guest), known.text)

    def settle(self, *, last: bool = False) -> None:
        """The device was reset, or given back: tell the counts; what fails from now on is new.

        If that was done just now, it goes on counting, unless it is the *last* time.
        """
        now = self.clock.time()
        if last and self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._known or (self._told is not None and now - self._told < _QUIET and not last):
            return
        for known in self._known.values():
            if known.more:
                times = "once more" if known.more == 1 else f"{known.more:,} times more"
                log.log(known.level, "%s: %s: %s", self.path, f"{known.what} {times}".lstrip(), known.text)
        if self._others:
            log.warning("%s: %d more of other sorts", self.path, self._others)
        self._known.clear()
        self._others, self._told = 0, now

    @property
    def is_waiting(self) -> bool:
        """Whether something is going to be told."""
        return self._timer is not None

    def _is_new(self, sort: _Sort, known: _Known) -> bool:
        """Whether there was none of this *sort* yet, and it is *known* from now on; else it is counted."""
        if self.by_time and self._timer is None:
            self._timer = self.clock.call_later(_QUIET, partial(self.settle, last=True))
        if sort in self._known:
            self._known[sort].more += 1
        elif len(self._known) == self.most:
            self._others += 1
        else:
            self._known[sort] = known
            return True
        return False


class Users:
    """What users do that is for the log, by uid."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._of: dict[int, Complaints] = {}

    def say(self, uid: int, text: str, level: int = logging.WARNING) -> None:
        """*text* is to be told of that user once, and then counted."""
        complaints = self._of.get(uid)
        if complaints is None:
            if len(self._of) >= _USERS:
                self._of = {uid: each for uid, each in self._of.items() if each.is_waiting}
            complaints = self._of[uid] = Complaints(f"user {uid}", self._clock, _LINES, by_time=True)
        complaints.say(text, level)

    def close(self) -> None:
        """Tell what was counted."""
        for complaints in self._of.values():
            complaints.settle(last=True)


def said(error: BaseException, is_expected: bool = False) -> str:
    """*error* in one line for the log."""
    if is_expected:
        text = (isinstance(error, OSError) and reason(error)) or sentence(error) or type(error).__name__
    else:
        text = sentence(error) if isinstance(error, Misbehaved | Overrun) else named(error)
    return harmless(" ".join(text[:_TEXT].split()), "")


def _for(guest: str) -> str:
    return f" for guest {guest!r}" if guest else ""


def _place(error: BaseException) -> object:
    """The line of code that raised it; of what is no Exception, such as an overrun, any line is the same."""
    if not isinstance(error, Exception):
        return None
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace and (trace.tb_frame.f_code, trace.tb_lineno)
