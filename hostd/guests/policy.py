"""Who may attach, and what of the tree each guest sees and opens: the tables [policy.NAME] of the machine file.

A rule is for users and groups, as the kernel tells them; without either for hostd's own user and root.  The name that
a guest gives itself narrows it.  A guest may do what any of its rules allows, and no more.  One that has no rule may
do everything if it is hostd's own user or root, and may not attach if it is not.
"""

from __future__ import annotations

import fnmatch
import functools
import os
import re
from typing import Final, NamedTuple

from hcall.errors import NotAllowed
from hcall.saved import Saved, check

from ..lanes.socket.peer import Peer
from ..tree.tree import Sees

_ROOT: Final = 0
_PATHS: Final = 1 << 13  # that are remembered


class Who(NamedTuple):
    """Users and groups, by number."""

    users: frozenset[int] = frozenset()
    groups: frozenset[int] = frozenset()

    def has(self, peer: Peer) -> bool:
        """Whether *peer* is one of them."""
        return peer.uid in self.users or not self.groups.isdisjoint(peer.groups)

    @property
    def has_others(self) -> bool:
        """Whether anybody but root and hostd's own user is."""
        return bool(self.groups or self.users - {_ROOT, os.geteuid()})


def is_ours(peer: Peer) -> bool:
    """Whether *peer* may do with this process what they like, anyhow."""
    return peer.uid in (_ROOT, os.geteuid())


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name]


class Pattern:
    """Some paths: name by name, with the wildcards of a shell; what stands below a node goes with it."""

    __slots__ = ("_names",)

    def __init__(self, text: str) -> None:
        self._names = [re.compile(fnmatch.translate(name)).match for name in _names(text)]

    def covers(self, path: str) -> bool:
        """Whether the node at *path* is one of these, or stands below one."""
        names = _names(path)
        return len(names) >= len(self._names) and self._fits(names)

    def leads(self, path: str) -> bool:
        """Whether the node at *path* is one of these, stands below one, or above."""
        return self._fits(_names(path))

    def _fits(self, names: list[str]) -> bool:
        return all(match(name) for match, name in zip(self._names, names, strict=False))


class Rule(NamedTuple):
    """One table [policy.NAME]."""

    name: str
    who: Who | None = None  # else hostd's own user and root
    guests: tuple[str, ...] = ()  # patterns of the names of guests, if not all
    open: tuple[str, ...] = ()  # patterns of paths
    see: tuple[str, ...] = ()  # besides those

    def is_for(self, peer: Peer, guest: str | None) -> bool:
        """Whether it is for the *guest* of *peer*; for one of some name, if that is not known."""
        if not (is_ours(peer) if self.who is None else self.who.has(peer)):
            return False
        return guest is None or not self.guests or any(fnmatch.fnmatchcase(guest, each) for each in self.guests)


@functools.lru_cache(64)
def _seen(texts: tuple[str, ...]) -> Sees:
    """Whether a path is one of those, or leads there: one memory for all guests that have the same rules."""
    patterns = [Pattern(text) for text in texts]
    return functools.lru_cache(_PATHS)(lambda path: path == "/" or any(each.leads(path) for each in patterns))


@functools.lru_cache(64)
def _opened(texts: tuple[str, ...]) -> Sees:
    patterns = [Pattern(text) for text in texts]
    return functools.lru_cache(_PATHS)(lambda path: any(each.covers(path) for each in patterns))


class Rights(NamedTuple):
    """What a guest may do: all, if no rules say what."""

    rules: tuple[str, ...] = ()  # their names
    open: tuple[str, ...] = ()  # patterns of paths
    see: tuple[str, ...] = ()

    def save(self) -> Saved:
        """What `restore` needs."""
        return {"version": 1} | {name: list(value) for name, value in self._asdict().items()}

    @classmethod
    def restore(cls, saved: Saved) -> Rights:
        """What was saved.  Raises ValueError."""
        check(saved, 1)
        return cls(*(tuple(saved[name]) for name in cls._fields))

    @property
    def sees(self) -> Sees | None:
        """Whether a node is there for the guest; what leads to one that is, is, too."""
        return _seen((*self.open, *self.see)) if self.rules else None

    @property
    def opens(self) -> Sees | None:
        """Whether the guest may open what is at a path."""
        return _opened(self.open) if self.rules else None


class Policy(NamedTuple):
    """All rules of a machine."""

    rules: tuple[Rule, ...] = ()

    def rights(self, peer: Peer, guest: str) -> Rights:
        """What the guest of that name may do.  Raises NotAllowed if it may not attach."""
        rules = [rule for rule in self.rules if rule.is_for(peer, guest)]
        if not rules and not is_ours(peer):
            raise NotAllowed(f"the machine's policy has no rule for a guest {guest!r} of user {peer.uid}")
        return Rights(
            tuple(rule.name for rule in rules),
            tuple(text for rule in rules for text in rule.open),
            tuple(text for rule in rules for text in rule.see),
        )

    def may_come(self, peer: Peer) -> bool:
        """Whether there is a name by which a guest of *peer* may attach."""
        return is_ours(peer) or any(rule.is_for(peer, None) for rule in self.rules)

    @property
    def lets_others_in(self) -> bool:
        """Whether there is a rule for anybody but hostd's own user and root."""
        return any(rule.who is not None and rule.who.has_others for rule in self.rules)
