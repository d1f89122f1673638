"""A daemon as a process of its own, and what it holds: looked at from outside, in /proc."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NamedTuple

from slow_files import FLUSH, SlowFiles

from . import groups
from .people import ALICE, BOB, TWO_USERS, until

QUIET: Final = """
[devices.rng]
model = "rng"
[devices.calm]
model = "block"
path = "calm.img"
create = "1M"
[devices.watchdog]
model = "watchdog"
"""
PORTS: Final = 16
EVERYTHING: Final = """
[devices.disk]
model = "block"
path = "disk.img"
create = "64M"
[devices.console]
model = "console"
backing = "cmd:exec sleep 1000"
[devices.sysman]
model = "sysman"
[devices.ppp]
model = "ppp"
[devices.keyboard]
model = "hid"
kind = "keyboard"
events = "tcp:localhost:0"
[devices.mouse]
model = "hid"
kind = "mouse"
[devices.tty]
model = "tty"
backing = "tcp:localhost:0"
[devices.folder]
model = "folder"
path = "shared"
create = true
[devices.printer]
model = "printer"
spool = "spool:spool"
""" + "".join(f'[devices.net{n}]\nmodel = "net"\n' for n in range(PORTS))
POLICY: Final = f"[policy.all]\nusers = [{ALICE}, {BOB}]\n"
URGENT: Final = -10  # nice, of daemon and canary, where that can be: other work of this machine counts less then
SLOW: Final = 0.1
HOLD, LET_GO = b"hold", b"let-go"
_HELD: Final = 120.0  # seconds
_START: Final = 30.0
_CONTROL: Final = 20.0


class Held(NamedTuple):
    """What a daemon holds."""

    descriptors: int
    threads: int
    mappings: int  # of guest memory
    rss: int  # KiB


class Stage:
    """Serves a machine: rng, a disk for the canary, a watchdog, and *more*, in TOML."""

    def __init__(
        self, more: str = EVERYTHING, files: int | None = None, read: bool = True, memory: int | None = None,
        slow: bool = False, spin: bool = False,
    ) -> None:  # fmt: skip
        """*files* is how many descriptors the daemon may have, *memory* how many bytes, if that can be bounded.

        It looks again before it sleeps, if it is to *spin*.

        If its log is not *read* it is a pipe that is full.  *slow*: there is a folder of that name, whose reads and
        writes take SLOW seconds; a file HOLD that is made there makes each close of the daemon wait, until LET_GO is.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="hostd-attack-", dir="/var/tmp"))
        self.folder.chmod(0o711)
        run = self.folder / "run"
        self.path, self._control = run / "guest.sock", run / "control.sock"
        self._slow = self._slow_files() if slow else None
        machine = self.folder / "machine.toml"
        machine.write_text(QUIET + more + (POLICY if TWO_USERS else "") + f"[host]\nspin = {str(spin).lower()}\n")
        run.mkdir(mode=0o711)
        self._log = self.folder / "log"
        ready, write = os.pipe()
        self._unread: tuple[int, ...] = () if read else os.pipe()

        self._group = None if memory is None else groups.make(memory)
        limits = [] if files is None else [f"ulimit -n {files}"]
        if self._group is not None:
            limits.append(f"echo $$ >{self._group}/cgroup.procs")
        limited = ["sh", "-c", "; ".join([*limits, 'exec "$@"']), "sh"]
        with self._log.open("wb") as file:
            log = file.fileno() if read else self._unread[1]
            self._process = subprocess.Popen(
                [*limited, sys.executable, "-m", "hostd", "serve", machine, "--runtime-dir", run,
                 f"--ready-fd={write}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[write],
                env={name: value for name, value in os.environ.items() if not name.startswith("HOSTD_")},
            )  # fmt: skip
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, self.pid, URGENT)
        os.close(write)
        try:
            if not select.select([ready], [], [], _START)[0] or not os.read(ready, 100):
                raise RuntimeError(f"hostd does not start: {self.log()}")
        except BaseException:
            self.close()
            raise
        finally:
            os.close(ready)
        if self._unread:
            os.set_blocking(self._unread[1], False)
            with contextlib.suppress(BlockingIOError):
                while os.write(self._unread[1], bytes(4096)):
                    pass
            os.set_blocking(self._unread[1], True)
        self.threads = self.held().threads  # at the start

    def _slow_files(self) -> SlowFiles:
        place = self.folder / "slow"
        place.mkdir()
        files = SlowFiles(place, patience=_HELD)

        def made(name: bytes) -> None:
            if name == HOLD:
                files.hold(FLUSH, uid=os.geteuid())
            elif name == LET_GO:
                files.release()

        files.made, files.delay = made, SLOW
        return files

    @property
    def pid(self) -> int:
        """Of the daemon."""
        return self._process.pid

    def lives(self) -> bool:
        """Whether the daemon does."""
        return self._process.poll() is None

    def log(self, since: int = 0) -> str:
        """What it wrote, from byte *since* on."""
        with self._log.open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="backslashreplace")

    def logged(self) -> int:
        """Bytes of log."""
        return self._log.stat().st_size

    def held(self) -> Held:
        """What it holds now."""
        proc = Path(f"/proc/{self.pid}")
        status = (proc / "status").read_text()
        return Held(
            len(list((proc / "fd").iterdir())),
            len(list((proc / "task").iterdir())),
            len(re.findall("memfd:", (proc / "maps").read_text())),
            int(status.split("VmRSS:")[1].split()[0]),
        )

    def ask(self, verb: str) -> Any:
        """The answer of the control socket.  Raises OSError if there is none."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_CONTROL)
            sock.connect(str(self._control))
            sock.sendall(json.dumps({"do": verb}).encode() + b"\n")
            said = b""
            while not said.endswith(b"\n"):
                more = sock.recv(1 << 16)
                if not more:
                    raise OSError("the control socket hung up without an answer")
                said += more
        return json.loads(said)["ok"]

    def close(self) -> None:
        """End the daemon, and forget it."""
        if self._slow is not None:
            self._slow.release()
            self._slow.delay = 0
        if self.lives():
            self._process.send_signal(signal.SIGTERM)
            if not until(lambda: not self.lives(), 10):
                self._process.kill()
        self._process.wait()
        for fd in self._unread:
            os.close(fd)
        self._unread = ()
        if self._group is not None:
            self._group.rmdir()
            self._group = None
        if self._slow is not None:
            self._slow.close()
            self._slow = None
        shutil.rmtree(self.folder, ignore_errors=True)
