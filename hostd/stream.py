"""The vuart: a device that is two pipes, with buffers, triggers and three interrupts.

After the virtual UART of the PlayStation 3 hypervisor (Linux drivers/ps3/ps3-vuart.c).  A vector counts how often its
condition was found true: when it becomes true, and when it is enabled while true, in the interrupt mask or by
DRIVER_OK.  So a driver works until WOULD_BLOCK, and only then waits.
"""

from __future__ import annotations

from typing import Final

from hcall.errors import BadArgument, IoError, WouldBlock
from hcall.formats.vuart import DISCONNECT, RX, TX, Param

from .device import Data, Device, Irq, Room, call

__all__ = ["Stream"]

BUFFER: Final = 64 * 1024  # bytes each way


class Stream(Device):
    """Base of the models that are a plain bidirectional stream.

    Towards the guest a model calls `send` and is asked for more by `drained`; what the guest wrote comes to `written`,
    which may take less than all: flow control, until `transmit` is called.
    """

    rx_ready, tx_ready, disconnected = Irq(), Irq(), Irq()

    def start(self) -> None:
        """Begin with empty buffers."""
        Stream.clear(self)

    # What a model has.

    def touch(self) -> None:
        """For every call of the model's own that changes something: a reset `clear`s only what was touched."""
        self._touched = True

    def written(self, data: bytes) -> int:
        """The guest wrote *data*: how much of it is taken now."""
        raise NotImplementedError

    def drained(self) -> None:
        """The guest has read: there is `space` again."""

    @property
    def space(self) -> int:
        """How many bytes `send` would take."""
        return BUFFER - len(self._rx)

    def send(self, data: bytes) -> int:
        """Give *data* to the guest: how much of it fitted."""
        data = data[: self.space]
        self._rx += data
        self._came()
        return len(data)

    def transmit(self) -> None:
        """The model takes bytes again: what waited goes to `written`."""
        while self._tx and not self._closed:
            taken = self.written(bytes(self._tx))
            if not taken:
                break
            del self._tx[:taken]
        self._update()

    def hang_up(self) -> None:
        """The other end is gone: the guest reads what is left, then the end; what it wrote and nobody took is lost."""
        self._closed = True
        self._came()

    def ready(self) -> None:
        """What is true already is told."""
        self._raised = 0
        self._update()

    def reset(self) -> None:
        """As after power-on; what came in before anybody looked is kept."""
        if self._touched:
            self.clear()
            self._update()
            self.drained()

    def clear(self) -> None:
        """Nothing of one guest is visible to the next."""
        self._rx, self._tx = bytearray(), bytearray()
        self._touched = self._closed = False
        self._triggers = [1, BUFFER - 1]  # one byte of room, one byte that waits
        self._enabled = TX | RX | DISCONNECT
        self._raised = TX  # conditions that hold, and were told

    # What the guest sees.

    def read(self, into: Room, at: int) -> int:
        """Bytes that wait; 0 is the end of the stream.  Errors: WouldBlock."""
        self.touch()
        if not self._rx:
            if self._closed or not into.nbytes:
                return 0
            raise WouldBlock("nothing has come: wait for rx_ready")
        if len(self._rx) <= into.nbytes:
            count = into.put(bytes(self._rx))
            self._rx.clear()
        else:
            count = into.put(bytes(self._rx[: into.nbytes]))
            del self._rx[:count]
        self._update()
        self.drained()
        return count

    def write(self, data: Data, at: int) -> int:
        """Take as much as there is room for.  Errors: WouldBlock, IoError after the other end is gone."""
        self.touch()
        if self._closed:
            raise IoError("the other end is gone")
        if self._tx:
            room = BUFFER - len(self._tx)
            if not room:
                raise WouldBlock("no room: wait for tx_ready")
            self._tx += (taken := _head(data, room))
            self.transmit()
            return len(taken)
        taken = _head(data, BUFFER)
        passed = self.written(taken) if taken else 0  # most often all of it, and nothing has to be kept
        if passed < len(taken):
            self._tx += taken[passed:]
            self._update()
        return len(taken)

    @call
    def get_param(self, param: int) -> int:
        """A parameter of the port, see `Param`.  Errors: BadArgument."""
        if param == Param.TX_TRIGGER or param == Param.RX_TRIGGER:
            return self._triggers[param]
        values = {
            Param.INTERRUPT_MASK: self._enabled, Param.RX_BUF_SIZE: BUFFER, Param.RX_BYTES: len(self._rx),
            Param.TX_BUF_SIZE: BUFFER, Param.TX_BYTES: len(self._tx), Param.INTERRUPT_STATUS: self._conditions(),
        }  # fmt: skip
        if param not in values:
            raise BadArgument(f"a port has the parameters 0 to {max(Param)}, not {param}")
        return values[Param(param)]

    @call
    def set_param(self, param: int, value: int) -> None:
        """Set a trigger, 1 to the buffer's size for TX, 0 to below it for RX, or the mask.  Errors: BadArgument."""
        self.touch()
        if param == Param.INTERRUPT_MASK and 0 <= value <= TX | RX | DISCONNECT:
            self._raised &= value  # what is enabled anew while true is told
            self._enabled = value
        elif param in (Param.TX_TRIGGER, Param.RX_TRIGGER) and 0 <= value - (param == Param.TX_TRIGGER) < BUFFER:
            self._triggers[param] = value
        else:
            raise BadArgument(f"parameter {param} cannot be set to {value}")
        self._update()

    def _conditions(self) -> int:
        tx = TX if BUFFER - len(self._tx) >= self._triggers[Param.TX_TRIGGER] or self._closed else 0
        rx = RX if self.space <= self._triggers[Param.RX_TRIGGER] or self._closed else 0
        return tx | rx | (DISCONNECT if self._closed else 0)

    def _came(self) -> None:
        """Something from the other end: for the guest that is there, and not for the next; or kept for the first."""
        if self.openers:
            self.touch()
        self._update()

    def _update(self) -> None:
        """Raise the interrupts whose condition has become true."""
        conditions = self._conditions()
        fresh = conditions & ~self._raised & self._enabled
        self._raised = conditions & (self._raised | fresh)
        if fresh & RX:
            self.rx_ready()
        if fresh & TX:
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
