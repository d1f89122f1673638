"""A stream with a backing behind it: base of the console and the tty."""

import logging

from hcall.errors import IoError, WouldBlock

from hostd.backings.named import AnyBacking
from hostd.device import Config, Property, call
from hostd.stream import Stream

log = logging.getLogger(__name__)


class BackedStream(Stream):
    """Gives its backing what the guest writes, and the guest what the backing has; a reset is one of both."""

    backing = Config(AnyBacking, "pty:", help="pty:, cmd:COMMAND, unix:PATH, tcp:HOST:PORT, ...: see docs/endpoints.md")
    endpoint = Property(str)
    _syncing = False  # the guest waits until nothing does in the transmit buffer

    def start(self) -> None:
        super().start()
        self.backing.start(self)
        self.endpoint = self.backing.endpoint

    def stop(self) -> None:
        self.backing.stop()

    def clear(self) -> None:
        super().clear()
        self.backing.reset()
        self.endpoint = self.backing.endpoint

    def tick(self) -> None:
        self.backing.tick()

    def written(self, data: bytes) -> int:
        try:
            return self.backing.write(data)
        except OSError as error:
            log.error("%s: %s", self.endpoint, error)
            self.hang_up()
            return 0

    def drained(self) -> None:
        self.backing.resume()

    def parted(self) -> None:
        """The guest sees no end: it talks on with whoever comes."""

    def sync(self) -> None:
        """All that was written has been passed on; a reset drops what has not.

        Errors: WouldBlock, and tx_ready comes when there is another answer; IoError if the other end went before.
        """
        if self._tx and self._closed:
            raise IoError(f"the other end is gone: {len(self._tx)} bytes have not reached it")
        if self._tx:
            self._syncing = True
            raise WouldBlock(f"{len(self._tx)} bytes wait: wait for tx_ready")

    def _update(self) -> None:
        super()._update()
        if self._syncing and (self._closed or not self._tx):
            self._syncing = False
            self.tx_ready()

    @call
    def send_break(self) -> None:
        """A break on the line: in a terminal, the foreground processes get SIGINT."""
        self.touch()
        self.backing.send_break()
