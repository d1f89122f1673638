"""All that the class of a model declares, with what its bases do."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

from .declared import Feature, Irq, Property, inherit
from .handlers import Handler, find, find_actions
from .keys import Config
from .state import State, States


@dataclass(frozen=True, slots=True)
class Declares:
    """What there is, by name or in its order."""

    handlers: tuple[Handler, ...] = ()  # verbs and calls
    actions: tuple[Handler, ...] = ()
    irqs: tuple[str, ...] = ()  # in the order of their vectors
    keys: dict[str, Config[Any]] = field(default_factory=dict)
    properties: tuple[str, ...] = ()
    states: States = field(default_factory=States)
    features: dict[str, int] = field(default_factory=dict)  # their bits


def declared_by(cls: type) -> tuple[Declares, list[tuple[str, str]]]:
    """What *cls* declares, and what is wrong with its calls and actions: (member, sentence)."""
    members: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, member in vars(base).items():
            if inspect.isfunction(member) and name in members:
                inherit(member, members[name])
            members[name] = member
    handlers, mistakes = find(members)
    actions, more = find_actions(members)
    return Declares(
        handlers,
        actions,
        tuple(name for name, member in members.items() if isinstance(member, Irq)),
        {name: member for name, member in members.items() if isinstance(member, Config)},
        tuple(name for name, member in members.items() if isinstance(member, Property)),
        States({name: member for name, member in members.items() if isinstance(member, State)}),
        {name: member.bit for name, member in members.items() if isinstance(member, Feature)},
    ), mistakes + more
