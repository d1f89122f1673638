"""What stands behind a stream on the host: a pty, a command on a terminal, or a log file.

pty:              a pseudo-terminal; its name is the device's property `endpoint`
pty:LINK          the same, with a symbolic link to it
cmd:COMMAND       a shell command on a terminal of its own, such as cmd:/bin/sh
file:PATH         append to a file; nothing ever comes back
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import tty
from pathlib import Path
from typing import Final, Protocol

from protocol.errors import NoSuchCall

log = logging.getLogger(__name__)

_CHUNK: Final = 64 * 1024
_WINSIZE: Final = struct.Struct("4H")  # rows, columns, and pixels that nobody uses
_KILL_MS: Final = 1000
_DRAIN_READS: Final = 16  # more than a terminal holds; a writer that never stops is not waited for
_TIOCSIG: Final = 0x40045436  # asm-generic/ioctls.h: signal the terminal's foreground process group
_links: set[Path] = set()  # symbolic links of this process's consoles


class Port(Protocol):
    """The device's end of a backing; a Stream is one."""

    @property
    def space(self) -> int:
        """How many bytes `send` takes."""

    def send(self, data: bytes) -> int:
        """Bytes from the backing, no more than `space`."""

    def transmit(self) -> None:
        """The backing takes bytes again."""

    def hang_up(self) -> None:
        """The backing is gone."""


class Backing:
    """Base: takes bytes and gives none."""

    endpoint: str  # for people: where the other end is, once it is started

    @classmethod
    def parse(cls, text: str, folder: Path) -> Backing:
        """The backing that *text* names; paths are relative to *folder*.  Raises ValueError with what is allowed."""
        kind, colon, rest = text.partition(":")
        if kind == "pty" and colon:
            return Pty(folder / rest if rest else None)
        if kind == "cmd" and rest:
            return Command(rest, folder)
        if kind == "file" and rest:
            return LogFile(folder / rest)
        raise ValueError(f"{text!r} is no backing: pty: or pty:LINK, cmd:COMMAND or file:PATH")

    def start(self, port: Port) -> None:
        """Begin.  Raises OSError."""
        raise NotImplementedError

    def stop(self) -> None:
        """End, and leave nothing behind."""
        raise NotImplementedError

    def write(self, data: bytes) -> int:
        """Bytes taken, perhaps none; `port.transmit` says when there is room again.  Raises OSError."""
        raise NotImplementedError

    def resume(self) -> None:
        """The port has space again."""

    def reset(self) -> None:
        """Another guest comes."""

    def winsize(self) -> tuple[int, int]:
        """(columns, rows) of the terminal; (0, 0): not known."""
        return 0, 0

    def set_winsize(self, columns: int, rows: int) -> None:
        """Change the terminal's size."""
        raise NoSuchCall("there is no terminal behind this console")

    def send_break(self) -> None:
        """A break on the line."""
        raise NoSuchCall("there is no terminal behind this console")


class LogFile(Backing):
    """Appends to a file."""

    def __init__(self, path: Path) -> None:
        self._path, self.endpoint = path, str(path)
        self._waiting = False  # for a pipe to be read

    def start(self, port: Port) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK  # it may be a pipe
        self._fd = os.open(self._path, flags, 0o666)
        self._port, self._loop = port, asyncio.get_running_loop()

    def stop(self) -> None:
        if self._waiting:
            self._loop.remove_writer(self._fd)
        os.close(self._fd)

    def write(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data[:_CHUNK])
        except BlockingIOError:
            self._waiting = True
            self._loop.add_writer(self._fd, self._writable)
            return 0

    def _writable(self) -> None:
        self._waiting = False
        self._loop.remove_writer(self._fd)
        self._port.transmit()


class _Terminal(Backing):
    """The master side of a pseudo-terminal.

    The slave is held open, too: a master whose slave nobody has open reads as broken.
    """

    _master = _slave = -1  # while there is none: the number of a closed one is soon somebody else's

    def start(self, port: Port) -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._master, self._slave = pty.openpty()
        os.set_blocking(self._master, False)
        self.endpoint = os.ttyname(self._slave)
        self._reading = True
        self._loop.add_reader(self._master, self._readable)

    def stop(self) -> None:
        if self._master < 0:
            return
        self._loop.remove_reader(self._master)
        self._loop.remove_writer(self._master)
        os.close(self._master)
        os.close(self._slave)
        self._master = self._slave = -1

    def write(self, data: bytes) -> int:
        try:
            count = os.write(self._master, data[:_CHUNK])
        except BlockingIOError:
            count = 0
        if count < len(data):
            self._loop.add_writer(self._master, self._writable)
        return count

    def resume(self) -> None:
        if not self._reading and self._port.space:
            self._reading = True
            self._loop.add_reader(self._master, self._readable)

    def _readable(self) -> None:
        space = self._port.space
        if not space:  # the guest does not read: leave it in the terminal, which stops the writer
            self._reading = False
            self._loop.remove_reader(self._master)
            return
        with contextlib.suppress(BlockingIOError):
            self._port.send(os.read(self._master, min(space, _CHUNK)))

    def _writable(self) -> None:
        self._loop.remove_writer(self._master)
        self._port.transmit()

    def winsize(self) -> tuple[int, int]:
        if self._master < 0:
            return 0, 0
        rows, columns, _, _ = _WINSIZE.unpack(fcntl.ioctl(self._master, termios.TIOCGWINSZ, bytes(_WINSIZE.size)))
        return columns, rows

    def set_winsize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, _WINSIZE.pack(rows, columns, 0, 0))

    def send_break(self) -> None:
        """As a terminal with BRKINT does: what waits is flushed, and the foreground processes get SIGINT."""
        termios.tcflush(self._slave, termios.TCIOFLUSH)
        fcntl.ioctl(self._master, _TIOCSIG, signal.SIGINT)


class Pty(_Terminal):
    """A pseudo-terminal for somebody on the host to open."""

    def __init__(self, link: Path | None) -> None:
        self._link = link

    def start(self, port: Port) -> None:
        super().start(port)
        tty.setraw(self._slave)
        if self._link is not None:
            try:
                if self._link in _links:
                    raise FileExistsError(errno.EEXIST, "another console has this link", str(self._link))
                if self._link.is_symlink():
                    self._link.unlink()  # of a host that was killed
                self._link.symlink_to(self.endpoint)
            except OSError as error:
                super().stop()
                raise OSError(error.errno, error.strerror, str(self._link)) from None
            _links.add(self._link)

    def reset(self) -> None:
        """What was typed for one guest is not for the next."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_DRAIN_READS):
                os.read(self._master, _CHUNK)

    def stop(self) -> None:
        if self._link is not None:
            _links.discard(self._link)
            if self._link.is_symlink() and str(self._link.readlink()) == self.endpoint:
                self._link.unlink()
        super().stop()


class Command(_Terminal):
    """A command on a terminal of its own; started again for the next guest."""

    def __init__(self, command: str, folder: Path) -> None:
        self._command, self._folder = command, folder
        self._pidfd: int | None = None

    def start(self, port: Port) -> None:
        super().start(port)
        self.set_winsize(80, 24)
        # A session leader that opens a terminal gets it as its controlling one: nothing of ours runs in the child.
        script = 'exec <"$0" >"$0" 2>&1; exec /bin/sh -c "$1"'
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", script, self.endpoint, self._command],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=True, cwd=self._folder, env={**os.environ, "TERM": os.environ.get("TERM", "xterm")},
            )  # fmt: skip
            self._pidfd = os.pidfd_open(self._process.pid)
        except OSError:
            super().stop()  # hangs up on the command, if it runs
            raise
        self._loop.add_reader(self._pidfd, self._exited)
        self.endpoint = f"pid {self._process.pid}: {self._command}"

    def stop(self) -> None:
        if self._pidfd is not None:
            _kill_session(self._process.pid)
            gone = select.poll()
            gone.register(self._pidfd, select.POLLIN)
            if gone.poll(_KILL_MS):
                self._reap()
            else:
                log.error("%s does not die", self.endpoint)
                self._forget_process()
        super().stop()  # whatever else runs in the terminal's session is hung up on

    def reset(self) -> None:
        self.stop()
        try:
            self.start(self._port)
        except OSError as error:
            log.error("%s cannot be started again: %s", self._command, error)
            self._port.hang_up()

    def _exited(self) -> None:
        _kill_session(self._process.pid)  # what it left running in the background
        self._reap()
        self._drain()

    def _reap(self) -> None:
        self._forget_process()
        self._process.wait()

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
        if self._pidfd is None:
            self._drain()
        else:
            super().resume()

    def _forget_process(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None


def _kill_session(leader: int) -> None:
    """Kill all processes of a session: a shell's background jobs have process groups of their own."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()  # proc(5): state ppid pgrp session
                if int(fields[3]) == leader:
                    os.kill(int(entry.name), signal.SIGKILL)
