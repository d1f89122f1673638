"""All guests of the bus of virtio-msg: who is let in, what they hear of the tree, who does not read.

They are guests like others: their users have so many of these, and turns, and the machine's policy says what they see
and open, by the name `virtio-msg`.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from functools import partial
from typing import Final

from hcall import numbers
from hcall.clock import Timer
from hcall.errors import Busy, NotAllowed
from hcall.formats.virtio_msg import READY, REMOVED

from ..calls.shares import DESCRIPTORS, GUESTS, Purse
from ..lanes.msg.answers import LEAVING
from ..lanes.msg.link import Link
from ..lanes.socket.listener import Listener
from ..lanes.socket.peer import Peer, peer
from ..tree.complaints import Complaints
from ..tree.faces.msg import Numbers
from ..tree.node import Node
from .guests import SWEEP_SECONDS, UNREAD_SECONDS, Guests
from .messenger import NAME, Messenger
from .policy import Policy
from .turns import Once

_STATES: Final = {numbers.ADDED: READY, numbers.LEAVING: LEAVING, numbers.REMOVED: REMOVED}
_MOST: Final = 1 << 20  # bytes that wait for one: fewer events than it takes until a device number comes again


class Messengers:
    """Beside the *guests* of a host; nothing is there before it listens."""

    def __init__(self, guests: Guests) -> None:
        self._guests, self._tree = guests, guests.tree
        self.by_number: dict[int, Messenger] = {}
        self._numbers = Numbers()
        self._complaints = Complaints("the bus of virtio-msg", guests.clock, by_time=True)
        self._listener: Listener | None = None
        self._sweeper: Timer | None = None

    def listen(self, listener: socket.socket) -> None:
        """Let them in by *listener*, a SOCK_SEQPACKET, which is closed at the end."""
        for node in self._tree.root.walk():
            self._add(node)
        self._tree.watchers[self] = self._changed
        self._listener = Listener(listener, self._guests.clock, self._accepted)
        self._sweeper = self._guests.attended.call_later(SWEEP_SECONDS, self._sweep)

    def _accepted(self, sock: socket.socket) -> None:
        turns, who = self._guests.turns, peer(sock)
        begun = turns.time()
        purse = Purse(self._guests.shares.of(who.uid))
        try:
            self._admit(sock, who, purse)
        except (Busy, NotAllowed) as error:
            self._guests.complain(who.uid, f"a guest was refused: {error}")
            purse.close()
            self._guests.porter.close(who.uid, sock)
        turns.of(who.uid).charge(begun, turns.time())

    def _admit(self, sock: socket.socket, who: Peer, purse: Purse) -> None:
        guests = self._guests
        rights = guests.policy.rights(who, NAME)
        purse.take(GUESTS)
        purse.take(DESCRIPTORS)
        user = guests.turns.of(who.uid)
        messenger = Messenger(guests.next_number(), who, rights, purse, self._tree, guests.limits, guests.clock, user,
                              self._numbers)  # fmt: skip
        messenger.link = Link(
            sock, guests.anteroom(who.uid), guests.time, min(guests.limits.queued, _MOST),
            lambda does: user.do(Once(does)), messenger.answers.take, partial(self.end, messenger),
        )  # fmt: skip
        self.by_number[messenger.number] = messenger
        guests.complain(who.uid, f"guest {NAME!r} is here", logging.INFO)
        guests.changed.set()

    def end(self, messenger: Messenger, text: str) -> None:
        """It is no guest any more."""
        if self.by_number.pop(messenger.number, None) is None:
            return
        self._guests.complain(messenger.uid, f"guest {NAME!r}: {text}", logging.INFO)
        messenger.purse.give(GUESTS)
        messenger.end(partial(self._guests.porter.close, messenger.uid))
        self._guests.changed.set()

    def expel(self, number: int, text: str) -> None:
        """See `Guests.expel`."""
        messenger = self.by_number.get(number)
        if messenger is not None:
            self._guests.complain(messenger.uid, f"guest {NAME!r} is reset: {text}")
            self._guests.loop.call_soon(self.end, messenger, text)

    async def obey(self, policy: Policy) -> None:
        """*policy* is what holds from now on, for those who are here, too."""
        await self._guests.chores.do(self._all_obey(policy))

    def _all_obey(self, policy: Policy) -> Iterator[None]:
        for messenger in list(self.by_number.values()):
            if messenger.number in self.by_number:
                try:
                    messenger.obey(policy)
                except NotAllowed as error:
                    self.end(messenger, str(error))
            yield

    def _add(self, node: Node) -> int | None:
        number = self._numbers.add(node) if node.device is not None else None
        if number is None and node.device is not None:
            self._complaints.say(f"{node.path} is not there: all device numbers are in use")
        return number

    def _changed(self, what: int, node: Node, parent: Node) -> None:
        number = self._add(node) if what == numbers.ADDED else self._numbers.number(node)
        if number is not None:
            self._guests.chores.add(self._told(number, node, _STATES[what]))

    def _told(self, number: int, node: Node, state: int) -> Iterator[None]:
        for messenger in list(self.by_number.values()):
            messenger.tell(number, node, state)
            yield
        if state == REMOVED:
            self._numbers.remove(node)

    def _sweep(self) -> None:
        now = self._guests.time()
        for messenger in list(self.by_number.values()):
            since = messenger.link.full_since if messenger.link is not None else None
            if since is not None and now - since > UNREAD_SECONDS:
                self.end(messenger, "it does not read")
        self._sweeper = self._guests.attended.call_later(SWEEP_SECONDS, self._sweep)

    def close(self) -> None:
        """End them all; what they had open is given back."""
        if self._listener is None or self._sweeper is None:
            return
        self._listener.close()
        self._sweeper.cancel()
        self._tree.watchers.pop(self, None)
        for messenger in list(self.by_number.values()):
            self.end(messenger, "the host is shutting down")
            messenger.work(float("inf"))
        self._complaints.settle(last=True)
