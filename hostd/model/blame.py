"""What a model did that no model may, and what a guest is told of it: a sentence, while the log gets the traceback."""

from __future__ import annotations


class Misbehaved(Exception):
    """A model did what no model may; `str()` is for the guest."""


class Overrun(BaseException):
    """A model takes too long.  Not an Exception: a model that catches those is to be stopped, too."""


def blame(error: BaseException) -> str:
    """What a guest is told of a model that raised *error* and did not mean to."""
    return str(error) if isinstance(error, Misbehaved | Overrun) else f"the device model raised {type(error).__name__}"
