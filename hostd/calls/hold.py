"""An open handle: what one guest may do with one device, and which of its calls are under way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from hcall.errors import HcallError, IoError, NoSuchCall, NotAllowed
from hcall.features import DeviceStatus, Negotiation

from hostd.model.areas import Data, Room

from ..device import Device
from ..model.handlers import Entry
from ..model.later import Later
from ..tree.tree import Node
from .outcome import Misbehaved, failed, finished
from .vectors import Vectors

log = logging.getLogger(__name__)

NO_AREA, ROOM, DATA, BOTH = range(4)
_AREAS: Final[dict[tuple[type, ...], int]] = {(): NO_AREA, (Room,): ROOM, (Data,): DATA, (Room, Data): BOTH}


class Pending:
    """A call that is answered later; keeps its areas until then."""

    __slots__ = ("_answer", "_data", "_expected", "_opened", "_room", "later", "since")

    def __init__(self, opened: Open | None, later: Later[Any], room: Any, data: Any, expected: Any) -> None:
        """*opened* is None for a call of the core, which no reset ends; *expected* is the answer's type.

        Raises Misbehaved for a Later that another call waits for.
        """
        if later.taken:
            raise Misbehaved("the device model returned the Later of another call")
        self._opened, self.later, self._room, self._data, self._expected = opened, later, room, data, expected
        if opened is not None:
            self.since = opened.device.clock.time()
            opened.pending.add(self)

    def then(self, answer: Callable[[int, object], None]) -> None:
        """Give (status, value) to *answer*: now, or when there is one.  Called once."""
        self._answer = answer
        self.later.then(self._settle)

    def _settle(self, outcome: object) -> None:
        try:
            if isinstance(outcome, Exception):
                raise outcome
            answer = finished(outcome, self._room, self._data, self._expected)
        except BaseException as error:  # an Overrun, if the model is what gives the answer
            answer = failed(error, self._room, self._data, self._opened.node if self._opened else None)
        self._answer(*answer)
        if self._opened is not None:
            self._opened.settled(self)


class Open:
    """One guest's hold on one device, from OPEN to CLOSE."""

    __slots__ = ("_after", "_forget", "expel", "handle", "negotiation", "node", "pending", "table", "vectors")

    def __init__(
        self,
        node: Node,
        handle: int,
        hint: Callable[[int, int], None],
        forget: Callable[[int], None],
        expel: Callable[[str], None],
    ) -> None:
        """*hint*(vector, count) tells the guest of an interrupt, *forget*(handle) makes the handle stale.

        *expel*(text) ends the guest's session.
        """
        assert node.device is not None
        self.node, self.handle, self._forget, self.expel = node, handle, forget, expel
        self.negotiation = Negotiation(node.device.offered)
        self.pending: set[Pending] = set()
        self._after: list[Callable[[], None]] = []
        self.vectors = Vectors(hint)
        self.table = _table(node, None)  # by hypercall number: what may be called as things stand
        node.opens.append(self)

    @property
    def device(self) -> Device:
        """The device behind it."""
        assert self.node.device is not None
        return self.node.device

    @property
    def counts(self) -> tuple[int, ...]:
        """How often each vector was raised."""
        return tuple(map(self.vectors.count, range(len(self.device.irqs))))

    def missing(self, number: int) -> HcallError:
        """Why *number* is not in the table."""
        if self.negotiation.status & DeviceStatus.NEEDS_RESET:
            return IoError(f"{self.node.name} has failed: reset it; the host's log says why")
        for handler in self.device.handlers:
            if self.node.number(handler) == number:
                if self.vectors not in self.device.openers:
                    return NotAllowed(f"{self.node.name}: {handler.name} comes after DRIVER_OK")
                return NoSuchCall(f"{self.node.name}: {handler.name} needs a feature that was not accepted")
        return NoSuchCall(f"{self.node.name} has no call {number:#x}")

    def write_status(self, status: int) -> int | Later[int]:
        """The driver writes the status byte, see `Negotiation.write`; 0 resets, which may take a moment."""
        if status == 0:
            return self._end_calls(self._reset)
        was_live = self.negotiation.live
        status = self.negotiation.write(status)
        if self.negotiation.live and not was_live:
            self.table = _table(self.node, self.negotiation.accepted)
            self.device.openers.append(self.vectors)
            try:
                self.device.ready()
            except BaseException:
                self.break_down()
                raise
        elif was_live and not self.negotiation.live:
            self._silence()
        return status

    def close(self, then: Callable[[], None] | None = None) -> int | Later[int]:
        """Give the device back; *then* is called when no call of this handle is under way any more."""
        self._forget(self.handle)

        def closed() -> None:
            if self in self.node.opens:  # else closed before, while a worker was at it
                self.node.opens.remove(self)
                self._reset()
            while self.node.when_closed and not self.node.opens:
                self.node.when_closed.pop()()
            if then is not None:
                then()

        return self._end_calls(closed)

    def settled(self, pending: Pending) -> None:
        """*pending* was answered."""
        self.pending.discard(pending)
        if not self.pending:
            after, self._after = self._after, []
            for step in after:
                step()

    def break_down(self) -> None:
        """The device has failed: nothing but a reset, or CLOSE, works from now on."""
        self._silence()
        self.negotiation.break_down()
        self.table = {}

    def _end_calls(self, then: Callable[[], None]) -> int | Later[int]:
        """Answer all calls with RESET.  What a worker thread has its hands on ends first."""
        self._silence()
        if not self.pending:
            then()
            return 0
        later: Later[int] = Later()
        self._after += [then, lambda: later.done(0)]
        for pending in list(self.pending):
            pending.later.abandon()
        return later

    def _silence(self) -> None:
        self.table = _table(self.node, None)
        if self.vectors in self.device.openers:
            self.device.openers.remove(self.vectors)

    def _reset(self) -> None:
        self.negotiation.reset()
        if not self.node.gone and (self.node.failed or not (self.device.shared and self.node.opens)):
            reset(self.node)


def reset(node: Node) -> None:
    """Reset the device of *node*: as after power-on, or it has failed."""
    assert node.device is not None
    try:
        node.device.reset()
        node.failed, node.complaint = False, ""
    except BaseException:  # a model may do anything: sys.exit(), too
        fail(node, "reset")


def fail(node: Node, hook: str) -> None:
    """*hook* of the device's model raised what is handled now: it is of no use until a reset succeeds."""
    log.exception("%s: the model failed in %s()", node.path, hook)
    node.failed = True
    for opened in node.opens:
        opened.break_down()


def _table(node: Node, accepted: int | None) -> dict[int, Entry]:
    """What a guest with these *accepted* features may call; None: before it has negotiated."""
    table = node.tables.get(accepted)
    if table is None:
        device = node.device
        table = node.tables[accepted] = {
            node.number(handler): (getattr(device, handler.name), handler.kinds, _AREAS[handler.areas], handler.answer)
            for handler in (device.handlers if device else ())
            if (handler.early if accepted is None else handler.needs & accepted == handler.needs)
        }
    return table
