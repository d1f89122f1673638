"""What the host may answer to calls of the core: it is another program, and nothing it says is taken for granted."""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias

import msgspec

from hcall import numbers
from hcall.errors import IoError

_What: TypeAlias = Annotated[int, msgspec.Meta(ge=numbers.ADDED, le=numbers.REMOVED)]
_Vector: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=32)]
_Bit: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=64)]  # of the features

_Numbers: TypeAlias = tuple[int, ...]
_Texts: TypeAlias = tuple[str, ...]
_Sort: TypeAlias = tuple[_Texts, tuple[int, int]]

_ANSWERS: Final[dict[int, Any]] = {  # as protocol/hcall.py lists them; others can be anything
    numbers.FIRST: int,
    numbers.CHILD: int,
    numbers.NEXT: int,
    numbers.PARENT: int,
    numbers.FIND: int,
    numbers.INFO: tuple[str, tuple[str, ...], tuple[int, int]],
    numbers.NEXTPROP: str,
    numbers.CHANGES: tuple[int, tuple[tuple[_What, int, int], ...] | None],
    numbers.OPEN: tuple[int, dict[str, int], dict[str, _Vector], dict[str, _Bit]],
    numbers.STSCH: tuple[int, bytes],
    numbers.SSCH: int,
    numbers.TSCH: tuple[int, bytes],
    numbers.CLAIM: tuple[int, int, dict[str, int], dict[str, _Vector], dict[str, _Bit]],
    numbers.GET_STATUS: int,
    numbers.SET_STATUS: int,
    numbers.GET_FEATURES: int,
    numbers.SET_MASK: int,
    numbers.LIST: tuple[int, tuple[tuple[_Numbers, _Numbers, _Texts, tuple[_Sort, ...], _Numbers], ...]],
    numbers.CONFIG_READ: int,
    numbers.POLL: tuple[tuple[int, tuple[int, ...]], ...],
}
#: The same, each in a class, which msgspec looks into once; into a tuple it does for every answer: 8 us for OPEN's.
_HELD: Final = {
    number: msgspec.defstruct("Held", [("answer", kind)], array_like=True)
    for number, kind in _ANSWERS.items()
    if not isinstance(kind, type)
}


def checked(number: int, value: Any) -> Any:
    """*value*, if it can be the answer to the call *number*.  Raises IoError."""
    expected = _ANSWERS.get(number)
    if expected is None or expected is type(value):
        return value
    try:
        held: Any = _HELD.get(number)
        return msgspec.convert(value, expected) if held is None else msgspec.convert((value,), held).answer
    except msgspec.ValidationError as error:
        raise IoError(f"the host's answer to the call {number} of the core is none: {error}") from None
