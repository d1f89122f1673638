"""Driver of the printer."""

from guestd.driver import Taking
from guestd.stream import Op, Signal, StreamDriver
from hcall.errors import HcallError, IoError, WouldBlock


class PrinterDriver(StreamDriver):
    """`print_job` does it all; else write a job with `write_all`, then `finish` it, and learn its `outcome`."""

    compatible = ("hostd,printer",)
    ids = ((0x1AF4, 0x10F2),)
    finish = Op[[], int]()  # the job's number
    outcome = Op[[], tuple[int, str]]()  # of the last job: its number, and "" or why it failed
    soft_reset = Op[[], None]()
    status = Op[[], int]()  # 0x08 not-error, 0x10 selected, 0x20 paper-out, 0x80 busy
    get_device_id = Op[[], bytes]()  # with its length in front
    set_abort_mode = Op[[bool], None]()
    job_ended, status_changed = Signal(), Signal()

    async def probe(self) -> None:
        await super().probe()
        self._one_job = self.dev.lock()
        self._half = False  # a job was begun, and is not finished
        self._on_its_way = False  # one was finished, and nobody knows how it ended
        self._finishing: Taking[None] = Taking(self.dev)

    async def device_id(self) -> dict[str, str]:
        """What the printer is, by key, such as MFG and MDL (IEEE 1284)."""
        text = (await self.get_device_id())[2:].decode("ascii", "replace")
        return dict(field.split(":", 1) for field in text.split(";") if ":" in field)

    async def print_job(self, data: bytes) -> int:
        """Print *data* as one job, and wait until it is spooled: its number.  Those who ask at once have their turns.

        Errors: IoError if it is not, and the error of the write that failed; the printer is free again then.  What
        somebody has begun who is cancelled is dropped before the next one.
        """
        async with self._one_job:
            await self._clear()
            self._half = True
            try:
                await self.write_all(data)
            except HcallError:
                await self.soft_reset()
                self._half = False
                raise
            return await self.end_job()

    async def _clear(self) -> None:
        """What a job has left whose sender gave up: the half of one is none, and one that is complete is waited for."""
        while self._finishing.left:
            number, _ = await self._finishing.take_up()
            if not isinstance(number, HcallError):
                self._half, self._on_its_way = False, True
        if self._on_its_way:
            await self.ended()
        if self._half:
            await self.soft_reset()
            self._half = False

    async def settle(self) -> None:
        await self.end_job()

    async def end_job(self) -> int:
        """What was written is a job: wait until it is spooled; its number.  Errors: as `print_job`."""
        try:
            number = await self._finishing.call(None, self.finish)
        except HcallError:
            await self.soft_reset()
            self._half = False
            raise
        self._half, self._on_its_way = False, True
        if reason := await self.ended():
            raise IoError(f"job {number}: {reason}")
        return number

    async def ended(self) -> str:
        """Wait until the job that was finished has ended: "", or why it failed."""
        while True:
            try:
                _, reason = await self.outcome()
                self._on_its_way = False
                return reason
            except WouldBlock:
                await self.job_ended.wait()
