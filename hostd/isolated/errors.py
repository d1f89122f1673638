"""What a model raised, on its way from its process to the daemon, where it ends as if it had been raised there."""

from __future__ import annotations

import functools
import traceback
from typing import Any, Final

from hcall.errors import HcallError, LinkLost, failure

from ..model.blame import Misbehaved, Overrun, number_of

_LONGEST: Final = 16 * 1024  # characters of a traceback


class _There(Exception):
    """The traceback of what was raised in the other process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def packed(error: BaseException) -> list[Any]:
    """*error* as plain data."""
    try:
        if isinstance(error, HcallError) and not isinstance(error, LinkLost):
            return ["status", int(error.status), str(error)]
        if isinstance(error, Misbehaved | Overrun):
            return ["misbehaved" if isinstance(error, Misbehaved) else "overrun", str(error)]
        if isinstance(error, OSError):
            name = error.filename if isinstance(error.filename, str) else None
            return ["os", number_of(error), str(error.strerror or error), name]
        told = str(error)
    except BaseException as mistake:  # of a class of the model's own
        error, told = mistake, ""
    trace = "".join(traceback.format_exception(error))[-_LONGEST:]
    return ["raised", type(error).__name__, isinstance(error, ValueError), told, trace]


def unpacked(saved: list[Any]) -> BaseException:
    """What was `packed`, to be raised."""
    match saved:
        case ["status", status, text]:
            return failure(status, text)
        case ["misbehaved", text]:
            return Misbehaved(text)
        case ["overrun", text]:
            return Overrun(text)
        case ["os", None, text, _]:
            return OSError(text)
        case ["os", number, text, name]:
            return OSError(number, text, name) if name else OSError(number, text)
    _, name, is_value, text, trace = saved
    error = _sort(name, ValueError if is_value else Exception)(*filter(None, [text]))
    error.__cause__ = _There(trace)
    return error


@functools.lru_cache(maxsize=64)
def _sort(name: str, base: type[Exception]) -> type[Exception]:
    """The class of what is called *name* there: one of its own here, which nobody catches by accident."""
    return type(name, (base,), {})
