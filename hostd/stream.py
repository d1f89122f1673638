"""The vuart: a device that is two pipes, with buffers, triggers and three interrupts.

After the virtual UART of the PlayStation 3 hypervisor (Linux drivers/ps3/ps3-vuart.c).  A vector counts how often its
condition was found true: when it becomes true, and when it is enabled while true, in the interrupt mask or by
DRIVER_OK.  So a driver works until WOULD_BLOCK, and only then waits; or it has calls that wait, `wait_read` and
`wait_write`, for whose answers no time is set.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Final, TypeAlias, TypeVar

from hcall.errors import BadArea, BadArgument, IoError, WouldBlock
from hcall.formats.vuart import DISCONNECT, RX, TX, Param

from .device import Data, Device, Irq, Later, Room, Saved, State, call

__all__ = ["Stream"]

BUFFER: Final = 64 * 1024  # bytes each way
MOST: Final = 256 * 1024  # bytes of calls that waited, in one turn: it takes 0.1 ms to copy them

_PIECES: Final = 16  # of guest memory that a call waits with: to end many at once is a turn's work
A = TypeVar("A", Room, Data)
_Waiting: TypeAlias = OrderedDict[Later[int], A]  # what a call waits with, by its answer


class Stream(
    Device,
    leaves=(
        *("part", "lends", "written", "drained", "fetch", "transmit", "hang_up"),
        *("read", "write", "wait_read", "wait_write", "get_param", "set_param"),
    ),
    extends=("renew",),
):
    """Base of the models that are a plain bidirectional stream.

    Towards the guest a model calls `send` and is asked for more by `drained`; what the guest wrote comes to `written`,
    which may take less than all: flow control, until `transmit` is called.
    """

    part: ClassVar[int] = BUFFER  # bytes that `written` gets in one turn: fewer, if it takes long over some
    lends: ClassVar[bool] = False  # `written` may get a view of the guest's memory, which it does not keep

    rx_ready, tx_ready, disconnected = Irq(), Irq(), Irq()

    __rx = State(bytearray, early=True)  # boot messages, say: what came before any guest used it is for the first
    __closed = State(bool, False, early=True)
    __tx = State(bytearray)
    __syncing = State(bool, False)  # the guest waits until nothing does
    __resting = False  # others have their turn before `written` gets more
    __triggers = State(list[int], [1, BUFFER - 1])  # one byte of room, one byte that waits
    __enabled = State(int, TX | RX | DISCONNECT)
    __raised = State(int, TX)  # conditions that hold, and were told
    __ahead = True  # the guest wants to be told of what comes; no: it waits for it

    def __init_subclass__(cls, leaves: Iterable[str] | None = None, extends: Iterable[str] = ()) -> None:
        """Who reads or writes in a way of its own does not wait in that of a Stream."""
        for verb in ("read", "write"):
            waits = f"wait_{verb}"
            if getattr(cls, verb) is not getattr(Stream, verb) and getattr(cls, waits) is getattr(Stream, waits):
                setattr(cls, waits, None)
        super().__init_subclass__(leaves, extends)

    def __init__(self, **config: object) -> None:
        super().__init__(**config)
        self.__readers: _Waiting[Room] = OrderedDict()  # while there are any, nothing is in the receive buffer
        self.__writers: _Waiting[Data] = OrderedDict()  # in their turn

    # What a model has.

    def written(self, data: bytes) -> int:
        """The guest wrote *data*: how much of it is taken now."""
        raise NotImplementedError

    def drained(self) -> None:
        """The guest has read: there is `space` again."""

    def fetch(self, into: Room) -> int:
        """Bytes that are there already go straight *into* the guest's room: how many; 0: it cannot be done so."""
        return 0

    @property
    def awaited(self) -> Room | None:
        """Where the next bytes are waited for: whoever puts some there says `filled`."""
        return next(iter(self.__readers.values()), None)

    def filled(self, count: int) -> None:
        """So many bytes are in the `awaited` room."""
        later, _ = self.__readers.popitem(last=False)
        if self.in_use:
            self.site.used = True
        if self.__enabled & RX:
            self.rx_ready()  # whoever gave up waiting for them may wait for this
        later.done(count)

    @property
    def ahead(self) -> int:
        """How many bytes `send` should be given before the guest asks for them: none, if it waits for what it wants."""
        return self.space if self.__ahead else 0

    @property
    def space(self) -> int:
        """How many bytes `send` would take."""
        return BUFFER - len(self.__rx)

    def send(self, data: bytes) -> int:
        """Give *data* to the guest: how much of it fitted."""
        data = rest = data[: self.space]
        while rest and (room := self.awaited) is not None:
            count = room.put(rest)
            rest = rest[count:]
            self.filled(count)
        self.__rx += rest
        self.__came()
        return len(data)

    def transmit(self) -> None:
        """The model takes bytes again: what waited goes to `written`."""
        given = 0
        while self.__tx and not self.__closed and not self.__resting:
            taken = self.written(bytes(self.__tx[: self.part]))
            if not taken:
                break
            del self.__tx[:taken]
            given += taken
            if self.__tx and given >= self.part:
                self.__rest()
        given = 0
        while self.__writers and not self.__resting and self.__fits(next(iter(self.__writers.values()))):
            later, data = self.__writers.popitem(last=False)
            given += (count := self.__take(data))
            later.done(count)
            if given >= MOST:
                self.__rest()
        self.__update()

    def __rest(self) -> None:
        if not self.__resting:
            self.__resting = True
            self.clock.call_later(0, self.__rested)

    def __rested(self) -> None:
        self.__resting = False
        self.transmit()

    @property
    def waiting(self) -> int:
        """How many bytes the guest wrote that nobody took."""
        return len(self.__tx)

    def forget(self) -> None:
        """What waits is lost."""
        self.__tx.clear()
        if self.__writers:
            self.__rest()

    def flushed(self, more: int = 0) -> None:
        """For a `sync`: all that the guest wrote was taken, and *more* bytes than are here are not under way.

        Errors: WouldBlock, and tx_ready comes when there is another answer; IoError if the other end went before.
        """
        waiting = len(self.__tx) + sum(data.nbytes for data in self.__writers.values()) + more
        if waiting and self.__closed:
            raise IoError(f"the other end is gone: {waiting} bytes have not reached it")
        if waiting:
            self.__syncing = True
            raise WouldBlock(f"{waiting} bytes wait: wait for tx_ready")

    @property
    def hung_up(self) -> bool:
        """Whether the other end is gone."""
        return self.__closed

    def hang_up(self) -> None:
        """The other end is gone: the guest reads what is left, then the end; what it wrote and nobody took is lost."""
        self.__closed = True
        while self.__readers:
            self.__readers.popitem(last=False)[0].done(0)
        while self.__writers:
            self.__writers.popitem(last=False)[0].fail(_gone())
        self.__came()

    def ready(self) -> None:
        """What is true already is told."""
        self.__raised = 0
        self.__update()

    def load(self, saved: Saved) -> None:
        super().load(saved)
        if self.__tx:  # it may have been between two parts
            self.clock.call_later(0, self.transmit)

    def renew(self, used: bool) -> None:
        """As of any device; and there is `space` again.  For the host."""
        self.__ahead = True
        for later in [*self.__readers, *self.__writers]:
            later.abandon()
        super().renew(used)
        if used:
            self.__update()
            self.drained()

    # What the guest sees.

    def read(self, into: Room, at: int) -> int:
        """Bytes that wait; 0 is the end of the stream.  Errors: WouldBlock."""
        if not self.__rx:
            self.__read_ahead()
        if not self.__rx:
            if self.__closed or not into.nbytes:
                return 0
            raise WouldBlock("nothing has come: wait for rx_ready")
        return self.__give(into)

    @call(waits=True, number=128)
    def wait_read(self, into: Room) -> int | Later[int]:
        """Bytes, as soon as there are some, 256 KiB at most; 0 is the end of the stream."""
        self.__ahead = False
        if self.__rx:
            return self.__give(into)
        if not self.__readers and not self.__closed and into.nbytes and (count := self.fetch(into)):
            return count
        if self.__closed or not into.nbytes:
            return 0
        later = _wait(self.__readers, into)
        self.drained()
        return later

    def __read_ahead(self) -> None:
        """The guest may wait for rx_ready next."""
        if not self.__ahead:
            self.__ahead = True
            self.drained()

    def __give(self, into: Room) -> int:
        if len(self.__rx) <= into.nbytes:
            count = into.put(bytes(self.__rx))
            self.__rx.clear()
        else:
            count = into.put(bytes(self.__rx[: into.nbytes]))
            del self.__rx[:count]
        self.__update()
        self.drained()
        return count

    def write(self, data: Data, at: int) -> int:
        """Take as much as there is room for.  Errors: WouldBlock, IoError after the other end is gone."""
        if self.__closed:
            raise _gone()
        if self.__tx or self.__writers:
            room = BUFFER - len(self.__tx)
            if not room or self.__writers:
                raise WouldBlock("no room: wait for tx_ready")
            self.__tx += (taken := _head(data, room))
            self.transmit()
            return len(taken)
        return self.__take(data)

    @call(waits=True, number=129)
    def wait_write(self, data: Data) -> int | Later[int]:
        """Take all of it, 64 KiB at most, as soon as there is room.  Errors: IoError after the other end is gone."""
        if self.__closed:
            raise _gone()
        if not self.__writers and self.__fits(data):
            return self.__take(data)
        later = _wait(self.__writers, data)
        self.__update()
        return later

    def __fits(self, data: Data) -> bool:
        return min(data.nbytes, BUFFER) <= BUFFER - len(self.__tx)

    def __take(self, data: Data) -> int:
        """What there is room for."""
        if self.__tx:
            self.__tx += (kept := _head(data, BUFFER))
            return len(kept)
        taken: Any = data[0] if self.lends and len(data) == 1 and data.nbytes <= BUFFER else _head(data, BUFFER)
        passed = self.written(taken[: self.part]) if taken else 0  # most often all of it, and nothing has to be kept
        if passed < len(taken):
            self.__tx += taken[passed:]
            if passed and len(taken) > self.part:
                self.__rest()
            self.__update()
        return len(taken)

    @call(again=True)
    def get_param(self, param: int) -> int:
        """A parameter of the port, see `Param`.  Errors: BadArgument."""
        if param == Param.TX_TRIGGER or param == Param.RX_TRIGGER:
            return self.__triggers[param]
        values = {
            Param.INTERRUPT_MASK: self.__enabled, Param.RX_BUF_SIZE: BUFFER, Param.RX_BYTES: len(self.__rx),
            Param.TX_BUF_SIZE: BUFFER, Param.TX_BYTES: len(self.__tx), Param.INTERRUPT_STATUS: self.__conditions(),
        }  # fmt: skip
        if param not in values:
            raise BadArgument(f"a port has the parameters 0 to {max(Param)}, not {param}")
        return values[Param(param)]

    @call
    def set_param(self, param: int, value: int) -> None:
        """Set a trigger, 1 to the buffer's size for TX, 0 to below it for RX, or the mask.  Errors: BadArgument."""
        if param == Param.INTERRUPT_MASK and 0 <= value <= TX | RX | DISCONNECT:
            self.__raised &= value  # what is enabled anew while true is told
            self.__enabled = value
        elif param in (Param.TX_TRIGGER, Param.RX_TRIGGER) and 0 <= value - (param == Param.TX_TRIGGER) < BUFFER:
            self.__triggers[param] = value
            self.__read_ahead()
        else:
            raise BadArgument(f"parameter {param} cannot be set to {value}")
        self.__update()

    def __conditions(self) -> int:
        has_room = BUFFER - len(self.__tx) >= self.__triggers[Param.TX_TRIGGER] and not self.__writers
        tx = TX if has_room or self.__closed else 0
        rx = RX if self.space <= self.__triggers[Param.RX_TRIGGER] or self.__closed else 0
        return tx | rx | (DISCONNECT if self.__closed else 0)

    def __came(self) -> None:
        """Something from the other end: for the guest that is there, and not for the next; or kept for the first."""
        if self.in_use:
            self.site.used = True
        self.__update()

    def __update(self) -> None:
        """Raise the interrupts whose condition has become true."""
        conditions = self.__conditions()
        fresh = conditions & ~self.__raised & self.__enabled
        self.__raised = conditions & (self.__raised | fresh)
        if fresh & RX:
            self.rx_ready()
        synced = self.__syncing and (self.__closed or not self.__tx)
        if fresh & TX or synced:
            self.__syncing = self.__syncing and not synced
            self.tx_ready()
        if fresh & DISCONNECT:
            self.disconnected()


def _wait(waiting: _Waiting[A], area: A) -> Later[int]:
    """An answer to a call with this *area*, behind all that are *waiting*.  Errors: BadArea."""
    if len(area) > _PIECES:
        raise BadArea(f"a call waits with {_PIECES} pieces of memory at most, not {len(area)}")
    later: Later[int] = Later()
    waiting[later] = area
    later.runs(partial(_give_up, waiting, later))
    return later


def _give_up(waiting: _Waiting[A], later: Later[int]) -> bool:
    waiting.pop(later, None)
    return True


def _gone() -> IoError:
    return IoError("the other end is gone")


def first(into: Sequence[memoryview]) -> memoryview:
    """The start of a room, which is not empty: as much of it as is filled in one turn."""
    for piece in into:
        if piece:
            return piece[:MOST] if len(piece) > MOST else piece
    raise ValueError("there is no room")


def _head(data: Data, count: int) -> bytes:
    """Up to *count* bytes from the start."""
    if data.nbytes <= count:
        return data.get()
    pieces = []
    for piece in data:
        pieces.append(bytes(piece[:count]))
        count -= len(pieces[-1])
    return b"".join(pieces)
