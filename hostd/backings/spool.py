"""Where the jobs of a printer go.

spool:FOLDER         each job is a file in the folder, job-000001, job-000002, ...; the folder is made if it is missing
socket://HOST:PORT   each job is a connection to a print queue that takes it raw, as most printers do at port 9100

A job is kept in a file of its own until it is complete: half a job never gets anywhere, and none is sent twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import tempfile
import threading
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from hcall.clock import Clock
from hcall.programs.endpoint import Kind, host_and_port, split
from hcall.saved import Saved
from hostd.backing import Carried

from .parts.delivery import Delivery, os_error
from .parts.in_order import InOrder, Sink, may_wait

_FOLDER: Final = Kind("spool:", "FOLDER")
_QUEUE: Final = Kind("socket://", "HOST:PORT")
_CHUNK: Final = 64 * 1024
_LOST: Final = "the host was restarted while the job was on its way: it may have been printed, or not"


class Printer(Protocol):
    """What the jobs come from."""

    clock: Clock

    def ended(self, error: OSError | None) -> None:
        """The job that was finished is where it belongs, or *error* says why not."""

    def failed(self, error: OSError) -> None:
        """The job that is being written can never be whole."""

    def transmit(self) -> None:
        """The spool takes more again."""


class _Job(Sink):
    """A job and its file: for whoever may wait."""

    def __init__(self, name: str) -> None:
        """*name* is that of its file, until it is complete."""
        self.name = name
        self._lock = threading.Lock()  # of what follows; never held for long
        self._unwanted = self._lands = False

    def open(self, opened: Callable[[str], int]) -> None:
        """*opened* makes its file.  Raises OSError."""
        try:
            self.fd = opened(self.name)
        except OSError as error:
            self.error = error
            raise

    def keep(self) -> bool:
        """It goes where it belongs now, and `unwant` comes too late; False if that came before."""
        with self._lock:
            self._lands = not self._unwanted
            return self._lands

    def unwant(self) -> bool:
        """It goes nowhere; False if it is on its way, or there."""
        with self._lock:
            self._unwanted = not self._lands
            return self._unwanted

    def close(self) -> None:
        """Its file."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


class Spool(Carried):
    """Base: the job that is being written, which is carried over with its file.  There is one at a time.

    What may wait for a filesystem is done by a thread, in order, if it is not known that nothing waits there.
    """

    endpoint: str  # for people
    _job: _Job | None = None
    _legator: socket.socket | None = None  # whoever is at the job still, in another life
    _finishing = _ended = False

    def __init__(self) -> None:
        self._order = InOrder("spool:", waits=False)

    @classmethod
    def parse(cls, text: str, folder: Path) -> Spool:
        """The spool that *text* names.  Raises ValueError with what is allowed."""
        kind, rest = split(text, (_FOLDER, _QUEUE), "spool")
        if kind is _FOLDER:
            return Folder(folder / rest)
        host, port = host_and_port(rest)
        if not port:
            raise ValueError(f"{text!r} has no port; that of most printers is 9100")
        return Queue(host, port)

    def start(self, printer: Printer) -> None:
        """Raises OSError."""
        self._printer = printer
        self._order = InOrder("spool:", self._waits())
        if self._legator is not None and self._job is not None:
            legator, self._legator = self._legator, None
            self._order.inherit(
                self._job, legator, 0, partial(self._over if self._finishing else self._written, self._job)
            )

    def _waits(self) -> bool:
        """Whether that is so where jobs are kept.  Raises OSError."""
        raise NotImplementedError

    def save(self) -> tuple[Saved, Sequence[int]]:
        if self._job is None:
            return {}, ()
        heir = self._order.heir(self._job)
        known = {"part": self._job.name, "finishing": self._finishing, "heard": bool(heir)}
        return known, heir or (self._job.fd,)

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        for fd in fds:
            self._job, self._finishing = _Job(saved["part"]), saved["finishing"]
            if self._finishing:
                self._job.keep()
            if saved["heard"]:
                self._legator = socket.socket(fileno=fd)
            else:
                self._job.fd = fd

    def cede(self) -> None:
        self._let_go(_Job.close)

    def stop(self) -> None:
        """Drop the job, and end; nobody waits for that."""
        self._ended = True
        self.drop()
        self._order.close()
        if self._legator is not None:
            self._legator.close()

    def _opened(self, name: str) -> int:
        """A new file for a job.  Raises OSError."""
        raise NotImplementedError

    @property
    def is_ready(self) -> bool:
        """Whether a job may begin; if not, `Printer.transmit` says when."""
        return self._order.is_idle

    def begin(self) -> None:
        """A job begins, when `is_ready`.  What goes wrong with it, `Printer.failed` tells, now or later."""
        self._job = job = _Job(f".hostd-{uuid.uuid4().hex}.part")
        self._order.do(partial(job.open, self._opened), partial(self._written, job))

    def write(self, data: bytes) -> int:
        """More of the job: how much of it is taken; if not all, `Printer.transmit` says when there is room again."""
        return 0 if self._job is None else self._order.append(self._job.write, data, partial(self._written, self._job))

    def _written(self, job: _Job, outcome: object) -> None:
        if job is not self._job:
            return
        if isinstance(outcome, Exception):
            self._printer.failed(os_error(outcome))
        elif self._order.waits:
            self._printer.transmit()

    def finish(self) -> None:
        """The job is complete: `Printer.ended` is called, now or later."""
        raise NotImplementedError

    @property
    def lands(self) -> bool:
        """Whether the job that was finished cannot be dropped any more: `Printer.ended` is about to be called."""
        return self._job is not None and self._finishing and not self._job.unwant()

    def drop(self) -> None:
        """Forget the job, if there is one, and leave nothing of it, unless it lands."""
        if self._job is not None:
            self._job.unwant()
        self._let_go(self._remove)

    def _let_go(self, how: Callable[[_Job], None]) -> None:
        job, self._job, self._finishing = self._job, None, False
        if job is not None:
            self._order.forget()
            self._order.do(partial(how, job), self._through)  # of a disk that is full: there is nothing to lose

    def _through(self, _: object) -> None:
        if self._order.waits and not self._ended:
            self._printer.transmit()

    def _remove(self, job: _Job) -> None:
        job.close()

    def _over(self, job: _Job, outcome: object) -> None:
        """The job that was finished is where it belongs, or *outcome* is an error."""
        if job is self._job:
            self.drop()
            self._printer.ended(os_error(outcome) if isinstance(outcome, Exception) else None)


class Folder(Spool):
    """A file for each job, linked to its name when it is complete."""

    _next = 1  # number of a job

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder, self.endpoint = folder, str(folder)

    def start(self, printer: Printer) -> None:
        heir = self._legator is not None
        if not heir:
            self._look()
        super().start(printer)
        if heir:  # another life is at work there
            self._order.do(self._look)

    def _look(self) -> None:
        """At what is there, and take away what nobody wants."""
        self._folder.mkdir(exist_ok=True)
        for part in self._folder.glob(".hostd-*.part"):
            _remove_if_stale(part)
        taken = [path.name[4:] for path in self._folder.glob("job-*")]
        self._next = 1 + max((int(number) for number in taken if number.isdecimal()), default=0)

    def _waits(self) -> bool:
        return _may_wait_in(self._folder)

    def _opened(self, name: str) -> int:
        fd = os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # somebody is at it
        return fd

    def finish(self) -> None:
        assert self._job is not None
        self._finishing = True
        self._order.do(partial(self._land, self._job), partial(self._over, self._job))

    def _land(self, job: _Job) -> None:
        """Give it the next name: unlike a rename this replaces no other printer's job."""
        try:
            job.check()
            os.close(os.dup(job.fd))  # some filesystems tell only now; the file stays locked
            while job.keep():
                try:
                    os.link(self._folder / job.name, self._folder / f"job-{self._next:06}")
                    return
                except FileExistsError:
                    pass
                finally:
                    self._next += 1
        except OSError as error:
            job.error = error  # for another life
            raise

    def _remove(self, job: _Job) -> None:
        with contextlib.suppress(OSError):  # the folder is gone, or there never was a file
            (self._folder / job.name).unlink()
        super()._remove(job)


class Queue(Spool):
    """A connection for each job."""

    _delivery: Delivery | None = None
    _lost = False  # the one of the spool that was saved

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._address = host, port
        self.endpoint = f"{host}:{port}"

    def save(self) -> tuple[Saved, Sequence[int]]:
        """A job that is on its way cannot be taken over: half of it may be there, and none is sent twice."""
        return ({"lost": True}, ()) if self._delivery is not None else super().save()

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        super().adopt(saved, fds)
        self._lost = "lost" in saved

    def start(self, printer: Printer) -> None:
        super().start(printer)
        if self._lost:
            asyncio.get_running_loop().call_soon(self._printer.ended, OSError(errno.EINTR, _LOST))

    def cede(self) -> None:
        if self._delivery is not None:
            self.drop()
        super().cede()

    def _waits(self) -> bool:
        return _may_wait_in(Path(tempfile.gettempdir()))

    def _opened(self, name: str) -> int:
        with tempfile.TemporaryFile(buffering=0) as file:  # until the job has ended
            return os.dup(file.fileno())

    def finish(self) -> None:
        assert self._job is not None
        read, clock = partial(self._read, self._job), self._printer.clock
        self._delivery = Delivery(self.delivered, read, self._order.waits, self._address, clock)

    def _read(self, job: _Job, at: int, then: Callable[[bytes | Exception], None]) -> None:
        """Give *then* what the job has from that byte on."""

        def read() -> bytes:
            job.check()
            return os.pread(job.fd, _CHUNK, at)

        self._order.do(read, then)

    def delivered(self, error: OSError | None) -> None:
        """For the delivery: it is over."""
        self._delivery = None
        self.drop()
        self._printer.ended(error)

    def drop(self) -> None:
        if self._delivery is not None:
            self._delivery.abort()
            self._delivery = None
        super().drop()


def _may_wait_in(folder: Path) -> bool:
    """Whether a file there may; raises OSError."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return may_wait(fd)
    finally:
        os.close(fd)


def _remove_if_stale(part: Path) -> None:
    """A part that nobody is at is what a host left that was killed."""
    with contextlib.suppress(OSError), part.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink()
