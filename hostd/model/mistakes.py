"""What can be wrong with the class of a model, found when the class is made."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Final

from hcall.numbers import CLASS_SHIFT, MAX_VECTORS

from . import names
from .declared import PROPERTY_KINDS, Declared, Feature, Irq, Property
from .declares import Declares
from .keys import COMMON, Config
from .state import State

_MAX_CALLS: Final = 60  # the reply to OPEN carries them in one map
_MAX_NAME: Final = 63  # so that all names of a device fit the reply to OPEN
_MAX_COMPATIBLE: Final = 16
_FEATURE_BITS: Final = (*range(24), *range(50, 64))  # those between are the transports': virtio 1.2, 6
_STANDARD_PROPERTIES: Final = ("name", "vendor_id", "device_id", "hcall_class")  # and compatible, see Tree


def _is_compatible(text: object) -> bool:
    return isinstance(text, str) and 0 < len(text) < 256 and text.isascii() and text.isprintable()


def _is_hook(member: object, count: int = 1) -> bool:
    is_plain = inspect.isfunction(member) and not inspect.iscoroutinefunction(member)
    return is_plain and member.__code__.co_argcount == count  # type: ignore[attr-defined]  # a function has one


def mistakes(cls: Any, own: Mapping[str, object], base: type) -> Iterator[tuple[str, str]]:
    """What is wrong with the declarations of *cls*, a class of models below *base*, whose *own* members were these.

    Yields (member, sentence).
    """
    for name, owner in names.taken(cls, own):
        yield name, f"{cls.__name__}.{name}: {owner} has this name for itself: take another"
    for name, member in own.items():
        marked = hasattr(member, "__hcall__") or hasattr(member, "__action__")
        declared = marked or isinstance(member, Declared | Feature | Irq)
        if declared and name in names.LEFT:
            yield name, f"{cls.__name__}.{name}: {base.__name__} has another use for the name"
        if isinstance(member, Config) and name in COMMON:
            yield name, f"{cls.__name__}.{name}: the machine file has another use for this key"
        if isinstance(member, Property) and name in _STANDARD_PROPERTIES:
            yield name, f"{cls.__name__}.{name}: every node has a property of that name"
        if isinstance(member, Property) and member.kind not in PROPERTY_KINDS:
            yield name, f"{cls.__name__}.{name}: a property is int, str, bytes, bool, float or tuple"
        if name in names.HOOKS and not _is_hook(member):
            yield name, f"{cls.__name__}.{name}: a plain def with no argument but self"
        if name == "load" and not _is_hook(member, 2):
            yield name, f"{cls.__name__}.{name}: a plain def with self and what was saved"
        if isinstance(member, Config | State) and (wrong := member.mistake()):
            yield name, f"{cls.__name__}.{name}: {wrong}"
    has: Declares = cls.declares
    if len(has.irqs) > MAX_VECTORS or len(has.handlers) > _MAX_CALLS:
        yield "", f"{cls.__name__}: at most {MAX_VECTORS} vectors and {_MAX_CALLS} calls"
    numbers = [handler.number for handler in has.handlers]
    for handler in has.handlers:
        if numbers.count(handler.number) > 1 or handler.number >= 1 << CLASS_SHIFT:
            yield handler.name, f"{cls.__name__}.{handler.name}: {handler.number} is no number of a call, or another's"
    for name, bit in has.features.items():
        if bit not in _FEATURE_BITS or list(has.features.values()).count(bit) > 1:
            yield name, f"{cls.__name__}.{name}: a feature has a bit of its own, 0 to 23 or 50 to 63, not {bit}"
    for name in (*(handler.name for handler in has.handlers), *has.irqs, *has.features, *has.properties):
        if len(name) > _MAX_NAME or not name.isascii():
            yield name, f"{cls.__name__}.{name[:_MAX_NAME]}: a name has {_MAX_NAME} letters of ASCII at most"
    for name, wrong in unfit(cls):
        yield name, f"{cls.__name__}: {wrong}"


def unfit(model: Any) -> Iterator[tuple[str, str]]:
    """What is wrong with how *model*, a class or a device that has started, says what it is and has.

    Yields (attribute, sentence).
    """
    compatible = getattr(model, "compatible", ())
    strings = (compatible,) if isinstance(compatible, str) else compatible
    if not isinstance(strings, tuple) or len(strings) > _MAX_COMPATIBLE or not all(map(_is_compatible, strings)):
        yield "compatible", 'compatible is "vendor,name", or a tuple of such, most specific first'
    ids: object = model.ids
    if not isinstance(ids, tuple) or len(ids) != 2 or not all(type(n) is int and 0 <= n < 1 << 16 for n in ids):
        yield "ids", "ids are two numbers of 16 bits, vendor and device"
    code: object = model.class_code
    if type(code) is not int or not 0 <= code < 1 << 24:
        yield "class_code", "class_code is PCI's code for its sort, 24 bits: 0x020000 is an Ethernet controller"
    if isinstance(model, type):
        return
    offered, bits = model.offered, sum(1 << bit for bit in model.declares.features.values())
    if not isinstance(offered, int) or offered & ~bits:
        yield "offered", "offered are bits of its features"
