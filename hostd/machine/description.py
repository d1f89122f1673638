"""What a model offers, as data: for `hostd check`, without a daemon."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from hcall.numbers import VERBS

from ..device import Device, Feature
from ..model.handlers import Handler, type_name
from ..model.names import own_names


def describe(model: type[Device]) -> dict[str, Any]:
    """Verbs, calls with their types, interrupts, properties, features and the keys of a machine file."""
    source = sys.modules[model.__module__].__file__
    members = {name: inspect.getattr_static(model, name) for name in dir(model)}
    bits = {member.mask: name for name, member in members.items() if isinstance(member, Feature)}
    verbs = [handler for handler in model.declares.handlers if handler.name in VERBS]
    calls = [handler for handler in model.declares.handlers if handler.name not in VERBS]
    return {
        "model": model.__name__,
        "about": inspect.cleandoc(model.__doc__ or "").partition("\n")[0],
        "file": source and str(Path(source)),
        "compatible": [model.compatible] if isinstance(model.compatible, str) else list(model.compatible),
        "ids": list(model.ids),
        "shared": model.shared,
        "verbs": [_handler(model, handler, bits) for handler in verbs],
        "calls": [_handler(model, handler, bits) for handler in calls],
        "actions": [_handler(model, action, bits) for action in model.declares.actions],
        "interrupts": {name: vector for vector, name in enumerate(model.declares.irqs)},
        "properties": {name.replace("_", "-"): type_name(members[name].kind) for name in model.declares.properties},
        "features": model.declares.features,
        "states": {
            name: {"type": type_name(state.kind), "early": state.early, "kept": state.kept}
            for name, state in model.declares.states.items() if not _is_private(model, name)
        },
        "keys": {
            name: {"type": type_name(key.kind), "required": key.required, "help": key.help}
            | ({} if key.required else {"default": key.default})
            | ({"bounds": [key.bounds[0], key.bounds[-1]]} if key.bounds else {})
            for name, key in model.declares.keys.items()
        },
    }  # fmt: skip


def _is_private(model: type[Device], name: str) -> bool:
    """Whether a base of *model* has *name* for itself."""
    return any(name in own_names(base) for base in model.__mro__[1:])


def _handler(model: type[Device], handler: Handler, bits: dict[int, str]) -> dict[str, Any]:
    return {
        "name": handler.name,
        "signature": handler.signature,
        "needs": bits.get(handler.needs),
        "early": handler.early,
        "again": handler.again,
        "about": (inspect.getdoc(getattr(model, handler.name)) or "").partition("\n")[0],
    }
