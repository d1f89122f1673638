"""The vuart: a device that is two pipes, with buffers, triggers and three interrupts.

After the virtual UART of the PlayStation 3 hypervisor (Linux drivers/ps3/ps3-vuart.c).  A vector counts how often its
condition was found true: when it becomes true, and when it is enabled while true, in the interrupt mask or by
DRIVER_OK.  So a driver works until WOULD_BLOCK, and only then waits.
"""

from __future__ import annotations

from typing import ClassVar, Final

from hcall.errors import BadArgument, IoError, WouldBlock
from hcall.formats.vuart import DISCONNECT, RX, TX, Param

from .device import Data, Device, Irq, Room, Saved, State, call

__all__ = ["Stream"]

BUFFER: Final = 64 * 1024  # bytes each way


class Stream(
    Device,
    leaves=("part", "written", "drained", "transmit", "hang_up", "read", "write", "get_param", "set_param"),
    extends=("renew",),
):
    """Base of the models that are a plain bidirectional stream.

    Towards the guest a model calls `send` and is asked for more by `drained`; what the guest wrote comes to `written`,
    which may take less than all: flow control, until `transmit` is called.
    """

    part: ClassVar[int] = BUFFER  # bytes that `written` gets in one turn: fewer, if it takes long over some

    rx_ready, tx_ready, disconnected = Irq(), Irq(), Irq()

    __rx = State(bytearray, early=True)  # boot messages, say: what came before any guest used it is for the first
    __closed = State(bool, False, early=True)
    __tx = State(bytearray)
    __syncing = State(bool, False)  # the guest waits until nothing does
    __resting = False  # others have their turn before `written` gets more
    __triggers = State(list[int], [1, BUFFER - 1])  # one byte of room, one byte that waits
    __enabled = State(int, TX | RX | DISCONNECT)
    __raised = State(int, TX)  # conditions that hold, and were told

    # What a model has.

    def written(self, data: bytes) -> int:
        """The guest wrote *data*: how much of it is taken now."""
        raise NotImplementedError

    def drained(self) -> None:
        """The guest has read: there is `space` again."""

    @property
    def space(self) -> int:
        """How many bytes `send` would take."""
        return BUFFER - len(self.__rx)

    def send(self, data: bytes) -> int:
        """Give *data* to the guest: how much of it fitted."""
        data = data[: self.space]
        self.__rx += data
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

    def flushed(self, more: int = 0) -> None:
        """For a `sync`: all that the guest wrote was taken, and *more* bytes than are here are not under way.

        Errors: WouldBlock, and tx_ready comes when there is another answer; IoError if the other end went before.
        """
        waiting = len(self.__tx) + more
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
        super().renew(used)
        if used:
            self.__update()
            self.drained()

    # What the guest sees.

    def read(self, into: Room, at: int) -> int:
        """Bytes that wait; 0 is the end of the stream.  Errors: WouldBlock."""
        if not self.__rx:
            if self.__closed or not into.nbytes:
                return 0
            raise WouldBlock("nothing has come: wait for rx_ready")
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
            raise IoError("the other end is gone")
        if self.__tx:
            room = BUFFER - len(self.__tx)
            if not room:
                raise WouldBlock("no room: wait for tx_ready")
            self.__tx += (taken := _head(data, room))
            self.transmit()
            return len(taken)
        taken = _head(data, BUFFER)
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
        else:
            raise BadArgument(f"parameter {param} cannot be set to {value}")
        self.__update()

    def __conditions(self) -> int:
        tx = TX if BUFFER - len(self.__tx) >= self.__triggers[Param.TX_TRIGGER] or self.__closed else 0
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


def _head(data: Data, count: int) -> bytes:
    """Up to *count* bytes from the start."""
    if data.nbytes <= count:
        return data.get()
    pieces = []
    for piece in data:
        pieces.append(bytes(piece[:count]))
        count -= len(pieces[-1])
    return b"".join(pieces)
