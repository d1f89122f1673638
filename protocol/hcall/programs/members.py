"""What the methods of a class set on the object: found in their code, without a run of it."""

from __future__ import annotations

import dis
import inspect
import types
from collections.abc import Collection, Iterable, Iterator
from typing import Final

_STORE: Final = dis.opmap["STORE_ATTR"]
_EXTENDED: Final = dis.opmap["EXTENDED_ARG"]


def attributes(members: Iterable[object], names: Collection[str] | None = None) -> set[str]:
    """Those of *names*, or of all, that these *members* of a class set, as `self.name = ...` does.

    In functions within them, too.
    """
    found: set[str] = set()
    for member in members:
        for function in _functions(member):
            code = inspect.unwrap(function).__code__
            if code.co_varnames:
                found.update(_stored(code, code.co_varnames[0], names))
    return found


def _functions(member: object) -> Iterator[types.FunctionType]:
    parts = (member.fget, member.fset, member.fdel) if isinstance(member, property) else (member,)
    yield from (part for part in parts if isinstance(part, types.FunctionType))


def _stored(code: types.CodeType, self: str, names: Collection[str] | None) -> Iterator[str]:
    wanted = _all_stored(code).intersection(names) if names is not None else _all_stored(code)
    if wanted:  # most often nothing: to look at each step takes 50 times as long
        loads = augmented = False  # the step before has put *self* on the stack; and the two before did so for a `+=`
        opened: set[str] = set()  # attributes that a `+=` has begun with
        for step in dis.get_instructions(code):
            if step.opcode == _EXTENDED:
                continue
            if step.opcode == _STORE and step.argval in wanted and (loads or step.argval in opened):
                yield step.argval
            if step.opname == "LOAD_ATTR" and augmented:
                opened.add(step.argval)
            augmented = loads and step.opname == "COPY"
            last = step.argval[-1] if isinstance(step.argval, tuple) and step.argval else step.argval
            loads = step.opname.startswith("LOAD_") and step.opname != "LOAD_CONST" and last == self
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from _stored(inner, self, names)


def _all_stored(code: types.CodeType) -> set[str]:
    """The attributes that it sets on whatever it is, and perhaps others."""
    steps, names = code.co_code, code.co_names
    if len(names) > 256:  # the index takes more than the one byte of a step
        return set(names)
    at = steps.find(_STORE)
    found = set()
    while at >= 0:
        if at % 2 == 0 and steps[at + 1] < len(names):
            found.add(names[steps[at + 1]])
        at = steps.find(_STORE, at + 1)
    return found
