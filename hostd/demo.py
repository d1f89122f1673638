"""The demo: a host process, a guest process, and a story that uses everything on real data.

This half starts the host and the guest, acts on the host while the guest runs, and compares what came out. The guest's
half is `guestd.demo`; the two talk by lines, so that each step of one follows a step of the other.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from protocol.command import Exit, Failure, console, print_json

from .remote import ask
from .shipped import shipped

_STEP_SECONDS = 20.0


def run_demo(as_json: bool) -> int:
    """Tell the story; the exit code."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hostd-demo-") as folder:
        story = _Story(Path(folder), None if as_json else console())
        try:
            facts = story.tell()
        except BaseException:
            story.show_log()
            raise
        finally:
            story.stop()
    facts["seconds"] = round(time.monotonic() - started, 2)
    if as_json:
        print_json(facts)
    else:
        moved = f"{facts['calls']} calls, {facts['bytes'] / 1e6:.1f} MB of disk"
        story.say("done", f"{facts['seconds']} s: {moved}, {facts['resumed']} cut link, nothing lost")
    return Exit.OK


class _Story:
    def __init__(self, folder: Path, out: Any) -> None:
        self._folder, self._out = folder, out
        self._processes: list[subprocess.Popen[str]] = []
        self._run = folder / "run"
        self._log = (folder / "log").open("w+")  # what both processes say on standard error

    def say(self, step: str, text: str) -> None:
        """One line of the story."""
        if self._out is not None:
            from rich.text import Text

            self._out.print(Text.assemble((f"{step:>9}  ", "bold cyan"), text))

    def tell(self) -> dict[str, Any]:
        """All of it; the facts.  Raises Failure where something is not as it should be."""
        machine = self._folder / "demo.toml"
        shutil.copy(shipped("machines/demo.toml"), machine)
        archive, files = self._archive()
        image = self._folder / "disk.img"
        image.write_bytes(archive.ljust(len(archive) + -len(archive) % 512, b"\0").ljust(16 << 20, b"\0"))
        host = self._start_host(machine)
        self.say("host", f"pid {host.pid} serves {machine.name} at {self._run}")
        guest = self._start("-m", "guestd.demo", str(self._run / "guest.sock"), str(len(archive)))
        assert guest.stdin is not None and guest.stdout is not None
        facts: dict[str, Any] = {"files": files, "archive_sha256": hashlib.sha256(archive).hexdigest()}
        for line in guest.stdout:
            event = json.loads(line)
            if "say" in event:
                self.say(event["step"], event["say"])
            if "fact" in event:
                facts |= event["fact"]
            if "host" in event:
                self._act(event["host"], facts)
                _tell(guest.stdin, "done")
        if guest.wait(_STEP_SECONDS):
            raise Failure("the guest failed: see above")
        self._compare(image, archive, facts)
        host.terminate()
        if host.wait(_STEP_SECONDS):
            raise Failure("the host did not end well: see above")
        return facts

    def show_log(self) -> None:
        """What the processes said, on standard error."""
        self._log.seek(0)
        sys.stderr.write(self._log.read())

    def stop(self) -> None:
        """Whatever still runs is in the way."""
        self._log.close()
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _archive(self) -> tuple[bytes, dict[str, str]]:
        """Real files, the modules of Python's own `json`, `email` and `asyncio`, as a tar, and their checksums."""
        path, files = self._folder / "archive.tar", {}
        library = Path(json.__file__).parents[1]
        with tarfile.open(path, "w") as tar:
            for package in ("asyncio", "email", "json"):
                for file in sorted((library / package).glob("*.py")):
                    name = f"{package}/{file.name}"
                    tar.add(file, name)
                    files[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        return path.read_bytes(), files

    def _start(self, *arguments: str, fd: int | None = None) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            pass_fds=() if fd is None else (fd,),
        )  # fmt: skip
        self._processes.append(process)
        return process

    def _start_host(self, machine: Path) -> subprocess.Popen[str]:
        ready, fd = os.pipe()
        with open(ready) as pipe:  # noqa: PTH123  # a descriptor, not a path
            try:
                host = self._start("-m", "hostd", "serve", str(machine), "--runtime-dir", str(self._run),
                                   "--ready-fd", str(fd), fd=fd)  # fmt: skip
            finally:
                os.close(fd)
            if pipe.readline() != "ready\n":
                raise Failure("the host did not start: see above")
        return host

    def _act(self, what: str, facts: dict[str, Any]) -> None:
        """What the guest asks the host's user to do."""
        run = str(self._run)
        if what == "unplug":
            ask(run, "unplug", path="/rng")
            self.say("host", "hostd unplug rng")
        elif what == "plug":
            ask(run, "plug", path="/rng", config={"model": "rng"})
            self.say("host", "hostd plug rng rng")
        elif what == "status":
            (guest,) = ask(run, "status")["guests"]
            facts["calls"] = guest["calls"]

    def _compare(self, image: Path, archive: bytes, facts: dict[str, Any]) -> None:
        """The guest unpacked the archive, and wrote it back at another place of the disk: is all of it right?"""
        wrong = [name for name, digest in facts["files"].items() if facts["unpacked"].get(name) != digest]
        if wrong or len(facts["unpacked"]) != len(facts["files"]):
            raise Failure(f"the guest read {len(wrong)} files wrong: {', '.join(wrong[:5])}")
        with image.open("rb") as disk:
            disk.seek(facts["written_at"])
            digest = hashlib.sha256(disk.read(len(archive))).hexdigest()
        if digest != facts["archive_sha256"]:
            raise Failure(f"what the guest wrote back has sha256 {digest}, not {facts['archive_sha256']}")
        facts["bytes"] = 2 * len(archive)
        self.say("compare", f"{len(facts['files'])} files unpacked by the guest: every sha256 equal")
        self.say("compare", f"{len(archive)} bytes written back: sha256 {digest[:8]}... equal on the host")


def _tell(pipe: IO[str], line: str) -> None:
    pipe.write(line + "\n")
    pipe.flush()
