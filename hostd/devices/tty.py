"""A serial port: a stream with a speed and breaks; a machine has as many as it has tables with this model."""

from hcall.errors import BadArgument
from hostd.backings.stream import BackedStream
from hostd.device import Config, Irq, Property, Saved, State, action, call

_MAX_BAUD = 4_000_000  # the highest that Linux has a name for, B4000000


class Tty(BackedStream):
    """One serial port; buffers, triggers, masks and short counts are Stream's."""

    compatible, ids = "hostd,tty", (0x1AF4, 0x10F0)
    class_code = 0x070000  # a serial controller
    name = Config(str, "", help="what the port is for, such as gps")
    baud = Config(int, 115200, "its speed in bits a second, until a guest sets another", range(1, _MAX_BAUD + 1))
    label = Property(str)  # the key `name`
    current_speed = Property(int)  # Devicetree Specification 0.4, 4.2.1.2
    break_received = Irq()
    _speed = State(int, lambda tty: tty.baud)

    def start(self) -> None:
        super().start()
        self.label = self.name
        self._run()

    def reset(self) -> None:
        self._run()

    def load(self, saved: Saved) -> None:
        super().load(saved)
        self._run()

    def _run(self) -> None:
        self.backing.set_speed(self._speed)
        self.current_speed = self._speed

    @call
    def set_baud(self, baud: int) -> None:
        """Change the speed, 1 to 4,000,000, until the next guest: a terminal behind the port shows it."""
        if not 0 < baud <= _MAX_BAUD:
            raise BadArgument(f"{baud} is no speed: 1 to {_MAX_BAUD}")
        self._speed = baud
        self._run()

    @action
    def receive_break(self) -> None:
        """A break comes in on the line: the guest gets the interrupt break_received."""
        self.break_received()
