"""Who lets the guests of a listening socket in, as the socket's lane knows them."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from hcall.errors import Status
from hcall.messages import Hello
from hcall.session.host import HostSession
from hcall.spin import Awake

from ...calls.limits import Limits
from ...calls.memory import Lent
from .anteroom import Anteroom
from .lane import SocketLane
from .peer import Peer
from .porter import Porter


class Visitor(Protocol):
    """A guest."""

    name: str
    lane: SocketLane

    @property
    def uid(self) -> int:
        """Whose it is."""


class Reception(Protocol):
    """Who lets guests in, and hears of their links."""

    limits: Limits
    epoch: int
    links: set[Any]
    greetings: set[Any]
    porter: Porter
    awake: Awake | None  # hears of all that came, if the host spins
    time: Callable[[], float]  # the clock's, less what the host stood still for: the time that guests have had

    def admit(self, hello: Hello, session: HostSession, peer: Peer, lent: Sequence[Lent]) -> tuple[Visitor, bool]:
        """The guest of *hello* and *peer*, new, or known by its token; and whether it was known.

        *lent* is its memory, in the order of its regions, and is the guest's, or freed.
        """

    def complain(self, uid: int, text: str) -> None:
        """*text*, about a guest of that user, is for the log: once, and then a count."""

    def anteroom(self, uid: int) -> Anteroom:
        """Where those of the user *uid* wait who have not said HELLO."""

    def connect(self, link: Any, sock: socket.socket) -> None:
        """Give *sock* to *link*."""

    def lost(self, guest: Any) -> None:
        """The link of *guest* broke."""

    def end(self, guest: Any, status: Status, text: str) -> None:
        """The session of *guest* is over."""

    def unlinked(self, link: Any) -> None:
        """*link* is gone."""
