"""What the host may answer to calls of the core: it is another program, and nothing it says is taken for granted."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

import msgspec

from protocol import hcall
from protocol.errors import IoError

_What: TypeAlias = Annotated[int, msgspec.Meta(ge=hcall.ADDED, le=hcall.REMOVED)]
_Vector: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=32)]
_Bit: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=64)]  # of the features

_ANSWERS: Final[dict[int, Any]] = {  # as protocol/hcall.py lists them; others can be anything
    hcall.FIRST: int,
    hcall.CHILD: int,
    hcall.NEXT: int,
    hcall.PARENT: int,
    hcall.FIND: int,
    hcall.INFO: tuple[str, tuple[str, ...], tuple[int, int]],
    hcall.NEXTPROP: str,
    hcall.CHANGES: tuple[int, tuple[tuple[_What, int, int], ...] | None],
    hcall.OPEN: tuple[int, dict[str, int], dict[str, _Vector], dict[str, _Bit]],
    hcall.GET_STATUS: int,
    hcall.SET_STATUS: int,
    hcall.GET_FEATURES: int,
    hcall.SET_MASK: int,
    hcall.POLL: tuple[tuple[int, tuple[int, ...]], ...],
}


def checked(number: int, value: Any) -> Any:
    """*value*, if it can be the answer to the call *number*.  Raises IoError."""
    expected = _ANSWERS.get(number)
    if expected is None:
        return value
    try:
        return msgspec.convert(value, expected)
    except msgspec.ValidationError as error:
        raise IoError(f"the host's answer to the call {number} of the core is none: {error}") from None
