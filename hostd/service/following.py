"""A trace on its way out: to whoever follows it by the control socket, or into a file by a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from hcall.clock import Clock, Timer, timeout

from ..filters.reader import Reader
from ..filters.trace import Trace

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5  # how often a client that waits is looked after
EVENTS: Final = 1 << 20  # that wait for a file, which is to have all of them
SIZE: Final = 64 << 20
_LAST_SECONDS: Final = 5.0  # for what waits at the end


async def follow(reader: Reader, writer: asyncio.StreamWriter, gone: Callable[[], bool], clock: Clock) -> None:
    """Write all that *reader* has, until the client is *gone*, which is asked often.  Raises ConnectionError."""

    timer: Timer

    def look() -> None:
        nonlocal timer
        reader.ready.set()  # though there may be nothing to take
        timer = clock.call_later(LOOK_SECONDS, look)

    look()
    try:
        while True:
            await reader.ready.wait()
            if gone():
                return
            if lines := reader.take():
                writer.write(lines)
                await writer.drain()
    finally:
        timer.cancel()


def opened(path: Path) -> int:
    """The file at *path*, emptied, to write a trace to.  Raises OSError, for a pipe that nobody reads, too."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o666)
    os.set_blocking(fd, True)
    return fd


@contextlib.asynccontextmanager
async def recorded(trace: Trace, fd: int, name: str, events: int = EVENTS, size: int = SIZE) -> AsyncIterator[None]:
    """All that *trace* sees meanwhile goes to the file *fd*, which is closed then; *name* is for people.

    At most *events* of *size* bytes wait for it.
    """
    reader = Reader(None, events, size)
    leave = trace.follow(reader)
    thread = ThreadPoolExecutor(1, "trace")
    ended = False

    async def write() -> None:
        loop = asyncio.get_running_loop()
        try:
            while not ended or reader.ready.is_set():
                await reader.ready.wait()
                await loop.run_in_executor(thread, _write, fd, reader.take())
        except OSError as error:
            leave()
            log.error("the trace ends, %s cannot be written: %s", name, error.strerror)

    writing = asyncio.create_task(write())
    try:
        yield
    finally:
        leave()
        ended = True
        reader.ready.set()
        try:
            async with timeout(trace.clock, _LAST_SECONDS):
                await writing
        except TimeoutError:
            log.error("the trace is not complete: %s takes no more", name)
        thread.submit(os.close, fd)
        thread.shutdown(wait=False)


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
