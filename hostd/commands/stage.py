"""Where a demo plays: a folder of its own, a host process, a guest process, and all that they say."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Final

from hcall.programs.command import Failure, console

STEP_SECONDS: Final = 20.0


class Stage:
    """Processes that end with it.  What they say on standard error is shown if something went wrong."""

    def __init__(self, quiet: bool) -> None:
        """A *quiet* one prints nothing."""
        self._temporary = tempfile.TemporaryDirectory(prefix="hostd-demo-")
        self.folder = Path(self._temporary.name)
        self.run = self.folder / "run"  # where the host's sockets are
        self._out = None if quiet else console()
        self._processes: list[subprocess.Popen[str]] = []
        self._log = (self.folder / "log").open("w+")

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not issubclass(kind, KeyboardInterrupt | BrokenPipeError):
            self._log.seek(0)
            sys.stderr.write(self._log.read())
        self._log.close()
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._temporary.cleanup()

    def say(self, step: str, text: str, style: str = "bold cyan") -> None:
        """One line of the story."""
        if self._out is not None:
            from rich.text import Text

            self._out.print(Text.assemble((f"{step:>9}  ", style), text))

    def start(self, *arguments: str, fd: int | None = None) -> subprocess.Popen[str]:
        """Run a module of ours with *arguments*, whatever lies in the current folder; it inherits *fd*."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
            text=True, pass_fds=() if fd is None else (fd,),
        )  # fmt: skip
        self._processes.append(process)
        return process

    def start_host(self, machine: Path) -> subprocess.Popen[str]:
        """Serve *machine*; guests can attach when it returns.  Raises Failure."""
        ready, fd = os.pipe()
        with open(ready) as pipe:  # noqa: PTH123  # a descriptor, not a path
            try:
                host = self.start("hostd", "serve", str(machine), "--runtime-dir", str(self.run),
                                  "--ready-fd", str(fd), fd=fd)  # fmt: skip
            finally:
                os.close(fd)
            if pipe.readline() != "ready\n":
                raise Failure("the host did not start: see above")
        self.say("host", f"pid {host.pid} serves {machine.name} at {self.run}")
        return host

    def end(self, host: subprocess.Popen[str], guest: subprocess.Popen[str]) -> None:
        """Both have to end well.  Raises Failure."""
        if guest.wait(STEP_SECONDS):
            raise Failure("the guest failed: see above")
        host.terminate()
        if host.wait(STEP_SECONDS):
            raise Failure("the host did not end well: see above")
