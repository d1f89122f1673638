"""Driver of the console."""

from guestd.stream import Op, Signal, StreamDriver


class ConsoleDriver(StreamDriver):
    """Read, write, flow control and masking are StreamDriver's."""

    compatible = ("hostd,console",)
    ids = ((0x1AF4, 0x1043),)
    winsize = Op[[], tuple[int, int]]()  # columns, rows
    set_winsize = Op[[int, int], None]()
    send_break = Op[[], None]()
    emergency_write = Op[[int], None]()  # one byte, past all buffers
    resized = Signal()
