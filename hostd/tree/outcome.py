"""How every call ends: what its handler returned or raised, as (status, value).  The one failure path."""

from __future__ import annotations

import contextlib
import errno
import types
import typing
from typing import Any, Final, Protocol

import msgspec

from hcall.errors import HcallError, IoError, LinkLost, NoSpace, NotAllowed, ReadOnly, Status
from hcall.text import cut, reason

from ..model.areas import InlineRoom
from ..model.blame import Misbehaved, blame, number_of
from ..model.handlers import type_name

OK: Final = int(Status.OK)
_OS_ERRORS: Final[dict[int | None, type[HcallError]]] = {
    errno.ENOSPC: NoSpace, errno.EDQUOT: NoSpace, errno.EFBIG: NoSpace, errno.EROFS: ReadOnly,
    errno.EACCES: NotAllowed, errno.EPERM: NotAllowed,
}  # fmt: skip
_BYTES: Final = (bytes, bytearray, memoryview)  # not what base64 in a string stands for


class Caller(Protocol):
    """Who made a call: a hold, or an account for a call of the core."""

    def complain(self, number: int, error: BaseException, *, is_expected: bool = False) -> None:
        """The call *number* failed: that is for the log.  An error that *is_expected* is no mistake of a model."""


def finished(value: object, room: Any, data: Any, expected: Any) -> tuple[int, object]:
    """The answer of a handler that returned *value*, declared as *expected*; its areas are released.

    With a *room*, value is the count of bytes put there; what was put into an inline room is the answer's value.
    Raises Misbehaved for another type, TypeError for a count that cannot be.
    """
    if data is not None:
        data.release()
    if room is None:
        if type(value) is not expected and expected is not Any and not _is(value, expected):
            raise Misbehaved(f"the device model returned {type_name(type(value))}, not {type_name(expected)}")
        return OK, value
    if type(room) is InlineRoom:
        return OK, room.filled(value)
    if type(value) is not int or not 0 <= value <= room.nbytes:
        raise TypeError(f"a handler with a Room returns a count up to {room.nbytes}, not {value!r}")
    room.release()
    return OK, value


def _is(value: object, expected: Any) -> bool:
    """Whether *value* is of the type *expected*, and all in it, too."""
    if typing.get_origin(expected) in (types.UnionType, typing.Union):
        return any(type(value) is part or _is(value, part) for part in typing.get_args(expected))
    if isinstance(expected, type) and isinstance(value, expected):
        return not (expected is int and type(value) is bool)
    try:
        msgspec.convert(value, expected, builtin_types=_BYTES)
    except msgspec.ValidationError:
        return False
    except TypeError:  # a type that cannot be looked into
        return True
    return True


def failed(error: BaseException, room: Any, data: Any, caller: Caller, number: int) -> tuple[int, str]:
    """The answer to *number*, a call of *caller*, whose handler raised *error*; its areas are released.

    The guest gets a status and one sentence, the log gets the traceback of what a model did not mean to raise.
    """
    for area in (room, data):
        if area is not None and type(area) is not InlineRoom:
            with contextlib.suppress(BufferError):  # the model kept a piece: that is its failure, and no other's
                area.release()
    if isinstance(error, HcallError) and not isinstance(error, LinkLost):  # which is a guest's own word
        try:
            return type(error).status, cut(str(error))
        except BaseException as mistake:  # of a class of the model's own
            error = mistake
    elif isinstance(error, OSError):
        caller.complain(number, error, is_expected=True)
        return _OS_ERRORS.get(number_of(error), IoError).status, cut(reason(error) or "the backing failed")
    caller.complain(number, error)
    return Status.INTERNAL, blame(error)
