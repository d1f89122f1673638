"""`guestd read` and `guestd write`: bytes between a device and a file, with progress for who waits at a terminal."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, cast

from hcall.clock import SystemClock
from hcall.programs.command import Exit, Failure, say
from hcall.text import counted

from ..clients.blocking import BlockingGuest
from ..driver import Driver
from ..drivers.block import BlockDriver
from ..stream import StreamDriver

if TYPE_CHECKING:
    from rich.progress import Progress

_CHUNK: Final = 1 << 20  # bytes
_PATIENCE_SECONDS: Final = 1.0  # before it is worth a line


def read(guest: BlockingGuest, device: str, at: int, count: int | None, output: Path | None) -> None:
    """Read *count* bytes of *device*, or all to its end, into *output*, or standard output.  Raises Failure."""
    driver = guest.bind(device)
    left = _how_much(driver, device, at, count)
    if output is None and sys.stdout.isatty() and not isinstance(driver, StreamDriver):
        raise Failure("these bytes are not for a terminal: pipe them to xxd, or name a file with -o", Exit.USAGE)
    total = None if left == sys.maxsize else left
    with TransferProgress(f"reading {device}", total) as progress, _opened(output) as out:
        while left:
            flow = _flow(driver)
            data = guest.run(flow.read_some(left) if flow else driver.load(min(left, _CHUNK), at))
            if not data:
                break
            out.write(data)
            if flow:
                out.flush()  # somebody may be looking
            at += len(data)
            left -= len(data)
            progress.moved(len(data))


@contextlib.contextmanager
def _opened(output: Path | None) -> Iterator[IO[bytes]]:
    """The file, or standard output; an error says that it was this, and not the device."""
    try:
        with output.open("wb") if output else contextlib.nullcontext(sys.stdout.buffer) as out:
            yield out
            out.flush()
    except OSError as error:
        error.filename = error.filename or str(output or "standard output")
        raise


class _Flow(Protocol):
    """A driver of what comes when it comes, and has no places."""

    def read_some(self, count: int) -> Coroutine[Any, Any, bytes]:
        """One byte or more, up to *count*; none at the end."""


def _flow(driver: Driver) -> _Flow | None:
    return cast(_Flow, driver) if hasattr(driver, "read_some") else None


def _how_much(driver: Driver, device: str, at: int, count: int | None) -> int:
    """The bytes to read; sys.maxsize is all that comes.  Raises Failure, NoSuchCall."""
    if at < 0 or (count is not None and count < 0):
        raise Failure("--at and --count are 0 or more", Exit.USAGE)
    if isinstance(driver, BlockDriver):
        _check_fits(driver, device, at, count or 0)
        return driver.capacity - at if count is None else count
    _check_place(driver, device, at)
    if count is None and not _flow(driver):
        driver.number("read")  # one that has none is not asked how much
        raise Failure(f"{device} has no end: how many bytes? --count N", Exit.USAGE)
    return sys.maxsize if count is None else count


def write(guest: BlockingGuest, device: str, source: IO[bytes], at: int) -> None:
    """Write all of *source* to *device*, and wait until it is stable.  Raises Failure."""
    driver = guest.bind(device)
    size = _size(source)
    if at < 0:
        raise Failure("--at is 0 or more", Exit.USAGE)
    if isinstance(driver, BlockDriver):
        _check_fits(driver, device, at, size or 0)  # before anything is overwritten
    _check_place(driver, device, at)
    start = at
    with TransferProgress(f"writing {device}", size) as progress:
        while data := source.read(_CHUNK):
            guest.run(driver.write_all(data) if isinstance(driver, StreamDriver) else driver.store(data, at))
            at += len(data)
            progress.moved(len(data))
        guest.run(driver.settle())
    say("guestd", f"{counted(at - start, 'byte')} written to {device}")


def _check_fits(disk: BlockDriver, device: str, at: int, count: int) -> None:
    if at + count > disk.capacity:
        raise Failure(f"{device} has {disk.capacity} bytes, {max(0, disk.capacity - at)} from byte {at} on", Exit.USAGE)


def _check_place(driver: Driver, device: str, at: int) -> None:
    if at and _flow(driver):
        raise Failure(f"{device} is a stream: there is no --at in it", Exit.USAGE)


def _size(source: IO[bytes]) -> int | None:
    """How much there is in it, if that can be known."""
    info = os.fstat(source.fileno())
    return info.st_size if stat.S_ISREG(info.st_mode) else None


class TransferProgress:
    """A line on standard error, once a transfer takes longer than a second; only on a terminal, and not for good."""

    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total, self._done = what, total, 0
        self._time = SystemClock().time
        self._since = self._time()
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> TransferProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def moved(self, count: int) -> None:
        """So many bytes more."""
        self._done += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done)
        elif sys.stderr.isatty() and self._time() - self._since > _PATIENCE_SECONDS:
            self._show()

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), TransferSpeedColumn()
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._bar.add_task(self._what, total=self._total, completed=self._done)
        self._bar.start()
