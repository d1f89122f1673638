"""Terminals.

pty:              a pseudo-terminal; its name is the device's property `endpoint`
pty:LINK          the same, with a symbolic link to it
cmd:COMMAND       a shell command on a terminal of its own, such as cmd:/bin/sh
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import termios
import tty
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from hcall.errors import IoError
from hcall.kernel.claims import claim, link_terminal, unlink_terminal
from hcall.kernel.open_files import given_limit
from hcall.saved import Saved
from hostd.backing import Backing, Port

from .parts.undertaker import bury

log = logging.getLogger(__name__)

_CHUNK: Final = 64 * 1024
_WINSIZE: Final = struct.Struct("4H")  # rows, columns, and pixels that nobody uses
_DRAIN_READS: Final = 16  # more than a terminal holds; a writer that never stops is not waited for
_TIOCSIG: Final = 0x40045436  # asm-generic/ioctls.h: signal the terminal's foreground process group
_SPEEDS: Final = {int(name[1:]): code for name, code in vars(termios).items() if re.fullmatch(r"B\d+", name)}
_TERMIOS2: Final = struct.Struct("4I20s2I")  # asm-generic/termbits.h: four flags, control characters, two speeds
_TCGETS2, _TCSETS2, _CBAUD, _BOTHER = 0x802C542A, 0x402C542B, 0o010017, 0o010000


class _Terminal(Backing):
    """The master side of a pseudo-terminal.

    The slave is held open, too: a master whose slave nobody has open reads as broken.
    """

    _master = _slave = -1  # while there is none: the number of a closed one is soon somebody else's

    _reading = _hung_up = False
    _before: tuple[int, int] | None = None  # the size that it had when a guest changed it

    def start(self, port: Port) -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        if self._master < 0:
            self._master, self._slave = pty.openpty()
            os.set_blocking(self._master, False)
            self._hung_up, self._before = False, None
            self._set_up()
        else:  # that of the one that was saved, for which something may wait
            self._loop.add_writer(self._master, self._writable)
        self.endpoint = os.ttyname(self._slave)
        self._reading = not self._hung_up
        if self._reading:
            self._loop.add_reader(self._master, self._readable)

    def _set_up(self) -> None:
        """It is new."""

    def save(self) -> tuple[Saved, Sequence[int]]:
        fds = () if self._master < 0 else (self._master, self._slave)
        return {"hung_up": self._hung_up, "before": self._before}, fds

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        self._hung_up, self._before = saved["hung_up"], saved["before"] and tuple(saved["before"])
        self._master, self._slave = fds or (-1, -1)

    def cede(self) -> None:
        _Terminal.stop(self)

    def stop(self) -> None:
        if self._master < 0:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._master)
        loop.remove_writer(self._master)
        os.close(self._master)
        os.close(self._slave)
        self._master = self._slave = -1

    def write(self, data: bytes | memoryview) -> int:
        try:
            count = os.write(self._master, data[:_CHUNK])
        except BlockingIOError:
            count = 0
        if count < len(data):
            self._loop.add_writer(self._master, self._writable)
        return count

    def resume(self) -> None:
        if not self._reading and not self._hung_up and self._port.space:
            self._reading = True
            self._loop.add_reader(self._master, self._readable)

    def _readable(self) -> None:
        space = self._port.space
        if not space:  # the guest does not read: leave it in the terminal, which stops the writer
            self._reading = False
            self._loop.remove_reader(self._master)
            return
        try:
            self._port.send(os.read(self._master, min(space, _CHUNK)))
        except BlockingIOError:
            pass
        except OSError as error:  # somebody hung up on the terminal, as vhangup(2) does
            log.error("%s: %s", self.endpoint, error)
            self._reading = False
            self._hung_up = True
            self._loop.remove_reader(self._master)
            self._port.hang_up()

    def _writable(self) -> None:
        self._loop.remove_writer(self._master)
        self._port.transmit()

    def _again(self) -> None:
        """A fresh one."""
        self.stop()
        try:
            self.start(self._port)
        except OSError as error:
            log.error("%s cannot be started again: %s", self.endpoint, error)
            self._port.hang_up()

    def winsize(self) -> tuple[int, int]:
        if self._master < 0:
            return 0, 0
        rows, columns, _, _ = _WINSIZE.unpack(fcntl.ioctl(self._master, termios.TIOCGWINSZ, bytes(_WINSIZE.size)))
        return columns, rows

    def set_winsize(self, columns: int, rows: int) -> None:
        self._check_there()
        self._before = self._before or self.winsize()
        self._resize(columns, rows)

    def _resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, _WINSIZE.pack(rows, columns, 0, 0))

    def set_speed(self, baud: int) -> None:
        if self._slave < 0:
            return
        flags = list(_TERMIOS2.unpack(fcntl.ioctl(self._slave, _TCGETS2, bytes(_TERMIOS2.size))))
        flags[2] = flags[2] & ~_CBAUD | _SPEEDS.get(baud, _BOTHER)
        fcntl.ioctl(self._slave, _TCSETS2, _TERMIOS2.pack(*flags[:5], baud, baud))

    def send_break(self) -> None:
        """As a terminal with BRKINT does: what waits is flushed, and the foreground processes get SIGINT."""
        self._check_there()
        termios.tcflush(self._slave, termios.TCIOFLUSH)
        fcntl.ioctl(self._master, _TIOCSIG, signal.SIGINT)

    def _check_there(self) -> None:
        if self._master < 0:
            raise IoError("the terminal is gone")


class Pty(_Terminal):
    """A pseudo-terminal for somebody on the host to open."""

    def __init__(self, rest: str, folder: Path) -> None:
        self._link = folder / rest if rest else None
        self._claim: socket.socket | None = None  # of the link

    def _set_up(self) -> None:
        tty.setraw(self._slave)

    def start(self, port: Port) -> None:
        super().start(port)
        if self._link is not None and self._claim is None:
            try:
                self._claim = claim(self._link)
                link_terminal(self._link, self.endpoint)
            except OSError:
                self.stop()
                raise

    def reset(self) -> None:
        """What was typed for one guest is not for the next; a terminal that was hung up on is replaced."""
        if self._hung_up:
            self._again()
            return
        if self._before is not None:
            self._resize(*self._before)
            self._before = None
        with contextlib.suppress(BlockingIOError):
            for _ in range(_DRAIN_READS):
                os.read(self._master, _CHUNK)

    def save(self) -> tuple[Saved, Sequence[int]]:
        saved, fds = super().save()
        return saved, fds if self._claim is None else (*fds, self._claim.fileno())

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        super().adopt(saved, fds[:2])
        if len(fds) > 2:
            self._claim = socket.socket(fileno=fds[2])

    def cede(self) -> None:
        self._disclaim()
        super().cede()

    def stop(self) -> None:
        if self._link is not None and self._claim is not None:
            unlink_terminal(self._link, self.endpoint)
        self._disclaim()
        super().stop()

    def _disclaim(self) -> None:
        if self._claim is not None:
            self._claim.close()
            self._claim = None


class Command(_Terminal):
    """A command on a terminal of its own; started again for the next guest."""

    def __init__(self, rest: str, folder: Path) -> None:
        self._command, self._folder = rest, folder
        self._pid, self._pidfd = 0, -1  # of the command, while it runs

    def start(self, port: Port) -> None:
        is_adopted = self._master >= 0
        super().start(port)
        if not is_adopted:
            self._run()
        if self._pidfd >= 0:
            self._loop.add_reader(self._pidfd, self._exited)
        else:
            self._loop.call_soon(self.resume)  # it had ended, and what it wrote last may not have been read
        self.endpoint = f"pid {self._pid}: {self._command}"

    def save(self) -> tuple[Saved, Sequence[int]]:
        """The command runs on: it is told nothing."""
        saved, fds = super().save()
        return {**saved, "pid": self._pid}, fds if self._pidfd < 0 else (*fds, self._pidfd)

    def adopt(self, saved: Saved, fds: Sequence[int]) -> None:
        super().adopt(saved, fds[:2])
        self._pid = saved["pid"]
        if len(fds) > 2:
            self._pidfd = fds[2]

    def cede(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        super().cede()

    def _set_up(self) -> None:
        self._resize(80, 24)

    def _run(self) -> None:
        # A session leader that opens a terminal gets it as its controlling one: nothing of ours runs in the child.
        files = given_limit()
        limit = str(files) if files >= 0 else "unlimited"
        script = 'ulimit -Sn "$2"; exec <"$0" >"$0" 2>&1; exec /bin/sh -c "$1"'
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", script, self.endpoint, self._command, limit],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True, cwd=self._folder, env={**os.environ, "TERM": os.environ.get("TERM", "xterm")},
            )  # fmt: skip
            self._pid, process.returncode = process.pid, 0  # it may be another's to wait for
            self._pidfd = os.pidfd_open(self._pid)
        except OSError:
            super().stop()  # hangs up on the command, if it runs
            raise

    def stop(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._end(lambda: None)
        super().stop()  # whatever else runs in the terminal's session is hung up on

    def reset(self) -> None:
        self._again()

    def _exited(self) -> None:
        self._end(partial(self._ended, self._pid))  # and what it left running in the background

    def _ended(self, pid: int) -> None:
        if self._master >= 0 and self._pid == pid:  # else another one runs, or none any more
            self._drain()

    def _end(self, then: Callable[[], None]) -> None:
        """Its whole session is killed; *then* follows, unless the loop has gone."""
        self._loop.remove_reader(self._pidfd)
        bury(self._pid, self._pidfd, f"pid {self._pid}: {self._command}", self._loop, then)
        self._pidfd = -1

    def _drain(self) -> None:
        """What the command wrote last is still in the terminal; after it comes the end."""
        while self._port.space:
            try:
                self._port.send(os.read(self._master, min(self._port.space, _CHUNK)))
            except BlockingIOError:
                self._loop.remove_reader(self._master)
                self._port.hang_up()
                return

    def resume(self) -> None:
        if self._master < 0:
            return
        if self._pidfd < 0:
            self._drain()
        else:
            super().resume()
