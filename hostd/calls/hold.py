"""One guest's hold on one device, from OPEN to CLOSE: what it may call, and which of its calls are under way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, Protocol

from hcall.errors import HcallError, IoError, NoSuchCall, NotAllowed, StaleHandle
from hcall.features import DeviceStatus, Negotiation
from hcall.saved import Saved

from ..model.later import Later
from ..tree.plugged import Plugged
from .pending import Pending
from .vectors import Vectors

_NO_RINGS: Final[Mapping[int, Callable[[], None]]] = {}  # of most holds


class Keeper(Protocol):
    """Whose hold it is: an account."""

    @property
    def name(self) -> str:
        """The guest's, for people."""

    @property
    def number(self) -> int:
        """The guest's, which no other has."""

    def hint(self, tag: int, vector: int, count: int) -> None:
        """Tell the guest of an interrupt."""

    def forget(self, handle: int) -> None:
        """*handle* is stale from now on."""


class Hold:
    """A device that a guest has opened."""

    __slots__ = ("_after", "_keeper", "cookie", "handle", "negotiation", "pending", "plugged", "rings", "table",
                 "vectors")  # fmt: skip

    def __init__(self, plugged: Plugged, handle: int, cookie: int, keeper: Keeper) -> None:
        """Interrupts carry *cookie*, or the handle if that is 0."""
        self.plugged, self.handle, self.cookie, self._keeper = plugged, handle, cookie, keeper
        self.negotiation = Negotiation(plugged.device.offered)
        self.pending: dict[Pending, None] = {}
        self.rings = _NO_RINGS  # by handle what ends it: a reset does, and CLOSE
        self._after: tuple[Callable[[], None], ...] = ()
        self.vectors = Vectors(partial(keeper.hint, cookie or handle))
        self.table = plugged.tables.of(None)  # by hypercall number: what may be called as things stand
        plugged.holds[self] = None

    @property
    def guest(self) -> int:
        """The number of its guest."""
        return self._keeper.number

    def complain(self, number: int, error: BaseException, *, is_expected: bool = False) -> None:
        """See `Caller`."""
        what = self.plugged.name_of(number)
        self.plugged.complaints.note(what, error, self._keeper.name, is_expected=is_expected)

    @property
    def counts(self) -> tuple[int, ...]:
        """How often each vector was raised."""
        return tuple(map(self.vectors.count, range(len(self.plugged.device.declares.irqs))))

    def save(self) -> Saved:
        """What `restore` needs, when no call is under way."""
        return {
            "path": self.plugged.path, "handle": self.handle, "cookie": self.cookie,
            "negotiation": self.negotiation.save(), "vectors": self.vectors.save(),
        }  # fmt: skip

    def restore(self, saved: Saved) -> None:
        """Go on where *saved* was taken; the device is as it was, so it is not told that it is ready."""
        self.negotiation.restore(saved["negotiation"])
        self.vectors.restore(saved["vectors"])
        if self.negotiation.live:
            self.table = self.plugged.tables.of(self.negotiation.accepted)
            self.plugged.live[self.vectors] = None

    def missing(self, number: int) -> HcallError:
        """Why *number* is not in the table."""
        path = self.plugged.path
        if self.plugged.gone:
            return StaleHandle(f"handle {self.handle:#x} is gone: {path} was unplugged")
        if self.negotiation.status & DeviceStatus.NEEDS_RESET:
            return IoError(f"{path} has failed: reset it; the host's log says why")
        for handler in self.plugged.device.declares.handlers:
            if self.plugged.number(handler) == number:
                if self._after:
                    return NotAllowed(f"{path} is being reset")
                if self.vectors not in self.plugged.live:
                    return NotAllowed(f"{path}: {handler.name} comes after DRIVER_OK")
                return NoSuchCall(f"{path}: {handler.name} needs a feature that was not accepted")
        return NoSuchCall(f"{path} has no call {number:#x}")

    def write_status(self, status: int) -> int | Later[int]:
        """The driver writes the status byte, see `Negotiation.write`; 0 resets, which may take a moment.

        Errors: IoError for a reset that failed.
        """
        if status == 0:
            return self._end_calls(self._reset)
        was_live = self.negotiation.live
        status = self.negotiation.write(status)
        if self.negotiation.live and not was_live:
            self._set_up()
        elif was_live and not self.negotiation.live:
            self._silence()
        return status

    def close(self, then: Callable[[], None] | None = None) -> int | Later[int]:
        """Give the device back; *then* is called when no call of this handle is under way any more."""
        self._keeper.forget(self.handle)

        def closed() -> int:
            self._end_rings()
            if self in self.plugged.holds:  # else closed before, while a worker was at it
                self.negotiation.reset()
                self.plugged.release(self)
            self.plugged.freed()
            if then is not None:
                then()
            return 0

        return self._end_calls(closed)

    def wait(self, number: int, later: Later[Any], room: Any, data: Any, expected: Any) -> Pending:
        """See `Opened`."""
        return Pending(self, number, later, room, data, expected, self)

    def settled(self, pending: Pending) -> None:
        """*pending* was answered."""
        self.pending.pop(pending, None)
        if not self.pending:
            after, self._after = self._after, ()
            for step in after:
                step()

    def break_down(self) -> None:
        """The device has failed: nothing but a reset, or CLOSE, works from now on."""
        self._silence()
        self.negotiation.break_down()
        self.table = {}

    def _set_up(self) -> None:
        """DRIVER_OK: calls may be made, and interrupts come."""
        self.table = self.plugged.tables.of(self.negotiation.accepted)
        self.plugged.live[self.vectors] = None
        try:
            self.plugged.ready()
        except BaseException:
            self.break_down()
            raise

    def _end_calls(self, then: Callable[[], int]) -> int | Later[int]:
        """Answer all calls with RESET, then do *then*.  What a worker thread has its hands on ends first."""
        self._silence()
        if not self.pending:
            return then()
        later: Later[int] = Later()
        self.table = {}  # nor does anything begin meanwhile, however early: it would be in the way for ever

        def go_on() -> None:
            self._silence()
            try:
                later.done(then())
            except HcallError as error:
                later.fail(error)

        self._after = (*self._after, go_on)
        for pending in list(self.pending):
            pending.later.abandon()
        return later

    def _silence(self) -> None:
        self.table = self.plugged.tables.of(None)
        self.plugged.live.pop(self.vectors, None)

    def _end_rings(self) -> None:
        rings, self.rings = self.rings, _NO_RINGS
        for end in rings.values():
            end()

    def _reset(self) -> int:
        self._end_rings()
        self.negotiation.reset()
        self.plugged.reset_for(self)
        if self.plugged.failed:
            raise IoError(f"{self.plugged.path} could not be reset; the host's log says why")
        return self.negotiation.status
