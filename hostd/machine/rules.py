"""The tables [policy.NAME] and [control.ROLE] of the machine file, read and checked; names of users become numbers.

[policy.alice]              # see hostd.guests.policy
users = ["alice", 1001]     # names or numbers; without users and groups: hostd's own user and root
groups = ["kvm"]
guests = ["vm-*"]           # the names that they give themselves; all, if not given
open = ["rng", "disks/*"]   # devices; all, if neither this nor `see` is given
see = ["console"]           # to look at, not to open

[control.operate]           # look, operate or load, see hostd.machine.roles
users = ["bob"]
groups = ["wheel"]
"""

from __future__ import annotations

import grp
import pwd
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Protocol

from hcall.text import suggest

from ..guests.policy import Pattern, Policy, Rule, Who
from .roles import Role, Roles

_WHO: Final[dict[str, type]] = {"users": list, "groups": list}
_WHAT: Final[dict[str, type]] = {"guests": list, "open": list, "see": list}
_PATTERN: Final = re.compile(r"/?[a-zA-Z0-9,._+*?!\[\]-]+(/[a-zA-Z0-9,._+*?!\[\]-]+)*")
_IDS: Final = range((1 << 32) - 1)  # the last is none
#: By key: the number of a name, which raises KeyError, and all names.
_NUMBERS: Final[dict[str, tuple[Callable[[str], int], Callable[[], Iterable[str]]]]] = {
    "users": (lambda name: pwd.getpwnam(name).pw_uid, lambda: (each.pw_name for each in pwd.getpwall())),
    "groups": (lambda name: grp.getgrnam(name).gr_gid, lambda: (each.gr_name for each in grp.getgrall())),
}


class Checker(Protocol):
    """Collects the mistakes of one file."""

    def wrong(self, place: str, text: str) -> bool:
        """Note a mistake.  Returns False."""

    def table(self, place: str, table: object, allowed: Mapping[str, type]) -> dict[str, Any]:
        """The entries of *table* that may be there and have the right type."""


def read_policy(tables: Mapping[str, object], check: Checker) -> Policy:
    """What the tables below [policy] say."""
    return Policy(tuple(_rule(name, table, check) for name, table in tables.items()))


def _rule(name: str, table: object, check: Checker) -> Rule:
    place = f"policy.{name}"
    if not isinstance(table, dict):
        check.wrong(place, "must be a table: [policy.NAME]")
        return Rule(name)
    found = check.table(place, table, _WHO | _WHAT)
    texts = {key: _texts(f"{place}.{key}", found[key], check) for key in _WHAT if key in found}
    for key in ("open", "see"):
        for text in texts.get(key, ()):
            if not _PATTERN.fullmatch(text):
                check.wrong(f"{place}.{key}", f"{text!r} is no path: names of devices with slashes between, * and ?")
    if found.get("guests") == []:
        check.wrong(f"{place}.guests", "is empty: the rule is for no guest")
    if "open" not in found and "see" not in found:
        texts["open"] = ("*",)
    return Rule(name, _who(place, found, check) if found.keys() & _WHO.keys() else None, **texts)


def read_roles(tables: Mapping[str, object], check: Checker) -> Roles:
    """What the tables [control.ROLE] say."""
    found = check.table("control", tables, {role.word: dict for role in Role})
    return Roles(**{role: _who(f"control.{role}", check.table(f"control.{role}", table, _WHO), check)
                    for role, table in found.items()})  # fmt: skip


def _who(place: str, found: Mapping[str, list[object]], check: Checker) -> Who:
    if not any(found.values()):
        check.wrong(place, 'is for nobody: give it users = ["NAME"] or groups = ["NAME"]')
    return Who(**{key: frozenset(_numbers(f"{place}.{key}", key, found.get(key, ()), check)) for key in _WHO})


def _numbers(place: str, key: str, entries: Iterable[object], check: Checker) -> Iterable[int]:
    number_of, names = _NUMBERS[key]
    for entry in entries:
        if isinstance(entry, str):
            try:
                yield number_of(entry)
            except (KeyError, ValueError):  # there is none; none can have a NUL in it
                check.wrong(place, f"there is no {key[:-1]} {entry!r}{suggest(entry, names())}")
        elif type(entry) is int and entry in _IDS:
            yield entry
        else:
            check.wrong(place, f"{entry!r} is neither the name nor the number of a {key[:-1]}")


def name_of(number: int, key: str) -> str:
    """The name of that user or group, as `users` or `groups` say which; the number, if there is none."""
    try:
        return pwd.getpwuid(number).pw_name if key == "users" else grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _texts(place: str, entries: list[object], check: Checker) -> tuple[str, ...]:
    for entry in entries:
        if not isinstance(entry, str):
            check.wrong(place, f"{entry!r} must be a string")
    return tuple(entry for entry in entries if isinstance(entry, str))


def remarks(policy: Policy, paths: Iterable[str]) -> Iterable[str]:
    """What in *policy* may be a slip of the pen, in a machine that has devices at *paths*."""
    paths = list(paths)
    for rule in policy.rules:
        for key in ("open", "see"):
            for text in getattr(rule, key):
                if text != "*" and not any(map(Pattern(text).covers, paths)):
                    near = suggest(text.strip("/"), paths)
                    yield f"policy.{rule.name}.{key}: no device of this file is {text!r}{near}"
