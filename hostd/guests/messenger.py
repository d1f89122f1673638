"""A guest of the bus of virtio-msg: a connection, and what it has open.  It does not outlive its link."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Final

from hcall.clock import Clock
from hcall.errors import NotAllowed
from hcall.formats.virtio_msg import READY, REMOVED, Body, DeviceEvent

from ..calls.account import Account, Rings
from ..calls.limits import Limits
from ..calls.memory import Lending, Region
from ..calls.shares import Purse
from ..lanes.msg.answers import Answers
from ..lanes.msg.link import Link
from ..lanes.socket.peer import Peer
from ..tree.complaints import Complaints
from ..tree.faces.msg import Numbers
from ..tree.node import Node
from ..tree.tree import Tree
from .policy import Policy, Rights
from .turns import User

NAME: Final = "virtio-msg"  # of all: the messages have none


class Messenger:
    """The owner of an account; its end is work of its user's, see `turns.Worker`."""

    def __init__(self, number: int, peer: Peer, rights: Rights, purse: Purse, tree: Tree, limits: Limits, clock: Clock,
                 user: User, numbers: Numbers) -> None:  # fmt: skip
        """No guest has the *number*; *user* and *purse* are its user's."""
        self.number, self.name, self.peer, self.rights, self.purse = number, NAME, peer, rights, purse
        self._user, self._time, self._numbers, self.had = user, clock.time, numbers, 0.0
        self.complaints = Complaints(f"guest {NAME!r}", clock)
        self.account = Account(tree, limits, self)
        self.answers = Answers(numbers, self)
        self.link: Link | None = None
        self._steps: list[Iterator[None]] = []  # the first is under way

    @property
    def uid(self) -> int:
        """Its user."""
        return self.peer.uid

    @property
    def sees(self) -> Callable[[str], bool] | None:
        """See `Owner`."""
        return self.rights.sees

    @property
    def opens(self) -> Callable[[str], bool] | None:
        """See `Owner`."""
        return self.rights.opens

    def send(self, body: Body, device: int = 0, token: int = 0) -> None:
        """See `lanes.msg.answers.Peer`."""
        if self.link is not None:
            self.link.send(body, device, token)

    def tell(self, device: int, node: Node, state: int) -> None:
        """*node*, the *device*, is in another state."""
        if self.account.sees(node):
            self.send(DeviceEvent(device, state))
        if state == REMOVED:
            self.answers.gone(device)

    def obey(self, policy: Policy) -> None:
        """*policy* holds from now on.  Raises NotAllowed, and then it has to go."""
        rights, before = policy.rights(self.peer, NAME), self.sees
        if rights == self.rights:
            return
        self.rights = rights
        self.go_on(self.account.revise(before))
        self.go_on(self._revise(before))

    def _revise(self, before: Callable[[str], bool] | None) -> Iterator[None]:
        """What it sees is not what it was *before*: the one has gone for it, and the other come."""
        for device, node in list(self._numbers.nodes.items()):
            saw, sees = (each is None or each(node.path) for each in (before, self.sees))
            if saw != sees and not node.gone:
                self.send(DeviceEvent(device, READY if sees else REMOVED))
            yield

    def soon(self, does: Callable[[], object]) -> None:
        """See `lanes.msg.answers.Peer`."""
        asyncio.get_running_loop().call_soon(does)

    # What its account asks of it.

    def hint(self, tag: int, vector: int, count: int) -> None:
        """See `Owner`: the bus has no queue whose interrupt it would be."""

    def lend(self, number: int, start: int, size: int, offset: int | None, then: Lending) -> None:
        """See `Owner`."""
        raise NotAllowed("the bus of virtio-msg takes no memory")

    def free(self, region: Region, then: Callable[[], None]) -> None:
        """See `Owner`: it has none."""
        then()

    @property
    def rings(self) -> Rings:
        """See `Owner`."""
        raise NotAllowed("the bus of virtio-msg has no rings of this sort")

    def detach(self, then: Callable[[], None]) -> None:
        """See `Owner`: it hangs up instead."""
        then()

    # Its end.

    def end(self, close: Callable[[socket.socket], None]) -> None:
        """Its connection is closed, by *close*, and its devices are given back, in turns of its user's."""
        if self.link is not None:
            self.link.close(close)
            self.link = None
        self.answers.close()
        self.complaints.settle(last=True)
        self.go_on(self.account.close(self.purse.close))

    def go_on(self, steps: Iterator[None]) -> None:
        """See `Owner`."""
        self._steps.append(steps)
        if len(self._steps) == 1:
            self._user.do(self)

    def work(self, until: float) -> bool:
        """See `turns.Worker`."""
        while self._steps:
            if any(self._time() > until for _ in self._steps[0]):
                return True
            self._steps.pop(0)
        return False
