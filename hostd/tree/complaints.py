"""What a model did wrong, in the log: who, once, and then a count.

A guest can have a call fail as often as it likes, reset the device, and begin again.  So a failure is told when it is
new; the same one is counted, and the count is told when the device is reset, closed or gone, at most once a second.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from hcall.clock import Clock
from hcall.text import harmless, named, reason, sentence

from ..model.blame import Misbehaved, Overrun, number_of

log = logging.getLogger(__name__)

_QUIET: Final = 1.0  # seconds between two lines of counts, for the same device
_KNOWN: Final = 64  # failures that are told apart; a model has few, but may make them up
_GUESTS: Final = 8  # that are named for one failure
_TEXT: Final = 300  # characters: what a guest wrote may be in it


#: What makes two complaints the same: the text; or what failed with which class of error, and where or which errno.
_Sort: TypeAlias = tuple[str, type[BaseException] | None, object]


@dataclass(slots=True)
class _Known:
    what: str
    text: str
    guests: list[str] = field(default_factory=list)
    more: int = 0  # not told yet


@dataclass(slots=True)
class Complaints:
    """Of one device, at *path*."""

    path: str
    clock: Clock
    _known: dict[_Sort, _Known] = field(default_factory=dict)
    _others: int = 0  # of more sorts than are told apart
    _told: float | None = None

    def say(self, text: str) -> None:
        """Something that is to be told once, and then counted."""
        text = harmless(" ".join(text.split())[:_TEXT], "")
        if self._is_new((text, None, None), _Known("", text)):
            log.warning("%s: %s", self.path, text)

    def note(self, what: str, error: BaseException, guest: str = "", *, is_expected: bool = False) -> None:
        """*what*, such as `pick()`, failed with *error* in a call of *guest*; "" is none.

        The first of its sort is told at once: with its traceback, unless it is an error that *is_expected*.
        """
        number = number_of(error)
        sort = what, type(error), _place(error) if number is None else number
        text = said(error, is_expected)
        if self._is_new(sort, _Known(f"{what} failed", text, [guest])):
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
        if not self._known or (self._told is not None and now - self._told < _QUIET and not last):
            return
        for known in self._known.values():
            if known.more:
                times = "once more" if known.more == 1 else f"{known.more} times more"
                log.warning("%s: %s: %s", self.path, f"{known.what} {times}".lstrip(), known.text)
        if self._others:
            log.warning("%s: %d failures of other sorts", self.path, self._others)
        self._known.clear()
        self._others, self._told = 0, now

    def _is_new(self, sort: _Sort, known: _Known) -> bool:
        """Whether there was none of this *sort* yet, and it is *known* from now on; else it is counted."""
        if sort in self._known:
            self._known[sort].more += 1
        elif len(self._known) == _KNOWN:
            self._others += 1
        else:
            self._known[sort] = known
            return True
        return False


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
