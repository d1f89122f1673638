"""A console: a stream with a terminal, or something like one, at its other end."""

import logging

from hostd.backing import Backing
from hostd.device import Config, Irq, Property, call
from hostd.stream import Stream
from protocol.errors import BadArgument

log = logging.getLogger(__name__)


class Console(Stream):
    """Buffers, triggers, masks and short counts are Stream's."""

    compatible, ids = "hostd,console", (0x1AF4, 0x1043)
    backing = Config(Backing, "pty:", help="pty: or pty:LINK, cmd:COMMAND, file:PATH")
    endpoint = Property(str)
    resized = Irq()

    def start(self) -> None:
        super().start()
        self._size = (0, 0)
        self.backing.start(self)
        self._look()

    def stop(self) -> None:
        self.backing.stop()

    def clear(self) -> None:
        super().clear()
        self.backing.reset()
        self._look()

    def _look(self) -> None:
        self.endpoint = self.backing.endpoint
        self._size = self.backing.winsize()

    def tick(self) -> None:
        """A pty's size changes at its other end, without a word."""
        if self.backing.winsize() != self._size:
            self._look()
            self.resized()

    def written(self, data: bytes) -> int:
        try:
            return self.backing.write(data)
        except OSError as error:
            log.error("%s: %s", self.endpoint, error)
            self.hang_up()
            return 0

    def drained(self) -> None:
        self.backing.resume()

    @call
    def winsize(self) -> tuple[int, int]:
        """Columns and rows; (0, 0) = not known."""
        return self.backing.winsize()

    @call
    def set_winsize(self, columns: int, rows: int) -> None:
        """The guest is the terminal: tell the host's side its size."""
        if not (0 < columns < 1 << 16 and 0 < rows < 1 << 16):
            raise BadArgument(f"{columns} x {rows} is no size of a terminal")
        self.touch()
        self.backing.set_winsize(columns, rows)
        self._look()

    @call
    def send_break(self) -> None:
        """A break on the line: the host's foreground processes get SIGINT."""
        self.touch()
        self.backing.send_break()

    @call(early=True)
    def emergency_write(self, byte: int) -> None:
        """One byte past all buffers; works before any set-up (virtio 1.2, 5.3.4, emerg_wr)."""
        if not 0 <= byte < 256:
            raise BadArgument(f"{byte} is no byte")
        self.touch()
        self.backing.write(bytes([byte]))
