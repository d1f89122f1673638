"""A printer: a stream of bytes in one direction, cut into jobs, each of which is spooled whole, once, or not at all.

Status, soft reset, device id and abort mode are those of Linux's printer drivers (drivers/usb/class/usblp.c, lp.h).
"""

import errno
from pathlib import Path
from typing import Final, NamedTuple

from hcall.errors import Busy, HcallError, IoError, NoSpace, NotAllowed, WouldBlock
from hostd.backings.spool import Spool
from hostd.device import Config, Data, Irq, Property, State, action, call
from hostd.stream import Stream

# linux/lp.h
NOT_ERROR: Final = 0x08
SELECTED: Final = 0x10
PAPER_OUT: Final = 0x20
BUSY: Final = 0x80

_MAX_ID: Final = 1024 - 2  # bytes, after a length of two
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DeviceId(str):
    """What a printer says it is, IEEE 1284-2000, 7.6."""

    @classmethod
    def parse(cls, text: str, folder: Path) -> "DeviceId":
        """Such as "MFG:hostd;MDL:printer;".  Raises ValueError."""
        if not text.isascii() or not text.isprintable() or not text.endswith(";") or len(text) > _MAX_ID:
            raise ValueError(f'{text[:40]!r} is no device id: ASCII such as "MFG:me;MDL:mine;", up to {_MAX_ID} bytes')
        return cls(text)


class _Broken(NamedTuple):
    """Why a job cannot become one."""

    is_full: bool  # there is no room for it
    text: str

    @property
    def error(self) -> HcallError:
        """As a guest is told."""
        return (NoSpace if self.is_full else IoError)(self.text)


class Printer(Stream):
    """A job begins with its first byte, and ends with `finish`; one that a guest leaves unfinished is dropped."""

    compatible, ids = "hostd,printer", (0x1AF4, 0x10F2)
    class_code = 0x070100  # a parallel port
    spool = Config(Spool, help="where jobs go: spool:FOLDER, or socket://HOST:PORT for a raw print queue")
    device_id = Config(DeviceId, "MFG:hostd;MDL:printer;CMD:RAW;CLS:PRINTER;", help="IEEE 1284 device id")
    max_job = Config(int, 64 << 20, help="bytes; a longer job fails", bounds=range(1, 1 << 40))
    endpoint = Property(str)
    job_ended, status_changed = Irq(), Irq()
    _paper, _online = State(bool, True, kept=True), State(bool, True, kept=True)
    _size = State(int, -1)  # bytes of the job that are spooled; -1: none has begun
    _ending, _handed_on = State(bool), State(bool)  # a job was finished; it is on its way
    _broken = State(_Broken, None)  # why the job that is written cannot become one
    _failed = State(bool)  # so has the last one
    _number = State(int)  # of the last job that was finished
    _outcome = State(str)
    _aborts = State(bool)

    def start(self) -> None:
        self.spool.start(self)
        self.endpoint = self.spool.endpoint

    def stop(self) -> None:
        self.spool.stop()

    def reset(self) -> None:
        self.spool.drop()

    @property
    def _feeds(self) -> bool:
        return self._paper and self._online

    # Towards the spool.

    def written(self, data: bytes) -> int:
        if not self._feeds:
            return 0
        if self._size < 0:
            if not self.spool.is_ready:
                return 0
            self._size = 0
            self._failed = False
            self.spool.begin()
        if self._size + len(data) > self.max_job:
            self.failed(OSError(errno.EFBIG, f"a job has {self.max_job} bytes at most"))
        taken = self.spool.write(data) if self._size >= 0 else 0
        if self._size < 0:  # it has failed, and takes all
            return len(data)
        self._size += taken
        return taken

    def failed(self, error: OSError) -> None:
        """For the spool: the job can never be whole; what is still to come of it goes nowhere."""
        self.spool.drop()
        self.forget()
        if self._ending:
            self.ended(error)
        else:
            text = _reason(error)
            self.complain(f"{self.endpoint}: a job has failed: {text}")
            self._size, self._broken = -1, _Broken(error.errno in _FULL, text)
            self.status_changed()

    def transmit(self) -> None:
        super().transmit()
        if self._ending and not self.waiting and not self._handed_on:
            self._handed_on = True
            self.spool.finish()

    def ended(self, error: OSError | None) -> None:
        """For the spool: the finished job is where it belongs, or *error* says why not."""
        self._size = -1
        self._ending = self._handed_on = False
        self._failed = error is not None
        self._outcome = ""
        if error is not None:
            self._outcome = _reason(error)
            self.complain(f"{self.endpoint}: a job has failed: {self._outcome}")
            self.status_changed()
        self.job_ended()

    # What the guest sees.

    def write(self, data: Data, at: int) -> int:
        """More of a job.  Errors: WouldBlock, Busy, IoError or NoSpace if the job cannot be spooled."""
        self._raise_if_broken()
        if self._ending:
            raise Busy("the job before is on its way: wait for job_ended")
        self._raise_if_aborting()
        count = super().write(data, at)
        self._raise_if_broken()
        return count

    def _raise_if_broken(self) -> None:
        if self._broken is not None:
            raise self._broken.error

    def _raise_if_aborting(self) -> None:
        if self._aborts and not self._feeds:
            raise IoError("offline" if self._paper else "out of paper")

    @call
    def finish(self) -> int:
        """The job is complete: its number, 1 for the first.  `outcome` tells how it went, after `job_ended`."""
        if self._broken is not None:
            broken, self._broken = self._broken, None
            self._failed = True
            raise broken.error
        if self._ending:
            raise Busy("the job before is on its way: wait for job_ended")
        if self._size < 0 and not self.waiting:
            raise NotAllowed("no job has begun: write comes first")
        if self.waiting:
            self._raise_if_aborting()
        self._number += 1
        self._ending = True
        self.transmit()
        return self._number

    @call(again=True)
    def outcome(self) -> tuple[int, str]:
        """Number of the last job, and "" if it is spooled, else why not.  Errors: WouldBlock, NotAllowed."""
        if self._ending:
            raise WouldBlock("the job is on its way: wait for job_ended")
        if not self._number:
            raise NotAllowed("no job was finished")
        return self._number, self._outcome

    @call
    def soft_reset(self) -> None:
        """Drop the job that is being written, or is on its way, and what failed before."""
        if not self.spool.lands:
            self.spool.drop()
            self.forget()
            self._size = -1
            if self._ending:
                self.ended(OSError(errno.ECANCELED, "dropped by a soft reset"))
        self._broken, self._failed = None, False
        self.transmit()

    @call(again=True)
    def status(self) -> int:
        """Not-error 0x08, selected 0x10, paper-out 0x20, busy 0x80; 0x18 is a printer that waits for a job."""
        good = NOT_ERROR if self._broken is None and not self._failed else 0
        selected = SELECTED if self._online else 0
        paper_out = 0 if self._paper else PAPER_OUT
        return good | selected | paper_out | (BUSY if self._ending or not self._feeds else 0)

    @call(again=True)
    def get_device_id(self) -> bytes:
        """What it is: two bytes of length, which counts them, too, and text such as MFG:hostd;MDL:printer;"""
        return (len(self.device_id) + 2).to_bytes(2, "big") + self.device_id.encode()

    @call
    def set_abort_mode(self, on: bool) -> None:
        """Whether a write fails while there is no paper, or the printer is offline, rather than wait."""
        self._aborts = on

    # What the host's user does.

    @action
    def paper_out(self) -> None:
        """The last sheet is gone."""
        self._panel(paper=False, online=self._online)

    @action
    def load_paper(self) -> None:
        """There is paper again: what waited is printed."""
        self._panel(paper=True, online=self._online)

    @action
    def offline(self) -> None:
        """Take it from the line."""
        self._panel(paper=self._paper, online=False)

    @action
    def online(self) -> None:
        """Put it on the line again."""
        self._panel(paper=self._paper, online=True)

    def _panel(self, paper: bool, online: bool) -> None:
        if (paper, online) != (self._paper, self._online):
            self._paper, self._online = paper, online
            self.status_changed()
            self.transmit()


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or "the spool failed"
