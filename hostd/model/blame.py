"""What a model did that no model may, and what a guest is told of it: a sentence, while the log gets the traceback."""

from __future__ import annotations

from hcall.text import cut


class Misbehaved(Exception):
    """A model did what no model may; `str()` is for the guest."""


class Overrun(BaseException):
    """A model takes too long.  Not an Exception: a model that catches those is to be stopped, too."""


def blame(error: BaseException) -> str:
    """What a guest is told of a model that raised *error* and did not mean to."""
    said = str(error) if isinstance(error, Misbehaved | Overrun) else f"the device model raised {type(error).__name__}"
    return cut(said)


def number_of(error: BaseException) -> int | None:
    """Its errno, if it is an OSError and has one: of a class of the model's own it may be anything."""
    try:
        number: object = error.errno if isinstance(error, OSError) else None
    except BaseException:
        return None
    return number if type(number) is int else None
