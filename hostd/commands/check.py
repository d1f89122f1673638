"""`hostd check`: what is wrong with a machine file or a model, or what it has, for people or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from hcall.programs.command import print_json, print_table, say
from hcall.programs.plugins import PluginError
from hcall.text import counted, shown

from ..device import Device
from ..guests.policy import Who
from ..machine import models
from ..machine.description import describe
from ..machine.file import DeviceSpec, Machine
from ..machine.roles import Role
from ..machine.rules import name_of


def check_machine(file: Path, as_json: bool) -> None:
    """Raises MachineError with all mistakes."""
    with redirect_stdout(sys.stderr):  # what a model prints is no data of ours
        found = Machine.load(file)
    if as_json:
        print_json({
            "name": found.name, "spin": found.spin,
            "devices": [
                {
                    "path": f"/{spec.path}", "model": spec.model, "isolate": spec.isolate,
                    "config": dict(_config(spec)),
                }
                for spec in found.devices
            ],
            "policy": [_who(rule.who) | {key: list(getattr(rule, key)) for key in ("name", "guests", "open", "see")}
                       for rule in found.policy.rules],
            "control": {role.word: _who(found.roles[role - 1]) for role in Role},
            "remarks": list(found.remarks),
        })  # fmt: skip
        return
    print_table(("PATH", "MODEL", "COMPATIBLE"), ((f"/{spec.path}", _model(spec), shown(spec.device.compatible))
                                                  for spec in found.devices))  # fmt: skip
    _section("POLICY FOR GUESTS OPEN SEE", (
        (rule.name, _people(rule.who), ", ".join(rule.guests or "*"), ", ".join(rule.open) or "-",
         ", ".join(rule.see) or "-") for rule in found.policy.rules
    ))  # fmt: skip
    roles = {role.word: who for role, who in zip(Role, found.roles, strict=True) if who != Who()}
    _section("CONTROL FOR", ((role, _people(who)) for role, who in roles.items()))
    for line in found.remarks:
        say("hostd", line)
    say("hostd", f"{file} is good: machine {found.name!r}, {counted(len(found.devices), 'device')}")


def _model(spec: DeviceSpec) -> str:
    return f"{spec.model} (isolated)" if spec.isolate else spec.model


def _who(who: Who | None) -> dict[str, Any]:
    return {"users": sorted(who.users), "groups": sorted(who.groups)} if who else {"users": None, "groups": None}


def _people(who: Who | None) -> str:
    if who is None:
        return "hostd's own user"
    names = [f"user {name_of(uid, 'users')}" for uid in sorted(who.users)]
    return ", ".join(names + [f"group {name_of(gid, 'groups')}" for gid in sorted(who.groups)])


def _config(spec: DeviceSpec) -> Iterator[tuple[str, object]]:
    """The keys of a device as JSON has them: an object that the model makes of one as the file has it."""
    for name, value in spec.config.items():
        items = value if isinstance(value, list) else [value]
        if all(isinstance(item, Path) for item in items):
            yield name, [*map(str, items)] if value is items else str(value)
        else:
            plain = all(isinstance(item, int | float | str) for item in items)
            yield name, value if plain else spec.table.get(name, spec.device.declares.keys[name].default)


def check_model(name: str, as_json: bool) -> None:
    """Raises PluginError with all mistakes."""
    with redirect_stdout(sys.stderr):
        model = models.load(name, Path())
        _check_defaults(name, model)
        about = describe(model)
    if as_json:
        print_json(about)
        return
    ids = "{:04x}:{:04x}".format(*about["ids"]) if any(about["ids"]) else ""
    owners = "many guests at once" if about["shared"] else "one guest at a time"
    print("  ".join(filter(None, (about["model"], shown(about["compatible"]), ids, owners))))
    if about["about"]:
        print(about["about"])
    _section("VERBS", map(_handler, about["verbs"]))
    _section("CALLS", map(_handler, about["calls"]))
    _section("ACTIONS", map(_handler, about["actions"]))
    _section("INTERRUPTS", ((name, f"vector {vector}") for name, vector in about["interrupts"].items()))
    _section("PROPERTIES", about["properties"].items())
    _section("FEATURES", ((name, f"bit {bit}") for name, bit in about["features"].items()))
    _section("STATE", _states(about["states"]))
    _section("KEYS", _keys(about["keys"]))
    say("hostd", f"{name} is good")


def _check_defaults(name: str, model: type[Device]) -> None:
    """What the model says of its keys if a machine file gives none.  Raises PluginError."""
    if not any(key.required for key in model.declares.keys.values()):
        try:
            DeviceSpec("device", name, model, {}).check()
        except ValueError as error:
            raise PluginError([f"{name}: with all its defaults: {error}"]) from None


def _section(heading: str, rows: Iterable[tuple[str, ...]]) -> None:
    """*heading* is a word for each column, or for the first ones."""
    if found := list(rows):
        words = heading.split()
        print()
        print_table((*words, *[""] * (len(found[0]) - len(words))), found)


def _handler(handler: dict[str, Any]) -> tuple[str, str]:
    notes = [f"needs {handler['needs']}"] * bool(handler["needs"])
    notes += [flag for flag in ("early", "again") if handler[flag]]
    return handler["signature"], "; ".join(filter(None, (*notes, handler["about"])))


def _states(states: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for name, state in states.items():
        if not name.startswith("_"):  # the author's own business
            kept = "no reset sets it back" if state["kept"] else ""
            yield name, state["type"], "kept for the first guest" if state["early"] else kept


def _keys(keys: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for name, key in keys.items():
        default = "required" if key["required"] else f"default {json.dumps(key['default'])}"
        bounds = "{} to {}".format(*key["bounds"]) if "bounds" in key else ""
        yield name, key["type"], "; ".join(filter(None, (default, bounds, key["help"])))
