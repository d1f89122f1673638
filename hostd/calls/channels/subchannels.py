"""What a guest has begun at subchannels: a program at each, and its status until the guest has tested it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from hcall.errors import Busy
from hcall.formats import ccw
from hcall.formats.ccw import Status

from ...tree.node import Node
from ..limits import Limits
from ..memory import Memory
from ..shares import OPENS, Purse
from ..vectors import LEAP
from .program import ACTIVE, CALLING, LOST, Unit, run

_REST: Final = Status()


class _Channel:
    """One subchannel that is not at rest, or has something to sense."""

    __slots__ = ("calls", "node", "parameter", "sense", "status")

    def __init__(self, node: Node) -> None:
        self.node, self.parameter, self.status, self.sense = node, 0, _REST, 0
        self.calls = False  # the device has called for attention while a program ran


class Subchannels:
    """Of one guest; each is paid for like a device that is open, from the start of a program until it is tested."""

    __slots__ = ("_channels", "_count", "_hint", "_limits", "_memory", "_purse")

    def __init__(self, limits: Limits, purse: Purse, memory: Memory, hint: Callable[[int, int, int], None]) -> None:
        """*hint*(tag, vector, count) tells the guest of an interrupt."""
        self._limits, self._purse, self._memory, self._hint = limits, purse, memory, hint
        self._channels: dict[int, _Channel] = {}  # by subsystem-identification word
        self._count = 0  # of interrupts

    def known(self, word: int, node: Node) -> tuple[int, Status]:
        """The parameter and the status of the subchannel at which *node* is."""
        channel = self._of(word, node)
        return (0, _REST) if channel is None else (channel.parameter, channel.status)

    def start(self, word: int, node: Node, identity: bytes, parameter: int, program: int) -> int | Iterator[None]:
        """The condition code if the program is not begun, else its steps.  Raises Busy: too many others are."""
        channel = self._of(word, node) or self._room_for(word, node)
        if channel.status.is_pending:
            return ccw.PENDING
        if channel.status is ACTIVE:
            return ccw.BUSY
        channel.parameter, channel.status = parameter, ACTIVE
        return self._run(word, channel, Unit(identity, channel.sense), program)

    def test(self, word: int, node: Node) -> Status | None:
        """The status, which is pending no more; None: none was."""
        channel = self._of(word, node)
        if channel is None or not channel.status.is_pending:
            return None
        status, channel.status = channel.status, _REST
        if not channel.sense:
            self._drop(word)
        return status

    def call(self, word: int, node: Node) -> None:
        """The device of *node* wants to be looked at: status that nobody asked for.  Raises Busy."""
        channel = self._of(word, node) or self._room_for(word, node)
        if channel.status is ACTIVE:
            channel.calls = True
        elif channel.status.is_pending:
            channel.status = channel.status._replace(device=channel.status.device | ccw.ATTENTION)
        else:
            channel.parameter, channel.status = 0, CALLING
            self._tell(word, channel)

    def relink(self) -> None:
        """The guest came back: what it has not tested it is told again."""
        for word, channel in self._channels.items():
            if channel.status.is_pending:
                self._tell(word, channel)

    def close(self) -> None:
        """Give all back; programs end."""
        for word in list(self._channels):
            self._drop(word)

    def _run(self, word: int, channel: _Channel, unit: Unit, program: int) -> Iterator[None]:
        steps = run(self._memory, unit, program)
        while self._channels.get(word) is channel and not channel.node.gone:
            try:
                next(steps)
            except StopIteration as end:
                channel.status, channel.sense = end.value, unit.sense
                if channel.calls:
                    channel.calls = False
                    self.call(word, channel.node)
                self._tell(word, channel)
                return
            yield

    def _tell(self, word: int, channel: _Channel) -> None:
        self._count += 1
        self._hint(ccw.tag(word, channel.parameter), 0, self._count)

    def _of(self, word: int, node: Node) -> _Channel | None:
        """What there is of it; nothing of another device that was there before."""
        channel = self._channels.get(word)
        if channel is not None and channel.node is not node:
            self._drop(word)
            return None
        return channel

    def _room_for(self, word: int, node: Node) -> _Channel:
        if len(self._channels) >= self._limits.handles:
            for each, channel in list(self._channels.items()):
                if channel.node.gone or channel.status is _REST:
                    self._drop(each)
        if len(self._channels) >= self._limits.handles:
            raise Busy(f"a guest has at most {self._limits.handles} channel programs that it has not tested")
        self._purse.take(OPENS)
        channel = self._channels[word] = _Channel(node)
        return channel

    def _drop(self, word: int) -> None:
        del self._channels[word]
        self._purse.give(OPENS)

    # What outlives the daemon.

    def save(self) -> list[Any]:
        """What `restore` needs."""
        return [self._count, [[word, each.parameter, each.sense, list(each.status)]
                              for word, each in self._channels.items()]]  # fmt: skip

    def restore(self, saved: list[Any], at: Callable[[int], Node | None]) -> None:
        """Go on where *saved* was taken; *at* gives the node at a subchannel.  A program that was under way is lost."""
        count, channels = saved
        self._count = count + LEAP
        for word, parameter, sense, status in channels:
            node = at(word)
            if node is not None:
                channel = self._channels[word] = _Channel(node)
                channel.parameter, channel.sense, channel.status = parameter, sense, Status(*status)
                if channel.status == ACTIVE:
                    channel.status, channel.sense = LOST, ccw.EQUIPMENT_CHECK
                self._purse.owe(OPENS)
