"""A console: a stream with a terminal, or something like one, at its other end."""

from hcall.errors import BadArgument
from hostd.backings.stream import BackedStream
from hostd.device import Irq, State, call


class Console(BackedStream):
    """A terminal for the guest; buffers, triggers, masks and short counts are Stream's."""

    compatible, ids = "hostd,console", (0x1AF4, 0x1043)
    class_code = 0x078000  # a communication controller
    resized = Irq()
    _size = State(tuple[int, int], (0, 0))  # that the guest knows

    def start(self) -> None:
        super().start()
        self._size = self.backing.winsize()

    def reset(self) -> None:
        self._size = self.backing.winsize()

    def tick(self) -> None:
        """A pty's size changes at its other end, without a word."""
        super().tick()
        if self.backing.winsize() != self._size:
            self._size = self.backing.winsize()
            self.resized()

    @call(again=True)
    def winsize(self) -> tuple[int, int]:
        """Columns and rows; (0, 0) = not known."""
        return self.backing.winsize()

    @call
    def set_winsize(self, columns: int, rows: int) -> None:
        """The guest is the terminal: tell the host's side its size."""
        if not (0 < columns < 1 << 16 and 0 < rows < 1 << 16):
            raise BadArgument(f"{columns} x {rows} is no size of a terminal")
        self.backing.set_winsize(columns, rows)
        self._size = self.backing.winsize()

    @call(early=True)
    def emergency_write(self, byte: int) -> None:
        """One byte past all buffers; works before any set-up (virtio 1.2, 5.3.4, emerg_wr)."""
        if not 0 <= byte < 256:
            raise BadArgument(f"{byte} is no byte")
        self.backing.write(bytes([byte]))
