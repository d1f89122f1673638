"""A job on its way to a print queue that takes it raw."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from typing import Final, TypeAlias, cast

from hcall.clock import Clock

_STALL_SECONDS: Final = 300  # that a print queue may take nothing, as one does that is out of paper
_INT: Final = struct.Struct("i")
_RESET: Final = struct.pack("ii", 1, 0)  # struct linger: a close tells the peer that not all has come

#: Gives a function what is at that byte.
Read: TypeAlias = Callable[[int, Callable[["bytes | Exception"], None]], None]


class Delivery(asyncio.Protocol):
    """One job on its way.  The queue has it all when it ends the connection after we have ended ours."""

    _transport: asyncio.Transport | None = None
    _sent = _paused = _over = _reading = False
    _at = 0  # bytes that were read

    def __init__(
        self, delivered: Callable[[OSError | None], None], read: Read, waits: bool, address: tuple[str, int],
        clock: Clock,
    ) -> None:  # fmt: skip
        """*read* gives what follows a byte of the job; it *waits*: later."""
        self._delivered, self._read, self._waits, self._clock = delivered, read, waits, clock
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
        self._delivered(error)

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
        while not (self._paused or self._sent or self._reading or self._over):
            self._reading = True
            self._read(self._at, self._came)

    def _came(self, data: bytes | Exception) -> None:
        self._reading = False
        if self._over or self._transport is None:
            return
        if isinstance(data, Exception):
            self._end(os_error(data))
        elif data:
            self._at += len(data)
            self._transport.write(data)
        else:
            self._sent = True
            with contextlib.suppress(OSError):  # the queue has hung up already: `connection_lost` tells
                self._transport.write_eof()
        if self._waits and not self._over:
            self._push()

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


def os_error(error: Exception) -> OSError:
    """*error*, as a job's outcome."""
    return error if isinstance(error, OSError) else OSError(errno.EIO, str(error))
