"""The keys of a model in the machine file: of which type, and within which bounds."""

from __future__ import annotations

import inspect
import math
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from hcall.text import named, sentence

from .declared import Declared

T = TypeVar("T")

_REQUIRED: Final = object()
_SCALARS: Final = (bool, int, float, str)
TOML_NAMES: Final = {
    bool: "true or false", int: "a whole number", str: "a string", float: "a number with a point", list: "an array",
    dict: "a table",
}  # fmt: skip

#: What the table of any device may have.
COMMON: Final[dict[str, type]] = {"model": str, "isolate": bool}


def _name_of(value: object) -> str:
    return TOML_NAMES.get(type(value), "that")


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError("must be a number that is not as large as that") from None


class Config(Declared[T]):
    """A key of the device's table in the machine file.

    *kind* is bool, int, float, str, Path (relative to the machine file), or a class with `parse(text, folder)`; a list
    of one of these, such as list[int]; or list, of whatever bools, numbers and strings.  Without a *default*, which is
    written as in the file, the key must be there.  A number, or each in a list, may have *bounds*: range(1, 11) for
    whole ones, (0.5, 10) for the lowest and the highest.
    """

    def __init__(
        self,
        kind: type[T],
        default: object = _REQUIRED,
        help: str = "",  # noqa: A002  # as argparse
        bounds: range | tuple[float, float] | None = None,
    ) -> None:
        self.kind, self.default, self.help, self.bounds = kind, default, help, bounds

    @property
    def required(self) -> bool:
        """Whether a machine file must have the key."""
        return self.default is _REQUIRED

    @property
    def item(self) -> Any:
        """The kind of what is in its list, None for any; its own kind if it is no list."""
        if self.kind is list:
            return None
        return typing.get_args(self.kind)[0] if typing.get_origin(self.kind) is list else self.kind

    @property
    def is_list(self) -> bool:
        """Whether its value is a list."""
        return (typing.get_origin(self.kind) or self.kind) is list

    def mistake(self) -> str | None:
        """What is wrong with it as it was declared."""
        item = self.item
        if item not in (None, *_SCALARS, Path) or len(typing.get_args(self.kind)) > 1:
            if not hasattr(item, "parse"):
                return "a key is bool, int, float, str, Path, a class with parse(text, folder), or a list of such"
            if inspect.isfunction(inspect.getattr_static(item, "parse")):
                return f"{item.__name__}.parse is a @classmethod, or a @staticmethod"
        if self.bounds is not None and not self._can_have(self.bounds):
            return "only numbers have bounds: range(1, 11) for whole ones, or the lowest and the highest: (0.5, 10.0)"
        try:
            if not self.required:
                self.convert(self.default, Path())
        except Exception as error:  # of the author's own parse
            return f"its default {sentence(error) if isinstance(error, ValueError) else named(error)}"
        return None

    def _can_have(self, bounds: object) -> bool:
        if isinstance(bounds, range):
            return self.item is int and len(bounds) > 0
        pair = isinstance(bounds, tuple) and len(bounds) == 2 and all(type(each) in (int, float) for each in bounds)
        return pair and self.item in (int, float) and bounds[0] <= bounds[1]  # type: ignore[index]  # it is a pair

    def convert(self, value: object, folder: Path) -> T:
        """*value*, as the machine file has it, as the device gets it.  Raises ValueError with a sentence."""
        if not self.is_list:
            return typing.cast(T, self._convert(self.kind, value, folder))
        if type(value) is not list:
            raise ValueError(f"must be {TOML_NAMES[list]}, not {_name_of(value)}")
        items = []
        for n, each in enumerate(value, 1):
            try:
                items.append(self._convert(self.item, each, folder))
            except ValueError as error:
                raise ValueError(f"item {n} of it {sentence(error) or 'cannot be read'}") from None
        return typing.cast(T, items)

    def _convert(self, kind: Any, value: object, folder: Path) -> object:
        """*value* as one of *kind*, None: any that is no table and no list."""
        if kind is None:
            if type(value) not in _SCALARS:
                raise ValueError(f"must be true, false, a number or a string, not {_name_of(value)}")
            return value
        wanted = kind if kind in _SCALARS else str
        if wanted is float and type(value) is int:
            value = _as_float(value)
        if type(value) is not wanted:
            raise ValueError(f"must be {'a number' if wanted is float else TOML_NAMES[wanted]}, not {_name_of(value)}")
        if type(value) is float and not math.isfinite(value):
            raise ValueError(f"must be a number, not {value}")
        if (outside := self._outside(value)) is not None:
            raise ValueError(f"must be {outside}, not {value}")
        if kind is Path:
            return folder / typing.cast(str, value)
        return value if kind is wanted else kind.parse(value, folder)

    def _outside(self, value: Any) -> str | None:
        """What *value* should have been, if it is out of bounds."""
        if self.bounds is None:
            return None
        low, high = self.bounds[0], self.bounds[-1]
        inside = value in self.bounds if isinstance(self.bounds, range) else low <= value <= high
        return None if inside else f"{low} to {high}"

    if TYPE_CHECKING:  # with a real one every read would come here, and not to the instance at once

        def __set__(self, device: object, value: T) -> None: ...
