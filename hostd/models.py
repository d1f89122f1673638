"""Where a machine file's `model = "NAME"` leads: to the model in `hostd/devices/NAME.py`."""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from . import devices
from .device import Device


def names() -> list[str]:
    """The models that there are."""
    return sorted(module.name for module in pkgutil.iter_modules(devices.__path__))


def load(name: str) -> type[Device]:
    """The model *name*.  Raises LookupError that lists what there is."""
    if name not in names():
        raise LookupError(f"no model {name!r}{suggest(name, names())}; there are: {', '.join(names())}")
    try:
        module = importlib.import_module(f"{devices.__name__}.{name}")
    except Exception as error:  # whatever the model's author did
        raise LookupError(f"model {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    found = [
        member
        for member in vars(module).values()
        if isinstance(member, type) and issubclass(member, Device) and member.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__name__} must define one device model"
    return found[0]


def suggest(word: str, words: list[str]) -> str:
    """` (did you mean ...?)` if one of *words* is near."""
    near = difflib.get_close_matches(word, words, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
