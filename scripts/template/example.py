"""The host's side: a counter that rings when a round is full."""

from hcall.errors import BadArgument
from hostd.device import Config, Device, Irq, Property, State, call


class Example(Device):
    """Counts up, and interrupts when a round is full."""

    compatible = "example,example"
    steps = Config(int, 10, help="of one round")  # a key of the machine file
    round_size = Property(int)  # shows in the device tree
    round_full = Irq()  # self.round_full() raises it
    value = State(int, 0)  # each guest finds it so: nothing of one is left for the next

    def start(self) -> None:
        if self.steps < 1:
            raise ValueError("steps must be 1 or more")
        self.round_size = self.steps

    @call
    def count(self, steps: int) -> int:
        """Go on by *steps*, 0 or more; where the counter stands then.  Errors: BadArgument."""
        if steps < 0:
            raise BadArgument(f"{steps} steps: a counter only goes up")
        rounds = self.value // self.steps
        self.value += steps
        if self.value // self.steps > rounds:
            self.round_full()
        return self.value
