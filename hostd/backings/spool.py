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
import struct
import tempfile
import termios
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final, Protocol, cast

from hcall.clock import Clock
from hcall.programs.endpoint import Kind, host_and_port, split
from hcall.saved import Saved
from hostd.backing import Carried

_FOLDER: Final = Kind("spool:", "FOLDER")
_QUEUE: Final = Kind("socket://", "HOST:PORT")
_CHUNK: Final = 64 * 1024
_STALL_SECONDS: Final = 300  # that a print queue may take nothing, as one does that is out of paper
_LOST: Final = "the host was restarted while the job was on its way: it may have been printed, or not"
_INT: Final = struct.Struct("i")
_RESET: Final = struct.pack("ii", 1, 0)  # struct linger: a close tells the peer that not all has come


class Printer(Protocol):
    """What the jobs come from."""

    clock: Clock

    def ended(self, error: OSError | None) -> None:
        """The job that was finished is where it belongs, or *error* says why not."""


class Spool(Carried):
    """Base: the job that is being written, which is carried over with its file."""

    endpoint: str  # for people
    _file: IO[bytes] | None = None

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

    def save(self) -> tuple[Saved, Sequence[int]]:
        return {}, () if self._file is None else (self._file.fileno(),)

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        for fd in fds:
            self._file = os.fdopen(fd, "r+b", buffering=0)

    def cede(self) -> None:
        Spool.drop(self)

    def begin(self) -> None:
        """A job begins.  Raises OSError."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """More of the job.  Raises OSError if it is not all taken."""
        assert self._file is not None
        while data:
            data = data[self._file.write(data) :]

    def finish(self) -> None:
        """The job is complete: `Printer.ended` is called, now or later."""
        raise NotImplementedError

    def drop(self) -> None:
        """Forget the job, if there is one, and leave nothing of it."""
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):  # of a disk that is full: there is nothing to lose
                file.close()


class Folder(Spool):
    """A file for each job, linked to its name when it is complete."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.endpoint = folder, str(folder)

    def start(self, printer: Printer) -> None:
        super().start(printer)
        self._folder.mkdir(exist_ok=True)
        for part in self._folder.glob(".hostd-*.part"):
            _remove_if_stale(part)
        taken = [path.name[4:] for path in self._folder.glob("job-*")]
        self._next = 1 + max((int(number) for number in taken if number.isdecimal()), default=0)

    def save(self) -> tuple[Saved, Sequence[int]]:
        saved, fds = super().save()
        return {**saved, "part": self._part.name} if fds else saved, fds

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        super().adopt(saved, fds)
        if fds:
            self._part = self._folder / saved["part"]

    def begin(self) -> None:
        part = self._folder / f".hostd-{uuid.uuid4().hex}.part"
        self._file = part.open("x+b", buffering=0)
        self._part = part
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # somebody is at it

    def finish(self) -> None:
        try:
            assert self._file is not None
            self._file.close()  # may raise: some filesystems tell only now
            self._link()
        except OSError as error:
            self.drop()
            self._printer.ended(error)
        else:
            self.drop()
            self._printer.ended(None)

    def _link(self) -> None:
        """Give it the next name: unlike a rename this replaces no other printer's job."""
        while True:
            try:
                os.link(self._part, self._folder / f"job-{self._next:06}")
                return
            except FileExistsError:
                pass
            finally:
                self._next += 1

    def drop(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # the folder is gone
                self._part.unlink()
        super().drop()


class Queue(Spool):
    """A connection for each job."""

    _delivery: _Delivery | None = None
    _lost = False  # the one of the spool that was saved

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self.endpoint = f"{host}:{port}"

    def save(self) -> tuple[Saved, Sequence[int]]:
        """A job that is on its way cannot be taken over: half of it may be there, and none is sent twice."""
        saved, fds = super().save()
        return ({**saved, "lost": True}, ()) if self._delivery is not None else (saved, fds)

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        super().adopt(saved, fds)
        self._lost = "lost" in saved

    def start(self, printer: Printer) -> None:
        super().start(printer)
        if self._lost:
            asyncio.get_running_loop().call_soon(self._printer.ended, OSError(errno.EINTR, _LOST))

    def cede(self) -> None:
        self.drop()

    def begin(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # until the job has ended

    def finish(self) -> None:
        assert self._file is not None
        self._file.seek(0)
        self._delivery = _Delivery(self, self._file, self._address, self._printer.clock)

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


class _Delivery(asyncio.Protocol):
    """One job on its way.  The queue has it all when it ends the connection after we have ended ours."""

    _transport: asyncio.Transport | None = None
    _sent = _paused = _over = False

    def __init__(self, queue: Queue, file: IO[bytes], address: tuple[str, int], clock: Clock) -> None:
        self._queue, self._file, self._clock = queue, file, clock
        self._timer = clock.call_later(_STALL_SECONDS, self._stalled)
        loop = asyncio.get_running_loop()
        self._connecting = loop.create_task(loop.create_connection(lambda: self, *address))
        self._connecting.add_done_callback(self._connected)

    def abort(self) -> None:
        """Stop, and let the peer know that this is not the end of a job."""
        self._over = True
        self._timer.cancel()
        self._connecting.cancel()
        if self._transport is not None:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._transport.abort()

    def _end(self, error: OSError | None) -> None:
        if self._over:
            return
        if error is not None:
            self.abort()
        self._over = True
        self._timer.cancel()
        self._queue.delivered(error)

    def _connected(self, task: asyncio.Task[object]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._end(error if isinstance(error, OSError) else OSError(errno.EIO, str(error)))

    def _stalled(self) -> None:
        self._end(OSError(errno.ETIMEDOUT, f"the print queue took nothing for {_STALL_SECONDS} s"))

    def _push(self) -> None:
        """Send what the connection takes."""
        assert self._transport is not None
        self._timer.cancel()
        self._timer = self._clock.call_later(_STALL_SECONDS, self._stalled)
        while not (self._paused or self._sent):
            try:
                data = self._file.read(_CHUNK)
            except OSError as error:
                self._end(error)
                return
            if data:
                self._transport.write(data)
            else:
                self._sent = True
                with contextlib.suppress(OSError):  # the queue has hung up already: `connection_lost` tells
                    self._transport.write_eof()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        if self._over:
            self._transport.abort()
        else:
            self._push()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if not self._over:
            self._push()

    def eof_received(self) -> None:
        if not self._over:
            self._end(None if self._sent and self._unacknowledged() <= 1 else self._hung_up())  # our end counts as one

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._end(self._hung_up())

    def _unacknowledged(self) -> int:
        """Bytes that may not have come to the peer: a queue that is busy may hang up on them without a look."""
        assert self._transport is not None
        fd = self._transport.get_extra_info("socket").fileno()
        (count,) = _INT.unpack(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(_INT.size)))  # tcp(7), SIOCOUTQ
        return self._transport.get_write_buffer_size() + int(count)

    @staticmethod
    def _hung_up() -> OSError:
        return OSError(errno.ECONNRESET, "the print queue hung up before the end of the job")


def _remove_if_stale(part: Path) -> None:
    """A part that nobody is at is what a host left that was killed."""
    with contextlib.suppress(OSError), part.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink()
