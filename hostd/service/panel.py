"""What the host's user may do with a device, as one does at its front panel: `hostd act DEVICE ACTION ARG ...`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hcall.errors import HcallError, Internal
from hcall.programs.mistakes import BadRequest
from hcall.text import named, suggest

from ..model.blame import Misbehaved
from ..model.handlers import Handler
from ..model.later import Later, settled
from ..tree.node import Node

_TRUTH: Final = {"true": True, "false": False}
_FROM_TEXT: Final[dict[type, Callable[[str], Any]]] = {
    int: lambda text: int(text, 0), bool: _TRUTH.__getitem__, str: str, float: float,
}  # fmt: skip


async def act(node: Node, name: str, args: list[Any]) -> object:
    """Do it; what it returns, or answers later.  A word for an argument that is no string is read as such.

    Raises BadRequest, an error of a call, OSError, or Misbehaved.
    """
    actions = {action.name: action for action in actions_of(node)}
    action = actions.get(name)
    if action is None:
        there = f"; it has {', '.join(actions)}" if actions else ", nor any other"
        raise BadRequest(f"{node.path} has no action {name!r}{suggest(name, actions)}{there}")
    if not 0 <= len(action.kinds) - len(args) <= len(action.defaults):
        raise BadRequest(f"usage: {action.signature}")
    values = [_value(action, kind, arg) for kind, arg in zip(action.kinds, args, strict=False)]
    plugged = node.plugged
    assert plugged is not None
    try:
        outcome = plugged.act(action, *values)
        if isinstance(outcome, Later):
            outcome = plugged.invoke(_checked, await settled(outcome), may=(HcallError, OSError), what=f"{name}()")
        return outcome
    except Internal as error:  # the host's user may know what it was
        cause = error.__cause__ or error
        raise Misbehaved(f"{node.path}: the model failed: {named(cause)}") from error


def _checked(outcome: object) -> object:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def actions_of(node: Node) -> tuple[Handler, ...]:
    """The actions of the device of *node*."""
    return node.device.declares.actions if node.device is not None else ()


def _value(action: Handler, kind: type, arg: object) -> object:
    try:
        value = _FROM_TEXT[kind](arg) if isinstance(arg, str) else arg
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise TypeError
    except (ValueError, KeyError, TypeError, OverflowError):
        raise BadRequest(f"{arg!r} is no {kind.__name__}; usage: {action.signature}") from None
    return value
