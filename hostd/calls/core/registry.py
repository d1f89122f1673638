"""The calls of class 0, by number: who makes one says so above its function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

#: The function, called with the guest's account and the body's handle; the types of its arguments; a late answer's.
CORE: Final[dict[int, tuple[Callable[..., Any], tuple[type, ...], Any]]] = {}
F = TypeVar("F", bound=Callable[..., Any])
_KINDS: Final = {"int": int, "str": str, "bytes": bytes}
_LATE: Final = {
    "int | Later[int]": int,
    "Later[int]": int,
    "Later[None]": type(None),
}  # how long others are, nobody knows


def call(number: int) -> Callable[[F], F]:
    """The function below, which takes an account, a handle and the arguments of the hypercall *number*, makes it."""

    def register(function: F) -> F:
        _, _, *kinds = (kind for name, kind in function.__annotations__.items() if name != "return")
        late = _LATE.get(function.__annotations__["return"], Any)
        CORE[number] = function, tuple(_KINDS[kind] for kind in kinds), late
        return function

    return register
