"""A model that takes too long is stopped, so that the other guests go on.

A signal looks, every second, at what the main thread is doing.  A method of a model that was under way the last time
is ended by `Overrun`, which dispatch answers as it answers whatever a model raises.  The calls themselves pay nothing
for it.  Only code of Python can be stopped, and what the kernel waits for (`time.sleep`); a C function that computes
cannot, nor a model that catches everything (a bare `except:`), and for such there is the service's watchdog.
"""

from __future__ import annotations

import contextlib
import inspect
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Final

from .answers import Overrun
from .device import Device

SECONDS: Final = 1.0  # at least; twice that at most
_SEEN: Final = "seen"
_GOES_ON: Final = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR  # one frame, many steps


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """Stop models that take too long; in the main thread of a process whose SIGALRM nobody else uses."""
    before = signal.signal(signal.SIGALRM, _look)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _look(number: int, frame: FrameType | None) -> None:
    if sys.gettrace() is not None:  # a debugger takes its time, and calls what is in f_trace
        return
    under_way = None
    while frame is not None:
        code = frame.f_code
        is_method = code.co_varnames[:1] == ("self",) and not code.co_flags & _GOES_ON
        if is_method and isinstance(frame.f_locals.get("self"), Device):
            under_way = frame  # the outermost one: how the model was entered
        frame = frame.f_back
    if under_way is None:
        return
    mark: object = under_way.f_trace
    if mark is not _SEEN:  # a mark on the frame itself: to keep the frame would keep its guest's memory
        under_way.f_trace = _SEEN  # type: ignore[assignment]  # no function: nobody traces here
        return
    under_way.f_trace = None
    raise Overrun(f"the device model took longer than {SECONDS:.0f} s in {under_way.f_code.co_name}()")
