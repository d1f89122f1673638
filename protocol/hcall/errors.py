"""Statuses of the wire, and the exception that carries each: one class per status, one sentence of advice."""

from __future__ import annotations

import enum
from typing import ClassVar


class Status(enum.IntEnum):
    """How a call ended.  The numbers are the wire's and never change."""

    OK = 0
    WOULD_BLOCK = 1
    BUSY = 2
    BAD_ARGUMENT = 3
    BAD_AREA = 4
    BAD_HANDLE = 5
    STALE_HANDLE = 6
    NOT_OPEN = 7
    NOT_ALLOWED = 8
    NO_SUCH_CALL = 9
    NO_MATCH = 10
    READ_ONLY = 11
    NO_SPACE = 12
    IO_ERROR = 13
    RESET = 14
    LINK_LOST = 15
    INTERNAL = 16


class HcallError(Exception):
    """A call was answered with a status other than OK.  `str()` is the host's sentence.

    An author's own sort of one of the classes below is one of these to everybody else: `class TooCold(BadArgument)`.
    """

    status: ClassVar[Status] = Status.INTERNAL
    by_status: ClassVar[dict[int, type[HcallError]]] = {}

    def __init_subclass__(cls) -> None:
        status: object = cls.status
        if not isinstance(status, Status) or status is Status.OK:
            raise TypeError(f"{cls.__name__}: the status of an error is one of Status, and not OK: {status!r}")
        known = HcallError.by_status.get(cls.status)
        if known is None and "status" in vars(cls):
            HcallError.by_status[cls.status] = cls
        elif known is not None and not issubclass(cls, known):
            raise TypeError(f"{cls.__name__}: {cls.status!r} already has a class: make it a sort of {known.__name__}")


class WouldBlock(HcallError):
    """Nothing to give or no room now: wait for the device's interrupt, then call again."""

    status = Status.WOULD_BLOCK


class Busy(HcallError):
    """Somebody else has it, or a limit is reached: retry later."""

    status = Status.BUSY


class BadArgument(HcallError):
    """An argument has the wrong type, or is out of range: fix the call."""

    status = Status.BAD_ARGUMENT


class BadArea(HcallError):
    """A data area lies outside guest memory, or goes the wrong way: fix the call."""

    status = Status.BAD_AREA


class BadHandle(HcallError):
    """No such handle was ever given: fix the call."""

    status = Status.BAD_HANDLE


class StaleHandle(HcallError):
    """The handle's node or device is gone: probe again."""

    status = Status.STALE_HANDLE


class NotOpen(HcallError):
    """A node handle where an open handle belongs: open the device first."""

    status = Status.NOT_OPEN


class NotAllowed(HcallError):
    """Not in this state, or not for this guest: do the missing step first."""

    status = Status.NOT_ALLOWED


class NoSuchCall(HcallError):
    """The device does not offer this call: look into its hypercall table."""

    status = Status.NO_SUCH_CALL


class NoMatch(HcallError):
    """Nothing has that name, path, class or driver: look at what there is."""

    status = Status.NO_MATCH


class ReadOnly(HcallError):
    """The device cannot be written."""

    status = Status.READ_ONLY


class NoSpace(HcallError):
    """The backing is full: make room on the host."""

    status = Status.NO_SPACE


class IoError(HcallError):
    """The backing failed: the host's log says why."""

    status = Status.IO_ERROR


class Reset(HcallError):
    """The device was reset, closed or unplugged while it worked on the call: open it again."""

    status = Status.RESET


class LinkLost(HcallError):
    """The session with the host is over: attach again.  Only a guest says this, the wire never carries it."""

    status = Status.LINK_LOST


class Internal(HcallError):
    """The device model failed: report it, the host's log has the traceback."""

    status = Status.INTERNAL


def failure(status: int, text: object) -> HcallError:
    """The exception for a reply's *status*; an unknown one is `Internal`."""
    return HcallError.by_status.get(status, Internal)(text)


class NoHost(OSError):
    """Nobody can be reached at the socket `filename`."""


class ProtocolViolation(Exception):
    """The peer broke a rule of the wire: its session ends, nothing else does.

    *status* tells the kind to the peer: BAD_ARGUMENT unless said otherwise.
    """

    def __init__(self, text: str, status: Status = Status.BAD_ARGUMENT) -> None:
        super().__init__(text)
        self.status = status
