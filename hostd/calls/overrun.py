"""A model that takes too long is stopped, so that the other guests go on.

A signal looks, every second, at what the main thread is doing.  A method of a model, or other code of its file, that
was under way the last time is ended by `Overrun`, which dispatch answers as it answers whatever a model raises.  The
calls themselves pay nothing for it.  Only code of Python can be stopped, and what the kernel waits for (`time.sleep`);
a C function that computes cannot, nor a model that catches everything (a bare `except:`), and for such there is the
service's watchdog.
"""

from __future__ import annotations

import contextlib
import inspect
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Final

from ..device import Device
from ..model.blame import Overrun

SECONDS: Final = 1.0  # at least; twice that at most
_READ_SECONDS: Final = 10  # for the file of a model, when it is plugged: it may import much
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
        is_its_file = frame.f_globals.get("__name__") == code.co_filename and not code.co_flags & _GOES_ON
        if is_its_file or (is_method and isinstance(frame.f_locals.get("self"), Device)):
            under_way = frame  # the outermost one: how the model was entered
        frame = frame.f_back
    if under_way is None:
        return
    name = under_way.f_code.co_name
    may = _READ_SECONDS if name == "<module>" else SECONDS
    seen: object = under_way.f_trace  # how often: on the frame itself, for to keep it would keep its guest's memory
    seen = seen if isinstance(seen, int) else 0
    if seen * SECONDS < may:
        under_way.f_trace = seen + 1  # type: ignore[assignment]  # no function: nobody traces here
        return
    under_way.f_trace = None
    raise Overrun(f"the device model took longer than {may:.0f} s in {name if may != SECONDS else f'{name}()'}")
