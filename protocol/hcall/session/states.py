"""What may happen when: the states of a session, and for each end one table of its moves."""

from __future__ import annotations

import enum
from typing import Any, Final, TypeAlias

from ..errors import ProtocolViolation
from ..wire import Decoder

Message: TypeAlias = tuple[Any, ...]


class State(enum.Enum):
    """Where a session stands."""

    IDLE = enum.auto()  # guest: no link yet, or none now
    GREETING = enum.auto()  # a link, and HELLO on its way
    READY = enum.auto()
    LOST = enum.auto()  # host: no link; all is kept for the guest to come back
    ENDED = enum.auto()


class Event(enum.Enum):
    """What can happen to a session: a message, or something on its link."""

    LINK = enum.auto()  # guest: a socket is connected
    HELLO = enum.auto()
    WELCOME = enum.auto()
    CALL = enum.auto()
    REPLY = enum.auto()
    IRQ = enum.auto()
    ACK = enum.auto()
    RESUME = enum.auto()  # host: the same token came on another link
    LOSS = enum.auto()  # the link broke
    END = enum.auto()  # either end's last word


READY: Final = State.READY  # a member's look-up costs 0.08 us, and there are five for each call
ENDED: Final = State.ENDED

HOST_MOVES: Final[dict[tuple[State, Event], State]] = {
    (State.GREETING, Event.HELLO): State.READY,
    (State.GREETING, Event.LOSS): State.ENDED,
    (State.GREETING, Event.END): State.ENDED,
    (State.READY, Event.CALL): State.READY,
    (State.READY, Event.ACK): State.READY,
    (State.READY, Event.RESUME): State.READY,  # the old link may still look alive
    (State.READY, Event.LOSS): State.LOST,
    (State.READY, Event.END): State.ENDED,
    (State.LOST, Event.RESUME): State.READY,
    (State.LOST, Event.END): State.ENDED,
}
GUEST_MOVES: Final[dict[tuple[State, Event], State]] = {
    (State.IDLE, Event.LINK): State.GREETING,
    (State.IDLE, Event.END): State.ENDED,
    (State.GREETING, Event.WELCOME): State.READY,
    (State.GREETING, Event.LOSS): State.IDLE,
    (State.GREETING, Event.END): State.ENDED,
    (State.READY, Event.REPLY): State.READY,
    (State.READY, Event.IRQ): State.READY,
    (State.READY, Event.LOSS): State.IDLE,
    (State.READY, Event.END): State.ENDED,
}


class Session:
    """The state, and the bytes that wait to be sent."""

    __slots__ = ("_decoder", "broken", "out", "state")
    MOVES: dict[tuple[State, Event], State]

    def __init__(self, state: State) -> None:
        self.state = state
        self.broken: ProtocolViolation | None = None  # what the last `receive` stopped at
        self.out: list[bytes] = []
        self._decoder = Decoder()

    def after(self, event: Event) -> State:
        """The state that follows.  Raises ProtocolViolation if none does."""
        try:
            return self.MOVES[self.state, event]
        except KeyError:
            raise ProtocolViolation(f"{event.name} in the state {self.state.name}") from None

    def move(self, event: Event) -> None:
        """Go to the state that follows.  Raises ProtocolViolation, and changes nothing, if none does."""
        self.state = self.after(event)

    @property
    def partial(self) -> bool:
        """Whether half a message has come."""
        return self._decoder.partial

    @property
    def partial_is_new(self) -> bool:
        """Whether that half came with the last bytes, and not before."""
        return self._decoder.partial_is_new

    def _relink(self) -> None:
        """A new link: what was half read or not yet written is gone."""
        self.out = []
        self._decoder = Decoder()
