"""A stream with a backing behind it: base of the console and the tty."""

from hostd.backings.named import AnyBacking
from hostd.device import Config, Property, Room, call
from hostd.stream import Stream


class BackedStream(
    Stream, leaves=("backing", "written", "drained", "parted", "failed", "sync", "send_break"), extends=("revert",)
):
    """Gives its backing what the guest writes, and the guest what the backing has; a reset is one of both."""

    backing = Config(AnyBacking, "pty:", help="pty:, cmd:COMMAND, unix:PATH, tcp:HOST:PORT, ...: see docs/endpoints.md")
    endpoint = Property(str)
    lends = True

    def start(self) -> None:
        super().start()
        self.backing.start(self)
        self.endpoint = self.backing.endpoint

    def stop(self) -> None:
        self.backing.stop()

    def revert(self, used: bool) -> None:
        """As of any device, and what stands behind it is another guest's from now on.  For the host."""
        super().revert(used)
        if used:
            self.backing.reset()
            self.endpoint = self.backing.endpoint

    def tick(self) -> None:
        self.backing.tick()

    def written(self, data: bytes | memoryview) -> int:
        try:
            return self.backing.write(data)
        except OSError as error:
            self.failed(error)
            return 0

    def failed(self, error: Exception) -> None:
        """What stands behind it takes nothing more, and has lost what it took."""
        self.complain(f"{self.endpoint}: {error}")
        self.hang_up()

    def fetch(self, into: Room) -> int:
        return self.backing.fetch(into)

    def drained(self) -> None:
        self.backing.resume()

    def parted(self) -> None:
        """The guest sees no end: it talks on with whoever comes."""

    def sync(self) -> None:
        """All that was written has been passed on; a reset drops what has not.

        Errors: WouldBlock, and tx_ready comes when there is another answer; IoError if the other end went before.
        """
        self.flushed(self.backing.unwritten)

    @call
    def send_break(self) -> None:
        """A break on the line: in a terminal, the foreground processes get SIGINT."""
        self.backing.send_break()
