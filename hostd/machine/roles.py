"""Who may ask what of the control socket: the tables [control.ROLE] of the machine file."""

from __future__ import annotations

import enum
from typing import NamedTuple

from ..guests.policy import Who, is_ours
from ..lanes.socket.peer import Peer


class Role(enum.IntEnum):
    """Each may do what those before it may."""

    LOOK = 1
    OPERATE = 2
    LOAD = 3

    @property
    def word(self) -> str:
        """As the machine file has it."""
        return self.name.lower()


class Roles(NamedTuple):
    """Who has which, besides hostd's own user and root, who have all."""

    look: Who = Who()
    operate: Who = Who()
    load: Who = Who()

    def of(self, peer: Peer) -> Role | None:
        """The highest that *peer* has."""
        if is_ours(peer):
            return Role.LOAD
        return next((role for role in reversed(Role) if self[role - 1].has(peer)), None)

    @property
    def lets_others_in(self) -> bool:
        """Whether anybody but hostd's own user and root has one."""
        return any(who.has_others for who in self)
